"""Which part a process does, as SLURM, srun, torchrun and Kubernetes say."""

from __future__ import annotations

import itertools

import pytest

from trace_d2.jobs.locks import Shard
from trace_d2.jobs.sharding import choose_gpu, parse_shard


def array(task: int, least: int = 1, most: int = 4, step: int = 1, count: int = 4) -> dict:
    """What SLURM 22.05 sets in a task of an array."""
    facts = {"ID": task, "MIN": least, "MAX": most, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in facts.items()}


def srun(task: int, tasks: int, local: int = 0) -> dict:
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_LOCALID")
    values = map(str, (task, tasks, tasks, local))
    return {"SLURM_STEP_ID": "0", **dict(zip(names, values, strict=True))}


def ranks(rank: int, size: int) -> dict:
    return {"RANK": str(rank), "WORLD_SIZE": str(size)}


def torchrun(rank: int, size: int, agents: int = 1, local: int = 0) -> dict:
    own = {"TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": str(agents)}
    return {**own, **ranks(rank, size), "LOCAL_RANK": str(local)}


def pod(index: int) -> dict:
    return {"JOB_COMPLETION_INDEX": str(index)}


BATCH = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}  # of every batch script


@pytest.mark.parametrize(
    ("text", "environ", "part"),
    [
        ("2/4", {}, (2, 4)),
        ("1/1", array(3), (1, 1)),
        ("auto", array(1) | BATCH, (1, 4)),
        ("auto", array(4), (4, 4)),
        ("auto", array(0, 0, 9, 3, 4), (1, 4)),
        ("auto", array(9, 0, 9, 3, 4), (4, 4)),
        ("auto", array(7, 7, 7, 1, 1), (1, 1)),
        ("auto/4", array(2), (2, 4)),
        ("auto", srun(0, 1), (1, 1)),
        ("auto", srun(2, 3), (3, 3)),
        ("auto", array(2) | srun(1, 2), (4, 8)),
        ("auto", torchrun(5, 8), (6, 8)),
        ("auto", torchrun(5, 8) | {"SLURM_NTASKS": "8"}, (6, 8)),  # in a batch script
        ("auto", array(2) | torchrun(5, 8), (14, 32)),
        ("auto", srun(1, 2) | torchrun(3, 4), (8, 8)),  # one torchrun a task
        ("auto", srun(1, 2) | torchrun(5, 8, agents=2), (6, 8)),  # one over both tasks
        ("auto", array(2) | srun(1, 2) | torchrun(5, 8, agents=2), (14, 32)),
        ("auto", array(2) | torchrun(5, 8, agents=2), (14, 32)),
        ("auto", ranks(1, 3), (2, 3)),
        ("auto", srun(1, 3) | ranks(1, 3), (2, 3)),  # RANK=$SLURM_PROCID
        ("auto", pod(1) | ranks(1, 3), (2, 3)),
        ("auto/6", pod(0), (1, 6)),
        ("auto/6", pod(5), (6, 6)),
        ("auto/16", pod(1) | torchrun(3, 8), (12, 16)),
        ("auto/16", pod(1) | torchrun(11, 16, agents=2), (12, 16)),
        ("auto", pod(1) | torchrun(11, 16, agents=2), (12, 16)),
    ],
)
def test_parts(text: str, environ: dict, part: tuple[int, int]) -> None:
    found = parse_shard(text, environ)
    assert found.shard == Shard(*part)
    assert not found.claims
    assert bool(found.source) == text.startswith("auto")


def test_an_array_of_torchruns_does_every_part_once() -> None:
    places = itertools.product(range(0, 9, 3), range(4))
    parts = [
        parse_shard("auto", array(task, 0, 6, 3, 3) | torchrun(rank, 4)).shard
        for task, rank in places
    ]
    assert parts == [Shard(index, 12) for index in range(1, 13)]


def test_a_process_that_claims_begins_anywhere() -> None:
    part = parse_shard("next/64", {})
    assert part.claims
    assert part.shard.count == 64
    assert 1 <= part.shard.index <= 64
    assert parse_shard("next/1", {}).shard == Shard()


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("0/4", {}, r"--shard is I/N as 1/4, auto, auto/N, or next/N, with I in 1\.\.N"),
        ("5/4", {}, "with I in 1"),
        ("²/4", {}, "--shard is"),
        ("1", {}, "got '1'"),
        ("a/b", {}, "--shard is"),
        ("1/", {}, "--shard is"),
        ("-1/4", {}, "--shard is"),
        ("auto/0", array(1), "--shard is"),
        ("auto/", array(1), "--shard is"),
        ("next", {}, "got 'next'"),
        ("next/0", {}, "--shard is"),
        ("auto", {}, "nothing says which part.*SLURM_ARRAY_TASK_ID.*JOB_COMPLETION_INDEX.*next/N"),
        ("auto", BATCH, "nothing says which part"),
        ("auto/4", {}, "nothing says which part"),
        ("auto", array(7, 3, 7, 1, 2), "2 tasks between 3 and 7, with gaps.*next/N"),
        ("auto", array(4, 1, 4, 1, 3), "with gaps"),
        ("auto", array(5, 1, 4), "with gaps"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "3"}, "but SLURM_ARRAY_TASK_MIN is not set"),
        ("auto", array(3) | {"SLURM_ARRAY_TASK_MAX": "x"}, "MAX is 'x', which is no whole number"),
        ("auto/8", array(3), "task 3 of 1-4, which is no division into 8: leave out /8"),
        ("auto", array(1) | BATCH | {"SLURM_NTASKS": "2"}, "has 2 tasks.*start it by srun"),
        ("auto", {"RANK": "0"}, "RANK is set, but WORLD_SIZE is not set"),
        ("auto", {"WORLD_SIZE": "2"}, "WORLD_SIZE is set, but RANK is not set"),
        ("auto", ranks(2, 2), "RANK is 2, which is not below WORLD_SIZE 2"),
        ("auto", srun(1, 3) | ranks(0, 1), "srun task 1 of 3 and RANK 0 of 1 contradict"),
        ("auto", pod(1) | ranks(0, 2), "contradict each other"),
        ("auto", srun(1, 3) | torchrun(5, 8, agents=2), "spans 2 machines.*fit srun task 1 of 3"),
        ("auto", array(1) | torchrun(5, 8, agents=4), "spans 4 machines"),
        ("auto", pod(1), "Kubernetes does not tell how many there are: give --shard auto/N"),
        ("auto", pod(1) | torchrun(1, 8), "completions times 8"),
        ("auto/12", pod(1) | torchrun(1, 8), "no division into 12"),
        ("auto/4", pod(4), "beyond 4 parts"),
        ("next/4", {"LOCAL_RANK": "x"}, "--shard next/4: LOCAL_RANK is 'x'"),
    ],
)
def test_what_is_refused(text: str, environ: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_shard(text, environ)


def test_processes_of_a_machine_have_a_gpu_each() -> None:
    assert parse_shard("auto", torchrun(5, 8, local=1)).local == 1
    assert parse_shard("next/9", torchrun(5, 8, local=1)).local == 1
    assert parse_shard("auto", srun(3, 4, local=2)).local == 2
    assert parse_shard("auto", srun(0, 1) | array(2)).local is None  # all its GPUs are its own
    assert parse_shard("1/2", torchrun(5, 8, local=1)).local is None
    assert choose_gpu(1, ["4", "GPU-5f", "6"]) == "GPU-5f"
    with pytest.raises(ValueError, match=r"process 3 of its machine.*sees 2 GPUs \(0, 1\)"):
        choose_gpu(2, ["0", "1"])
