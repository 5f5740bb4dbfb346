"""Refining that is cut short, run twice, or divided: no mask is lost, half-written or different."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from pathlib import Path

from trace_d2.io import atomic

NAMES = [f"n{number % 2}/s{number:02}.png" for number in range(7)]


def expected_output(job) -> bytes:
    """What an undisturbed run gives; removes it again."""
    assert job.run() == 0
    content = job.output.read_bytes()
    shutil.rmtree(job.work)
    job.output.unlink()
    return content


def test_after_kill_9_the_same_command_goes_on(mask_job, start_midway, capsys) -> None:
    mask_job.add(*NAMES)
    expected = expected_output(mask_job)
    process = start_midway(mask_job)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = len((mask_job.work / "journal.jsonl").read_text().splitlines())
    assert finished == 1
    assert not mask_job.output.exists()
    # As a kill within a write would leave it.
    leftovers = [
        mask_job.work / "annotations/n0/.trace_d2-0123abcd-1-0123abcd.tmp",
        mask_job.output.with_name(".trace_d2-0526570d-1-0123abcd.tmp"),
    ]
    for path in leftovers:
        path.write_bytes(b"half")
    with open(mask_job.work / "journal.jsonl", "a") as journal:
        journal.write('{"stem": "n0/s0')
    capsys.readouterr()
    assert mask_job.run() == 0
    assert f"7 refined ({finished} of them before)" in capsys.readouterr().out
    assert mask_job.output.read_bytes() == expected
    assert not any(path.exists() for path in leftovers)


def test_ctrl_c_stops_cleanly(mask_job, start_midway) -> None:
    mask_job.add(*NAMES)
    expected = expected_output(mask_job)
    process = start_midway(mask_job)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in said
    assert "Traceback" not in said
    assert mask_job.merge() == 3  # what there is can be used at once
    assert len(mask_job.refined()["images"]) == 1
    assert mask_job.run() == 0
    assert mask_job.output.read_bytes() == expected


def test_shards_merge_to_the_same_file(mask_job, start_midway, capsys) -> None:
    mask_job.add(*NAMES)
    expected = expected_output(mask_job)
    process = start_midway(mask_job, "--shard", "2/2")
    assert mask_job.run("--shard", "1/2") == 0
    assert f"--merge {mask_job.output}" in capsys.readouterr().out
    assert mask_job.run("--shard", "2/2") == 2
    assert "in use by another job (shard 2/2, process " in capsys.readouterr().err
    assert mask_job.run() == 2
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not mask_job.output.exists()
    assert mask_job.merge() == 0
    assert mask_job.output.read_bytes() == expected
    assert not list((mask_job.work / "shards").iterdir())


def test_a_shard_without_images_is_done_at_once(mask_job, capsys) -> None:
    mask_job.add("a.png")
    assert mask_job.run("--shard", "2/3") == 0
    assert "0 refined" in capsys.readouterr().out
    assert mask_job.merge() == 3
    assert mask_job.refined()["annotations"] == []
    assert mask_job.run("--shard", "1/3") == 0
    assert mask_job.merge() == 0
    assert len(mask_job.refined()["annotations"]) == 2


def test_workers_make_the_same_file(mask_job) -> None:
    mask_job.add(*NAMES)
    (mask_job.root / "edges/n1/s03.png").unlink()
    assert mask_job.run() == 3
    expected = mask_job.output.read_bytes()
    shutil.rmtree(mask_job.work)
    mask_job.output.unlink()
    assert mask_job.run("--workers", "2") == 3
    assert mask_job.output.read_bytes() == expected
    assert "no edge file" in mask_job.journal()["n1/s03"]["reason"]


def test_a_full_disk_stops_the_job_and_keeps_what_is_finished(
    mask_job, monkeypatch, capsys
) -> None:
    mask_job.add(*NAMES)
    expected = expected_output(mask_job)
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 24:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    assert mask_job.run() == 1
    said = capsys.readouterr().err
    assert re.search(r"stopped: cannot write to .*refined\.json\.work .*make room", said)
    finished = (mask_job.work / "journal.jsonl").read_text().count("\n")
    assert 1 <= finished < len(NAMES)
    assert not list(Path(mask_job.root).rglob("*.tmp"))
    monkeypatch.undo()
    assert mask_job.run() == 0
    assert f"7 refined ({finished} of them before)" in capsys.readouterr().out
    assert mask_job.output.read_bytes() == expected
