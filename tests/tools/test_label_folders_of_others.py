"""Outputs that hold more than ours, links and forged names; and names too long."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trace_d2.jobs.job import UsageError
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.locks import is_locked
from trace_d2.jobs.store import JobStore

CHANGED = ("--overwrite", "MODEL.TRACE.LABELS.NECK_DEPTH", "0.5")


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All below ``folder``, but its locks, with what would tell of a change."""
    paths = sorted(path for path in folder.rglob("*") if ".locks" not in path.parts)
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_ino, read(p)) for p in paths}


def read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def spoil(path: Path) -> Callable[[], int]:
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    return lambda: path.write_bytes(whole)


class TestClocks:
    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offset, right = 0.0, time.time
        monkeypatch.setattr(time, "time", lambda: right() + self.offset)

    @pytest.mark.parametrize("offset", [86400.0, -86400.0])
    def test_a_clock_that_steps_back_loses_no_label(self, label_job, capsys, offset) -> None:
        label_job.add("a", "b")
        repair = spoil(label_job.root / "semantic/b.png")
        self.offset = offset
        assert label_job.run() == 3
        repair()
        self.offset = 0.0
        assert label_job.run() == 0
        assert "2 labelled (1 of them before), 0 skipped, 0 failed" in capsys.readouterr().out
        assert [image["id"] for image in label_job.coco("panoptic.json")["images"]] == [1, 2]

    def test_shards_of_machines_whose_clocks_differ(self, label_job) -> None:
        label_job.add("a", "b", "c")
        repair = spoil(label_job.root / "semantic/a.png")
        self.offset = 86400.0
        assert label_job.run("--shard", "1/2") == 3
        repair()
        self.offset = -86400.0
        assert label_job.run("--shard", "2/2") == 0
        self.offset = 0.0
        assert label_job.run("--shard", "1/3") == 0  # divided anew
        assert label_job.merge() == 0
        assert [image["id"] for image in label_job.coco("panoptic.json")["images"]] == [1, 2, 3]

    def test_a_count_that_is_not_what_the_folder_has_is_an_error(
        self, label_job, monkeypatch, capsys
    ) -> None:
        label_job.add("a", "b")
        plain = JobStore.join_journals

        def join(store: JobStore) -> dict:
            (store.root / "annotations/b.json").unlink()  # something else tidies up
            return plain(store)

        monkeypatch.setattr(JobStore, "join_journals", join)
        assert label_job.run() == 1
        said = capsys.readouterr().err
        assert re.search(
            r"stopped: 1 of 2 images came out otherwise than .*out tells .*b\.png", said
        )
        assert "run the same command again" in said
        monkeypatch.undo()
        assert label_job.run() == 0
        assert len(label_job.coco("panoptic.json")["images"]) == 2


class TestLinks:
    MEMBERS = (
        "journal.jsonl", "settings.json", "images.json", "report.html", "panoptic.json",
        "instances.json", "calibration.json", "panoptic", "semantic", "annotations", "previews",
        ".locks", ".locks/job.lock", ".locks/gate.lock", "annotations/a.json", "panoptic/a.png",
    )  # fmt: skip

    @pytest.mark.parametrize("member", MEMBERS)
    def test_links_in_an_output_are_refused(self, label_job, member, capsys) -> None:
        label_job.add("a", "b")
        assert label_job.run() == 0
        theirs = label_job.root / "theirs"
        (label_job.output / member).rename(theirs)
        (label_job.output / member).symlink_to(theirs)
        before = state(label_job.root)
        for run in (label_job.run, lambda: label_job.run(*CHANGED), label_job.merge):
            assert run() == 2
            said = capsys.readouterr().err
            assert re.search(rf"out/{re.escape(member)} is a link, .*: remove it, or choose", said)
        assert state(label_job.root) == before

    def test_a_link_to_a_shards_journal_is_refused(self, label_job) -> None:
        label_job.add("a", "b")
        assert label_job.run("--shard", "1/2") == 0
        journal = label_job.output / "shards/journal-1-of-2.jsonl"
        journal.rename(label_job.root / "theirs")
        journal.symlink_to(label_job.root / "theirs")
        before = state(label_job.root)
        assert label_job.run("--shard", "1/2") == 2
        assert label_job.merge() == 2
        assert state(label_job.root) == before

    def test_a_link_as_output_is_as_good_as_a_folder(self, label_job, capsys) -> None:
        label_job.add("a")
        (label_job.root / "elsewhere").mkdir()
        label_job.output.symlink_to(label_job.root / "elsewhere")
        assert label_job.run() == 0
        assert label_job.output.is_symlink()
        assert label_job.run(*CHANGED) == 0
        label_job.output.unlink()
        label_job.output.symlink_to(label_job.root / "nowhere")
        assert label_job.run() == 2
        assert "out is a link to nothing: choose a folder" in capsys.readouterr().err

    def test_links_among_refined_masks_are_refused(self, mask_job, capsys) -> None:
        mask_job.add("n0/a.png", "n0/b.png")
        assert mask_job.run() == 0
        theirs = mask_job.root / "theirs"
        for member in (
            mask_job.output,
            mask_job.work / "annotations/n0",
            mask_job.work / "left_out.jsonl",
        ):
            member.rename(theirs)
            member.symlink_to(theirs)
            before = state(mask_job.output.parent), state(theirs), read(theirs)
            for extra in ((), ("--overwrite", "MODEL.TRACE.BGP.BETA", "9.0")):
                assert mask_job.run(*extra) == 2
                assert "is a link" in capsys.readouterr().err
            assert before == (state(mask_job.output.parent), state(theirs), read(theirs))
            member.unlink()
            theirs.rename(member)

    def test_no_plain_file_is_refused(self, label_job, capsys) -> None:
        label_job.add("a")
        assert label_job.run() == 0
        (label_job.output / "journal.jsonl").unlink()
        os.mkfifo(label_job.output / "journal.jsonl")
        assert label_job.run() == 2  # and does not wait for somebody to write into it
        assert "journal.jsonl is no plain file" in capsys.readouterr().err


class TestForeignFiles:
    FOREIGN = (
        "notes.txt", "mine/a.png", "mine/.trace_d2-0123abcd-1-0123abcd.tmp", ".cache.tmp",
        "panoptic/mine.txt", "annotations/mine/x.json", "semantic/.a.png.12-3456abcd.tmp",
        "shards/journal-of-mine.jsonl", ".locks/jobs-of-mine.lock", "previews/z.json",
    )  # fmt: skip

    def test_they_stay_whatever_runs(self, label_job, caplog) -> None:
        label_job.add("a", "b")
        assert label_job.run() == 0
        for name in self.FOREIGN:
            (label_job.output / name).parent.mkdir(exist_ok=True)
            (label_job.output / name).write_bytes(b"theirs")
        for run in (label_job.run, label_job.merge, lambda: label_job.run(*CHANGED)):
            assert run() == 0
            assert {read(label_job.output / name) for name in self.FOREIGN} == {b"theirs"}
        assert re.search(
            r"5 files in the folders of .*out are not of this tool and stay", caplog.text
        )
        assert {record["status"] for record in label_job.journal().values()} == {"done"}

    def test_overwriting_removes_results_of_images_that_are_gone(self, label_job) -> None:
        label_job.add("a", "b")
        assert label_job.run() == 0
        for folder in ("images", "semantic", "edges"):
            (label_job.root / folder / "b.png").unlink()
        assert label_job.run() == 0
        assert label_job.run(*CHANGED) == 0
        assert not [p for p in label_job.output.rglob("*") if p.stem == "b"]

    def test_overwriting_removes_nothing_unless_it_can_remove_all(
        self, label_job, monkeypatch, capsys
    ) -> None:
        label_job.add("a", "b")
        assert label_job.run() == 0
        before = state(label_job.output)
        plain = os.access
        shut = label_job.output / "previews"
        monkeypatch.setattr(os, "access", lambda p, m: Path(p) != shut and plain(p, m))
        assert label_job.run(*CHANGED) == 1
        assert re.search(r"cannot remove files from .*previews, and have", capsys.readouterr().err)
        assert state(label_job.output) == before


class TestEmptyOutputs:
    def test_one_without_results_is_free_for_other_settings(self, label_job) -> None:
        label_job.add("a")
        repair = spoil(label_job.root / "semantic/a.png")
        assert label_job.run() == 3
        repair()
        assert label_job.run(edges=["--no-edges"]) == 0
        assert label_job.run() == 2

    def test_a_backbone_that_cannot_be_loaded_leaves_nothing(
        self, label_job, monkeypatch, capsys
    ) -> None:
        def build(cfg: Any) -> None:
            raise UsageError("the backbone cannot be loaded")

        label_job.add("a")
        monkeypatch.setattr("trace_d2.jobs.kinds.edge_job.build_edge_source", build)
        assert label_job.run(edges=()) == 2
        assert "cannot be loaded" in capsys.readouterr().err
        assert [path.name for path in label_job.output.iterdir()] == [".locks"]
        assert label_job.run() == 0

    def test_ctrl_c_before_the_first_label_promises_none(
        self, label_job, monkeypatch, capsys
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        label_job.add("a")
        with monkeypatch.context() as patch:
            patch.setattr(LabelJob, "count_edges", interrupt)
            assert label_job.run() == 130
        said = capsys.readouterr().err
        assert "No image was labelled yet: run the same command again" in said
        assert "safe" not in said
        assert label_job.run() == 0


class TestLocks:
    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
    def test_a_file_system_without_locks_is_refused(
        self, label_job, monkeypatch, capsys, number
    ) -> None:
        def flock(descriptor: int, operation: int) -> None:
            raise OSError(number, os.strerror(number))

        label_job.add("a")
        before = state(label_job.root)
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", flock)
            assert label_job.run() == 2
            assert re.search(
                r"file system of .*out has no locks, .*: choose an --output on a local disk",
                capsys.readouterr().err,
            )
        assert state(label_job.root).keys() == before.keys()
        assert label_job.run() == 0
        before = state(label_job.root)
        monkeypatch.setattr(fcntl, "flock", flock)
        for status in (label_job.run(), label_job.run(*CHANGED), label_job.merge()):
            assert status == 2
        assert state(label_job.root) == before
        assert not is_locked(label_job.output)


class TestNames:
    def test_a_name_of_240_characters_is_a_name(self, label_job) -> None:
        label_job.add("n" * 240, "b")
        assert label_job.run() == 0
        assert len(label_job.coco("panoptic.json")["images"]) == 2

    def test_a_name_that_is_too_long_fails_alone(self, label_job, capsys) -> None:
        stem = "n" * 251  # with .png the longest there is; .json is longer
        label_job.add(stem, "b")
        assert label_job.run() == 3
        assert f"no file can be named after {stem}.png" in capsys.readouterr().err
        assert "rename the image" in label_job.reason(stem)
        assert [image["file_name"] for image in label_job.coco("panoptic.json")["images"]] == [
            "b.png"
        ]
        assert not (label_job.output / f"panoptic/{stem}.png").exists()

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG])
    def test_a_name_that_the_file_system_refuses_fails_alone(
        self, label_job, monkeypatch, number
    ) -> None:
        label_job.add("a", "b")
        plain = os.replace

        def replace(source: Path, target: Path) -> None:
            if target.name == "a.png":
                raise OSError(number, os.strerror(number))
            plain(source, target)

        monkeypatch.setattr(os, "replace", replace)
        assert label_job.run() == 3
        assert os.strerror(number) in label_job.reason("a")
        assert [image["file_name"] for image in label_job.coco("panoptic.json")["images"]] == [
            "b.png"
        ]

    @pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 1), (errno.EROFS, 2)])
    def test_a_full_or_read_only_disk_stops_the_job(
        self, label_job, monkeypatch, number, status
    ) -> None:
        def replace(source: Path, target: Path) -> None:
            raise OSError(number, os.strerror(number))

        label_job.add("a", "b")
        monkeypatch.setattr(os, "replace", replace)
        assert label_job.run() == status  # 2: nothing was begun

    @pytest.mark.parametrize("field", ["stem", "file_name"])
    @pytest.mark.parametrize(
        "name", ["../secret", "/etc/passwd", "..\\secret", "C:\\x", "a/../../x"]
    )
    def test_names_that_lead_outside_are_refused_at_merge(
        self, label_job, capsys, field, name
    ) -> None:
        label_job.add("a", "b")
        assert label_job.run() == 0
        (label_job.root / "secret.json").write_text('{"height": 1, "width": 1, "segments": []}')
        path = label_job.output / "images.json"
        content = json.loads(path.read_text())
        content["images"][0][field] = name
        path.write_text(json.dumps(content))
        journal = label_job.output / "journal.jsonl"
        line = json.loads(journal.read_text().splitlines()[0])
        journal.write_text(journal.read_text() + json.dumps({**line, field: name}) + "\n")
        before = state(label_job.root)
        assert label_job.merge() == 2
        assert re.search(r"images\.json is damaged \(the (file )?name ", capsys.readouterr().err)
        assert state(label_job.root) == before
        assert label_job.run() == 0  # writes the list anew, and passes over the line
        assert name not in json.dumps(label_job.coco("panoptic.json"))

    def test_absent_images_whose_names_lead_outside_are_listed_quoted(self, mask_job) -> None:
        mask_job.add("a.png")
        mask_job.content["images"].append(
            {"id": 7, "file_name": "../../gone.png", "height": 24, "width": 32}
        )
        mask_job.run()
        assert mask_job.merge() == 0
        assert sorted(mask_job.journal()) in (["a"], ["..%2F..%2Fgone.png", "a"])

    def test_names_steer_no_terminal(self, label_job, capsys) -> None:
        stem = "a\x1b[2J\u202egpj"
        label_job.add(stem)
        spoil(label_job.root / f"semantic/{stem}.png")
        assert label_job.run() == 3
        printed = capsys.readouterr()
        assert "failed: a\\x1b[2J\\u202egpj.png" in printed.err
        assert not re.search("[\x1b\u202e]", printed.out + printed.err)
