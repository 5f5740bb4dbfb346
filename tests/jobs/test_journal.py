"""The journal survives being cut short anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from trace_d2.jobs.journal import DONE, FAILED, JournalWriter, Record
from trace_d2.jobs.on_disk import read_journals

FIRST = Record("a", "a.jpg", DONE, "", ("x",), 0.5, finished=1.0, facts={"segments": 3})
SECOND = Record("b", "b\udcff.jpg", FAILED, "why\nso", finished=2.0)
# What the journal held before its facts stood together.
FORMAT_1 = (
    b'{"stem": "000000000009", "file_name": "000000000009.jpg", "status": "done", "reason": "", '
    b'"notes": ["x"], "seconds": 0.0231, "timestep": 400, "segments": 3, "things": 2, '
    b'"settings": "7f6dbbb4ef3a9f1c", "inputs": "40b1a1a9ba4f64e2", "finished": 1764190000.5, '
    b'"given": 0, "shares": [], "uncut": 1}\n'
)


def write(path: Path, *records: Record) -> Path:
    with JournalWriter(path) as journal:
        for record in records:
            journal.append(record)
    return path


def test_records_come_back_and_are_one_json_line_each(tmp_path: Path) -> None:
    path = write(tmp_path / "j", FIRST, SECOND)
    assert read_journals([path]) == {"a": FIRST, "b": SECOND}
    lines = path.read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["done", "failed"]


def test_the_worker_is_told_where_there_is_one(tmp_path: Path) -> None:
    made = replace(FIRST, stem="c", worker="node-1:17")
    path = write(tmp_path / "j", FIRST, made)
    first, second = map(json.loads, path.read_text().splitlines())
    assert ("worker" in first, second["worker"]) == (False, "node-1:17")
    assert read_journals([path]) == {"a": FIRST, "c": made}


def test_the_newest_record_counts_whatever_the_order_of_files(tmp_path: Path) -> None:
    newer = replace(FIRST, status=FAILED, finished=5.0)
    one, two = write(tmp_path / "1", FIRST, SECOND), write(tmp_path / "2", newer)
    for paths in ([one, two], [two, one]):
        assert read_journals(paths) == {"a": newer, "b": SECOND}


def test_any_cut_loses_at_most_the_last_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", FIRST, SECOND).read_bytes()
    first_line = whole.index(b"\n") + 1
    for length in range(len(whole)):
        torn = tmp_path / "torn"
        torn.write_bytes(whole[:length])
        expected = {"a": FIRST} if length >= first_line - 1 else {}
        if length == len(whole) - 1:  # all but the line end: still a whole record
            expected["b"] = SECOND
        assert read_journals([torn]) == expected
        write(torn, replace(SECOND, stem="c"))
        rewritten = read_journals([torn])
        assert "c" in rewritten
        assert set(rewritten) == {"c"} | ({"a"} if length >= first_line else set())


def test_within_a_file_later_lines_count_whatever_the_clock_said(tmp_path: Path) -> None:
    ahead = replace(FIRST, status=FAILED, finished=90_000.0)
    path = write(tmp_path / "1", ahead, FIRST)
    assert read_journals([path]) == {"a": FIRST}
    other = write(tmp_path / "2", replace(FIRST, status=FAILED, finished=0.5))
    assert read_journals([path, other]) == {"a": FIRST}


def test_a_record_is_later_than_the_one_it_follows(tmp_path: Path) -> None:
    ahead = replace(FIRST, status=FAILED, finished=90_000.0)
    done = FIRST.after(ahead)
    assert done.finished > ahead.finished
    assert (done.after(None), FIRST.after(replace(ahead, finished=0.5))) == (done, FIRST)
    one, two = write(tmp_path / "1", done), write(tmp_path / "2", ahead)
    assert read_journals([one, two]) == read_journals([two, one]) == {"a": done}


WRONG = {
    "stem": ["../a", "/a", "a\\b", "", None, 1, "./a", "a//b"],
    "file_name": ["../../etc/passwd", "/etc/passwd", "C:\\a.jpg", {}, None],
    "status": ["finished", None, 1, []],
    "reason": [None, 1, ["x"]],
    "notes": ["text", None, [1], {}],
    "seconds": ["1", None, True, -1.0, [1]],
    "inputs": [None, 1],
    "worker": [None, 1, ["x"]],
    "finished": ["1", None, True, -1.0, 1e300],
    "facts": [
        [], "x", {"timestep": "<b>"}, {"segments": None}, {"segments": [1]}, {"things": True},
        {"uncut": -1}, {"shares": 1}, {"shares": [1, 2]}, {"shares": ["1", 0, 0]},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_damaged_fields_are_no_record_and_told(tmp_path, caplog, field, value) -> None:
    path = write(tmp_path / "j", FIRST)
    line = json.dumps({**json.loads(path.read_text()), "stem": "b", field: value})
    path.write_text(f"{path.read_text()}{line}\n")
    assert read_journals([path]) == {"a": FIRST}
    assert "1 damaged lines are passed over" in caplog.text


def test_a_line_as_deep_as_can_be_is_no_record(tmp_path: Path) -> None:
    path = write(tmp_path / "j", FIRST)
    path.write_bytes(b"[" * 100_000 + b"\n" + path.read_bytes())
    assert read_journals([path]) == {"a": FIRST}


@pytest.mark.parametrize("line", [b"[]", b"1", b"{}", b'{"stem": "a"}', b"\xff\xfe", b"null"])
def test_strange_lines_are_passed_over(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "j", FIRST)
    path.write_bytes(line + b"\n" + path.read_bytes())
    assert read_journals([path]) == {"a": FIRST}


def test_lines_of_format_1_still_count(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(FORMAT_1)
    (record,) = read_journals([tmp_path / "j"]).values()
    facts = {"timestep": 400, "segments": 3, "things": 2, "given": 0, "shares": [], "uncut": 1}
    assert record == Record(
        "000000000009", "000000000009.jpg", DONE, "", ("x",), 0.0231, "40b1a1a9ba4f64e2",
        1764190000.5, facts,
    )  # fmt: skip
    write(tmp_path / "j", FIRST)  # a job of those days goes on
    assert list(read_journals([tmp_path / "j"])) == ["000000000009", "a"]
    assert read_journals([write(tmp_path / "2", record)]) == {record.stem: record}


def test_format_1_had_no_timestep_where_none_was_looked_for(tmp_path: Path) -> None:
    line = FORMAT_1.replace(b'"timestep": 400', b'"timestep": null')
    (tmp_path / "j").write_bytes(line)
    (record,) = read_journals([tmp_path / "j"]).values()
    assert "timestep" not in record.facts
