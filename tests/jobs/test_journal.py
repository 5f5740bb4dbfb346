"""The journal survives being cut short anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from trace_d2.jobs.journal import DONE, FAILED, JournalWriter, Record, read_journals

FIRST = Record("a", "a.jpg", DONE, notes=("x",), seconds=0.5, segments=3, finished=1.0)
SECOND = Record("b", "b\udcff.jpg", FAILED, "why\nso", timestep=300, finished=2.0, shares=(0.5, 0))


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


@pytest.mark.parametrize("line", [b"[]", b"1", b"{}", b'{"stem": "a"}', b"\xff\xfe", b"null"])
def test_strange_lines_are_passed_over(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "j", FIRST)
    path.write_bytes(line + b"\n" + path.read_bytes())
    assert read_journals([path]) == {"a": FIRST}


def test_lines_written_before_a_field_was_added_still_count(tmp_path: Path) -> None:
    path = write(tmp_path / "j", FIRST)
    content = json.loads(path.read_text())
    del content["given"], content["shares"], content["uncut"]
    path.write_text(json.dumps(content) + "\n")
    assert read_journals([path]) == {"a": FIRST}
