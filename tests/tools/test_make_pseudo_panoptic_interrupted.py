"""Jobs that are cut short, run twice, or divided: no label is lost, half-written or different."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trace_d2.io import atomic
from trace_d2.jobs.job import Job
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.locks import FolderInUseError, Shard, folder_lock

STEMS = [f"s{number:02}" for number in range(7)]


def expected_contents(job) -> dict[str, bytes]:
    """What an undisturbed run gives; removes it again."""
    assert job.run() == 0
    contents = job.contents()
    shutil.rmtree(job.output)
    return contents


def test_after_kill_9_the_same_command_goes_on(label_job, start_midway, capsys) -> None:
    label_job.add(*STEMS)
    expected = expected_contents(label_job)
    process = start_midway(label_job)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    written = {p: p.stat().st_mtime_ns for p in (label_job.output / "panoptic").glob("*.png")}
    finished = len((label_job.output / "journal.jsonl").read_text().splitlines())
    assert finished == 1
    # As a kill within a write would leave it.
    (label_job.output / "panoptic/.trace_d2-0123abcd-1-0123abcd.tmp").write_bytes(b"half")
    with open(label_job.output / "journal.jsonl", "a") as journal:
        journal.write('{"stem": "s0')
    capsys.readouterr()
    assert label_job.run() == 0
    assert f"7 labelled ({finished} of them before)" in capsys.readouterr().out
    assert label_job.contents() == expected
    redone = sum(path.stat().st_mtime_ns != stamp for path, stamp in written.items())
    assert redone <= 1  # only a label whose journal line was not written yet


def test_ctrl_c_stops_cleanly(label_job, start_midway) -> None:
    label_job.add(*STEMS)
    expected = expected_contents(label_job)
    process = start_midway(label_job)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in said
    assert "Traceback" not in said
    assert label_job.merge() == 3  # what there is can be used at once
    assert len(label_job.coco("panoptic.json")["images"]) == 1
    assert label_job.run() == 0
    assert label_job.contents() == expected


def test_two_jobs_at_once(label_job, start_midway, capsys) -> None:
    label_job.add(*STEMS)
    process = start_midway(label_job)
    assert label_job.run() == 2
    held = rf"\(a whole job or a merge, process {process.pid} on \S+, since [-\d]+ [:\d]+\)"
    assert re.search(rf"out is in use by another job {held}: wait", capsys.readouterr().err)
    assert label_job.tool.main(["--status", str(label_job.output)]) == 4
    said = capsys.readouterr().out
    assert re.search(rf"\d of {len(STEMS)} images done, 0 skipped, 0 failed, \d to do", said)
    assert re.search(rf"whole job +\S+:{process.pid} +running", said)
    assert label_job.run("--shard", "1/2") == 2
    assert label_job.merge() == 2
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert label_job.tool.main(["--status", str(label_job.output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == len(STEMS)
    assert label_job.run() == 0


def test_shards_run_at_once_and_merge_to_the_same_files(label_job, start_midway, capsys) -> None:
    label_job.add(*STEMS)
    expected = expected_contents(label_job)
    process = start_midway(label_job, "--shard", "2/3")
    assert label_job.run("--shard", "1/3") == 0
    assert label_job.run("--shard", "2/3") == 2
    assert "in use by another job (shard 2/3, process " in capsys.readouterr().err
    assert label_job.run("--shard", "1/2") == 2  # another division would label images twice
    assert label_job.run() == 2
    assert label_job.merge() == 2
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert label_job.merge() == 3
    assert "2 not labelled yet: run the missing shards" in capsys.readouterr().out
    assert label_job.run("--shard", "3/3") == 0
    assert "--merge" in capsys.readouterr().out
    assert label_job.merge() == 0
    assert label_job.contents() == expected
    assert sorted(label_job.journal()) == STEMS
    assert not list((label_job.output / "shards").iterdir())
    assert label_job.run() == 0
    assert "7 labelled (7 of them before)" in capsys.readouterr().out


def test_shards_may_drop_labels_of_other_settings(label_job) -> None:
    label_job.add(*STEMS)
    assert label_job.run() == 0
    for shard in ("1/2", "2/2"):
        arguments = ("--shard", shard, "--overwrite")
        assert label_job.run(*arguments, edges=["--no-edges"]) == 0
    assert label_job.merge() == 0
    assert {record["things"] for record in label_job.journal().values()} == {2}


def test_workers_make_the_same_files(label_job) -> None:
    label_job.add(*STEMS)
    (label_job.root / "edges/s03.png").unlink()
    assert label_job.run() == 3
    expected = label_job.contents()
    shutil.rmtree(label_job.output)
    assert label_job.run("--workers", "2") == 3
    assert label_job.contents() == expected
    assert "no edge file" in label_job.reason("s03")


def test_a_dead_worker_is_told(label_job, start_midway, tmp_path, capfd) -> None:
    label_job.add(*STEMS)
    process = start_midway(label_job, "--workers", "2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs Linux to find the workers")
    workers = [pid for pid in children.read_text().split() if is_worker(pid)]
    assert len(workers) == 2
    os.kill(int(workers[0]), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"stopped: a worker process died while .*\.png.*fewer --workers", said)
    assert label_job.run() == 0


def test_workers_end_with_a_killed_job(label_job, start_midway) -> None:
    label_job.add(*STEMS)
    process = start_midway(label_job, "--workers", "2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs Linux to find the workers")
    workers = [pid for pid in children.read_text().split() if is_worker(pid)]
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(is_worker(pid) for pid in workers):
        assert time.monotonic() < deadline, "orphans"
        time.sleep(0.1)
    assert label_job.run() == 0


def is_worker(pid: str) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_a_full_disk_stops_the_job_and_keeps_what_is_finished(
    label_job, monkeypatch, capsys
) -> None:
    label_job.add(*STEMS)
    expected = expected_contents(label_job)
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    assert label_job.run() == 1
    said = capsys.readouterr().err
    assert re.search(r"stopped: cannot write to .*out .*the disk is full: make room", said)
    finished = (label_job.output / "journal.jsonl").read_text().count("\n")
    assert 1 <= finished < len(STEMS)
    assert not list(label_job.output.rglob("*.tmp"))
    monkeypatch.undo()
    assert label_job.run() == 0
    assert f"7 labelled ({finished} of them before)" in capsys.readouterr().out
    assert label_job.contents() == expected


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs to mount a disk"
)
def test_a_disk_that_really_is_full(label_job) -> None:
    label_job.add(*STEMS)
    expected = expected_contents(label_job)
    label_job.output.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(label_job.output)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount")
    try:
        assert label_job.run() == 1
        finished = (label_job.output / "journal.jsonl").read_text().count("\n")
        assert 1 <= finished < len(STEMS)
        bigger = ["mount", "-o", "remount,size=8m", str(label_job.output)]
        subprocess.run(bigger, check=True)
        assert label_job.run() == 0
        assert label_job.contents() == expected
    finally:
        subprocess.run(["umount", str(label_job.output)], check=True)


def test_an_interrupt_between_files_leaves_the_image_to_be_done(label_job, monkeypatch) -> None:
    label_job.add(*STEMS)
    expected = expected_contents(label_job)
    for owner, target in ((LabelJob, "pictures"), (LabelJob, "write"), (Job, "_record")):
        plain, calls = getattr(owner, target), []

        def cut_short(self, *inputs, plain=plain, calls=calls, **more):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return plain(self, *inputs, **more)

        with monkeypatch.context() as patch:
            patch.setattr(owner, target, cut_short)
            assert label_job.run() == 130
        assert label_job.run() == 0
        assert label_job.contents() == expected
        shutil.rmtree(label_job.output)


def test_locks_exclude_what_they_should(tmp_path: Path) -> None:
    whole, first, second, other = Shard(), Shard(1, 2), Shard(2, 2), Shard(1, 3)
    allowed = {(first, second), (second, first)}
    for holder in (whole, first, second, other):
        for comer in (whole, first, second, other):
            with folder_lock(tmp_path, holder):
                if (holder, comer) in allowed:
                    with folder_lock(tmp_path, comer):
                        continue
                with pytest.raises(FolderInUseError), folder_lock(tmp_path, comer):
                    pass
    with folder_lock(tmp_path, whole):
        pass
