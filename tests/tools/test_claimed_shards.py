"""Jobs whose parts are claimed, or given by a launcher: the same labels as one process makes."""

from __future__ import annotations

import os
import shutil
import signal

import numpy as np
import pytest

from trace_d2 import devices
from trace_d2.jobs.locks import Shard, folder_lock

STEMS = [f"s{number:02}" for number in range(7)]


@pytest.fixture
def expected(label_job) -> dict[str, bytes]:
    """What an undisturbed run of the job gives."""
    label_job.add(*STEMS)
    assert label_job.run() == 0
    contents = label_job.contents()
    shutil.rmtree(label_job.output)
    return contents


def test_parts_of_a_killed_process_are_done_by_others(
    label_job, expected, start_midway, capsys
) -> None:
    lost = start_midway(label_job, "--shard", "next/3")
    capsys.readouterr()
    assert label_job.run("--shard", "next/3") == 0
    said = capsys.readouterr().out
    assert "2 of 3 parts were done here; others do 1 still" in said
    lost.send_signal(signal.SIGKILL)
    lost.communicate()
    assert label_job.merge() == 3
    assert label_job.run("--shard", "next/3") == 0
    assert "1 of 3 parts were done here, and none is left: python" in capsys.readouterr().out
    assert label_job.run("--shard", "next/3") == 0
    assert "0 of 3 parts were done here, and none is left" in capsys.readouterr().out
    assert label_job.merge() == 0
    assert label_job.contents() == expected


def test_what_failed_is_tried_once_by_all_processes(label_job, capsys, monkeypatch) -> None:
    label_job.add(*STEMS)
    (label_job.root / "edges/s03.png").unlink()
    assert label_job.run("--shard", "next/7") == 3
    assert "6 labelled (0 of them before), 0 skipped, 1 failed" in capsys.readouterr().out
    assert label_job.run("--shard", "next/7") == 0
    assert "0 of 7 parts were done here, and none is left" in capsys.readouterr().out
    label_job.save("edges/s03.png", np.zeros((24, 32), np.uint8))
    assert label_job.run("--shard", "next/7") == 0  # its inputs are others now
    assert "1 labelled (0 of them before), 0 skipped, 0 failed" in capsys.readouterr().out
    (label_job.output / "panoptic/s05.png").unlink()
    assert label_job.run("--shard", "next/7") == 0
    assert "1 of 7 parts were done here" in capsys.readouterr().out
    assert label_job.merge() == 0


def test_claims_and_other_jobs(label_job, capsys) -> None:
    label_job.add(*STEMS)
    assert label_job.run("--shard", "next/1") == 0
    assert "1 of 1 parts were done here, and none is left" in capsys.readouterr().out
    with folder_lock(label_job.output, Shard(2, 4)):
        edges = ["--no-edges"]
        assert label_job.run("--shard", "next/3", "--overwrite", edges=edges) == 2
        assert "in use by another job (shard 2/4" in capsys.readouterr().err
        assert label_job.run("--shard", "next/4", "--limit", "3") == 0
    assert label_job.run("--shard", "next/3", "--overwrite", edges=edges) == 0
    assert "3 of 3 parts were done here" in capsys.readouterr().out


def test_a_job_array_makes_the_labels(label_job, expected, monkeypatch, capsys) -> None:
    facts = {"MIN": 0, "MAX": 4, "STEP": 2, "COUNT": 3}
    for name, value in facts.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    for task in (4, 0, 2):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        assert label_job.run("--shard", "auto") == 0
        said = f"note: --shard auto is part {task // 2 + 1} of 3 (SLURM array task {task} of 0-4:2)"
        assert said in capsys.readouterr().out
    assert label_job.merge() == 0
    assert label_job.contents() == expected


def test_ranks_take_their_gpu_before_the_job_begins(label_job, monkeypatch, capsys) -> None:
    label_job.add(*STEMS)
    monkeypatch.setattr(devices, "_nvml_devices", lambda: 8)
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    for given, gpu in (("4,7", "7"), ("5", "5")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert label_job.run("--shard", "auto") == 0
        assert f"part 2 of 2 (RANK 1 of 2; GPU {gpu})" in capsys.readouterr().out
        assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu
    monkeypatch.setenv("LOCAL_RANK", "8")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert label_job.run("--shard", "auto") == 2
    assert "process 9 of its machine, of which it sees 8 GPUs" in capsys.readouterr().err
    monkeypatch.setattr(devices, "_nvml_devices", lambda: None)
    assert label_job.run("--shard", "auto") == 0
    assert "GPU 8)" in capsys.readouterr().out
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(devices, "_nvml_devices", lambda: 0)
    assert label_job.run("--shard", "auto") == 0
    assert "part 2 of 2 (RANK 1 of 2)\n" in capsys.readouterr().out
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_what_is_wrong_is_said_with_the_rest(label_job, capsys) -> None:
    label_job.add(*STEMS)
    assert label_job.run("--shard", "auto", "--images-json", "missing.json") == 2
    said = capsys.readouterr().err
    assert "several things are wrong" in said
    assert "--shard auto: nothing says which part this is" in said
    assert "missing.json" in said
    assert not label_job.output.exists()
