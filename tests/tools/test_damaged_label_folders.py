"""Files of a label folder whose content is damaged or forged."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trace_d2.jobs.engine import merge_folder
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.output import ForeignFolderError, OutputError
from trace_d2.jobs.store import JobStore

FOLDERS = ("settings.json", "images.json", "annotations/a.json", "calibration.json")
VALUES = (None, [], {}, "x", -1, 1e308, True, [[[]]], "\x1b[2J", "<b>")


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a JSON, those of long lists to the first two."""
    yield path
    items: Any = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = list(enumerate(content))[:2]
    for key, value in items:
        yield from places(value, (*path, key))


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """``content`` with ``value`` at the end of ``path``."""
    if not path:
        return value
    changed = copy.deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


class TestDamagedFiles:
    """Every value of every file replaced by what it cannot be: told, or made again."""

    @pytest.mark.parametrize("name", [*FOLDERS, "previews/a.json"])
    def test_merging(self, label_job, capsys, name) -> None:
        label_job.add("a", "b")
        assert label_job.run() == 0
        whole, path = label_job.contents(), label_job.output / name
        content = json.loads(path.read_text())
        spoiled = [
            json.dumps(with_value(content, place, value)).encode()
            for rank, place in enumerate(places(content))
            for value in VALUES[rank % 3 :: 3]
        ]
        for data in [*spoiled, b"", b"{", b"\xff\xfe", b"[" * 100_000]:
            path.write_bytes(data)
            status = label_job.merge()
            assert status in (0, 2, 3), data[:200]
            printed = capsys.readouterr()
            assert "\x1b" not in printed.out + printed.err
            if status == 2:
                assert re.search(r"error: .*out.*: ", printed.err), (data[:200], printed.err)
                assert not re.search("subscriptable|iterable|indices|recursion", printed.err)
            elif status == 0 and name not in ("images.json", "settings.json", "annotations/a.json"):
                assert label_job.contents() == whole, data[:200]

    def test_an_image_whose_files_are_gone_is_not_labelled_yet(self, label_job, capsys) -> None:
        label_job.add("a", "b")
        assert label_job.run() == 0
        (label_job.output / "panoptic" / "a.png").unlink()
        assert label_job.merge() == 3
        assert "1 not labelled yet" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["images.json", "calibration.json"])
    def test_running_again_heals(self, label_job, name) -> None:
        label_job.add("a", "b")
        assert label_job.run() == 0
        whole = label_job.contents()
        for data in (b"", b"[]", b"null", b'{"images": null}', b"[" * 100_000):
            (label_job.output / name).write_bytes(data)
            assert label_job.run() == 0
            assert label_job.contents() == whole

    def test_a_removed_note_is_made_again(self, label_job, capsys) -> None:
        label_job.add("a", "b")
        assert label_job.run() == 0
        whole, path = label_job.contents(), label_job.output / "annotations/a.json"
        path.write_text('{"height": 24, "width": "32"}')
        assert label_job.run() == 2
        said = capsys.readouterr().err
        assert re.search(
            r"annotations/a\.json is damaged .*'32', not a whole number.*remove it", said
        )
        path.unlink()
        assert label_job.run() == 0
        assert label_job.contents() == whole

    @pytest.mark.parametrize(
        "line", [b"{", b"[]", b"null", b'{"number": 1}', b"\xff", b"[" * 100_000]
    )
    def test_a_list_of_what_is_left_out(self, mask_job, capsys, line) -> None:
        mask_job.add("a.png")
        assert mask_job.run() == 0
        (mask_job.work / "left_out.jsonl").write_bytes(line + b"\n")
        assert mask_job.merge() == 2
        assert "left_out.jsonl is damaged in line 1" in capsys.readouterr().err
        assert mask_job.run() == 0


def test_settings_of_another_version_are_refused(label_job, capsys) -> None:
    label_job.add("a")
    assert label_job.run() == 0
    path = label_job.output / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9}))
    assert label_job.run() == 2
    assert "has format 9, which this version does not know" in capsys.readouterr().err


def test_errors_have_one_kind_each(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/journal.jsonl").symlink_to(tmp_path)
    with pytest.raises(ForeignFolderError, match="is a link"):
        JobStore(tmp_path / "out", LabelJob.layout).check_place()
    with pytest.raises(FileNotFoundError, match=r"no settings\.json in .*out"):
        merge_folder(LabelJob, JobStore(tmp_path / "out", LabelJob.layout))
    with pytest.raises(OutputError, match="choose a shorter name"):
        JobStore(tmp_path / ("n" * 300), LabelJob.layout).check_place()
    shutil.rmtree(tmp_path / "out")
