from __future__ import annotations

import json

import pytest

from trace_d2.io import json_files
from trace_d2.io.json_files import FieldError


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert json_files.read_json(path) == {"a": 1}


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"[1,", b"\xff\xfe["])
def test_what_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is .*: make or write it again"):
        json_files.read_json(path)


def test_an_absent_file_is_called_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no list of images at .*x\.json: look again"):
        json_files.read_json(tmp_path / "x.json", "list of images", "look again")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b.jpg", "a b.jpg"),
        ("café", "café"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("a\nb", "a\\nb"),
        ("\ud800", "\\ud800"),
        (3.5, "3.5"),
        ([[[[[1]]]]], "[[[[...]]]]"),
    ],
)
def test_values_are_shown_on_one_line_without_what_steers_a_terminal(value, text):
    assert json_files.shown(value) == text


def test_long_values_are_cut():
    assert len(json_files.shown(list(range(10_000)))) < 60
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    assert len(json_files.shown(deep)) < 60


@pytest.mark.parametrize(
    ("read", "value", "wanted"),
    [
        (json_files.whole_number, 3, 3),
        (json_files.whole_number, 3.0, 3),
        (json_files.record_id, "3", "3"),
        (json_files.record_id, 3.0, 3),
        (json_files.flag, True, 1),
        (json_files.flag, 0.0, 0),
        (json_files.flag, None, 0),
        (json_files.number, 2, 2.0),
    ],
)
def test_fields(read, value, wanted):
    assert read(value) == wanted
    assert type(read(value)) is type(wanted)


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (json_files.whole_number, (True, "3", 3.5, None, [3], float("nan"), 1e999)),
        (json_files.record_id, (True, 3.5, None, [3], {}, float("inf"))),
        (json_files.flag, ("0", 2, 1e308, [], {}, -1)),
        (json_files.number, (True, "0.5", None, float("nan"), 10**400, [1])),
    ],
)
def test_fields_that_hold_something_else(read, values):
    for value in values:
        with pytest.raises(FieldError, match=r"^is "):
            read(value)
