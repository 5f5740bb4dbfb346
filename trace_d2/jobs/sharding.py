"""Which part of a job a process does: as the command line says, or as what started it does.

``auto`` reads the variables of SLURM's job arrays, of ``srun``, of ``torchrun`` and of Kubernetes'
indexed Jobs. Those that lie within each other are multiplied: 4 tasks of an array with 8 processes
of ``torchrun`` each are 32 parts.
"""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trace_d2.devices import VISIBLE
from trace_d2.jobs.locks import Shard

_FORMS = "I/N as 1/4, auto, auto/N, or next/N"
_NEXT = "--shard next/N lets any number of processes take parts of N"


@dataclass(frozen=True)
class Part:
    """What ``--shard`` asks for.

    Attributes:
        shard: the part of the images; where parts are claimed, the first to try.
        claims: whether this process takes every part that nobody does and that is not finished,
            one after the other, of ``shard.count``.
        source: what started this process, in words; empty if nothing was asked.
        local: its rank among the processes that this machine runs of one launcher; None: alone.
    """

    shard: Shard
    claims: bool = False
    source: str = ""
    local: int | None = None


@dataclass(frozen=True)
class _Level:
    """One of several alike processes.

    Attributes:
        source: what it is, in words.
        index, count: which of how many, from 0; None: nobody says how many.
        alone: whether no launcher of ranks spans several of these.
    """

    source: str
    index: int
    count: int | None
    alone: bool = False


def parse_shard(text: str, environ: Mapping[str, str]) -> Part:
    """The part that ``text`` names: ``I/N`` with 1 <= I <= N, ``auto``, ``auto/N`` or ``next/N``.

    Raises:
        ValueError: it is none of these, or ``environ`` lacks or contradicts what it needs.
    """
    first, slash, second = text.partition("/")
    count = int(second) if second.isdecimal() and second.isascii() else 0
    if (slash and not count) or (not slash and first != "auto"):
        raise ValueError(f"--shard is {_FORMS}, with I in 1..N; got {text!r}")
    variables = _Variables(environ, text)
    if first == "auto":
        levels = _levels(variables)
        shard = _product(levels, count or None)
        source = ", ".join(level.source for level in levels)
        return Part(shard, source=source, local=_local(variables))
    if first == "next":
        return Part(Shard(_beginning(count), count), True, local=_local(variables))
    if first.isdecimal() and first.isascii() and 1 <= int(first) <= count:
        return Part(Shard(int(first), count))
    raise ValueError(f"--shard is {_FORMS}, with I in 1..N; got {text!r}")


def choose_gpu(local: int, gpus: Sequence[str]) -> str:
    """The GPU of the ``local``-th process of a machine, from 0, of those that it sees.

    Raises:
        ValueError: there are fewer GPUs than processes.
    """
    if local >= len(gpus):
        raise ValueError(
            f"this is process {local + 1} of its machine, of which it sees {len(gpus)} GPUs "
            f"({', '.join(gpus)}): start as many processes as there are GPUs, or set {VISIBLE} "
            "to one for each of them"
        )
    return gpus[local]


class _Variables:
    """Whole numbers of the environment, for ``option``, the value of ``--shard``."""

    def __init__(self, environ: Mapping[str, str], option: str) -> None:
        self.environ = environ
        self.option = option

    def __contains__(self, name: str) -> bool:
        return bool(self.environ.get(name))

    def number(self, name: str, because: str = "") -> int:
        """The value of ``name``. Raises a ValueError that says ``because`` if there is none."""
        text = self.environ.get(name, "")
        if not text:
            raise ValueError(
                f"--shard {self.option}: {because} but {name} is not set: set both, or unset both"
            )
        if not (text.isdecimal() and text.isascii()):
            raise ValueError(f"--shard {self.option}: {name} is {text!r}, which is no whole number")
        return int(text)

    def level(self, source: str, index: str, count: str) -> _Level:
        """Of the variables ``index`` and ``count``."""
        rank, ranks = self.number(index, f"{count} is set,"), self.number(count, f"{index} is set,")
        if rank >= ranks:
            raise ValueError(f"--shard auto: {index} is {rank}, which is not below {count} {ranks}")
        return _Level(f"{source} {rank} of {ranks}", rank, ranks)


def _levels(variables: _Variables) -> list[_Level]:
    """What this process is one of, the outermost first."""
    outer = [level for level in (_array_task(variables), _completion(variables)) if level]
    step, ranks = _step(variables), _ranks(variables)
    if ranks is None:
        levels = [*outer, *([step] if step else [])]
    elif "TORCHELASTIC_RUN_ID" not in variables:
        levels = [*_unless_the_same(outer, step, ranks), ranks]
    else:
        levels = [*_around_torchrun(outer, step, variables), ranks]
    if not levels:
        raise ValueError(
            "--shard auto: nothing says which part this is (no SLURM_ARRAY_TASK_ID, no "
            "SLURM_STEP_ID, no RANK, no JOB_COMPLETION_INDEX): start it by a job array, srun, "
            f"torchrun or an indexed Job (docs/cluster.md), or give --shard I/N; {_NEXT}"
        )
    return levels


def _array_task(variables: _Variables) -> _Level | None:
    """A task of SLURM's job array."""
    if "SLURM_ARRAY_TASK_ID" not in variables:
        return None
    because = "SLURM_ARRAY_TASK_ID is set,"
    task = variables.number("SLURM_ARRAY_TASK_ID")
    least, most, step, count = (
        variables.number(f"SLURM_ARRAY_TASK_{name}", because)
        for name in ("MIN", "MAX", "STEP", "COUNT")
    )
    index, rest = divmod(task - least, max(step, 1))
    if rest or (most - least) // max(step, 1) + 1 != count or not 0 <= index < count:
        raise ValueError(
            f"--shard auto: the job array has {count} tasks between {least} and {most}, with gaps, "
            f"so that it cannot be told which part task {task} is: submit a range without gaps "
            f"(what is finished is passed over), or {_NEXT}"
        )
    steps = f":{step}" if step > 1 else ""
    return _Level(f"SLURM array task {task} of {least}-{most}{steps}", index, count, alone=True)


def _step(variables: _Variables) -> _Level | None:
    """A task of ``srun``; in a batch script SLURM_PROCID is 0 however many tasks there are."""
    if "SLURM_STEP_ID" in variables:
        return variables.level("srun task", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    if "SLURM_NTASKS" in variables and variables.number("SLURM_NTASKS") > 1:
        if "TORCHELASTIC_RUN_ID" in variables:
            return None
        raise ValueError(
            f"--shard auto: the SLURM job has {variables.number('SLURM_NTASKS')} tasks, but this "
            "process is none of them: start it by srun, or ask for one task"
        )
    return None


def _ranks(variables: _Variables) -> _Level | None:
    """A process of ``torchrun``, or of another launcher that sets its variables."""
    if "RANK" not in variables and "WORLD_SIZE" not in variables:
        return None
    known = "torchrun" if "TORCHELASTIC_RUN_ID" in variables else "RANK"
    return variables.level(known, "RANK", "WORLD_SIZE")


def _completion(variables: _Variables) -> _Level | None:
    """A pod of a Kubernetes Job with ``completionMode: Indexed``, which tells no count."""
    if "JOB_COMPLETION_INDEX" not in variables:
        return None
    index = variables.number("JOB_COMPLETION_INDEX")
    return _Level(f"Kubernetes completion index {index}", index, None)


def _unless_the_same(outer: list[_Level], step: _Level | None, ranks: _Level) -> list[_Level]:
    """The levels around ``ranks`` that somebody set for whole machines or tasks."""
    levels = [*outer, *([step] if step else [])]
    inner = levels[-1] if levels else None
    if inner is None or inner.count == 1 or inner.alone:
        return levels
    if inner.index == ranks.index and inner.count in (None, ranks.count):
        return levels[:-1]
    raise ValueError(
        f"--shard auto: {inner.source} and {ranks.source} contradict each other: unset RANK and "
        "WORLD_SIZE if they are not meant"
    )


def _around_torchrun(
    outer: list[_Level], step: _Level | None, variables: _Variables
) -> list[_Level]:
    """The levels that each have a ``torchrun`` of their own.

    One that spans several machines has an agent in each task of ``srun``, or in each pod.
    """
    agents = variables.number("GROUP_WORLD_SIZE", "torchrun is running,")
    levels = [*outer, *([step] if step else [])]
    if agents == 1 or not levels:
        return levels
    inner = levels[-1]
    if inner.count in (agents, None) and not inner.alone:
        return levels[:-1]
    if inner.alone and inner.count != agents:
        return levels  # a torchrun over the machines of each task, as started by hand
    raise ValueError(
        f"--shard auto: torchrun spans {agents} machines, which does not fit {inner.source}: start "
        "one torchrun a task of srun (--nnodes as many as tasks), or torchrun --standalone"
    )


def _product(levels: list[_Level], count: int | None) -> Shard:
    """The part of ``levels`` within each other; ``count``: how many parts the command says.

    Raises:
        ValueError: nobody says how many, or they say otherwise than ``count``.
    """
    sources = ", ".join(level.source for level in levels)
    known = 1
    for level in levels:
        known *= level.count or 1
    if all(level.count for level in levels):
        total = known
    elif count is None:
        raise ValueError(
            f"--shard auto: {sources}, and Kubernetes does not tell how many there are: give "
            f"--shard auto/N with N the Job's completions{f' times {known}' if known > 1 else ''}"
        )
    else:
        total = count if count % known == 0 else 0
    if count not in (None, total):
        raise ValueError(
            f"--shard auto/{count}: {sources}, which is no division into {count}: leave out "
            f"/{count}, or {_NEXT}"
        )
    index = 0
    for level in levels:
        index = index * (level.count or total // known) + level.index
    if index >= total:
        raise ValueError(
            f"--shard auto/{count}: {sources}, which is beyond {count} parts: give the Job's "
            "completions"
        )
    return Shard(index + 1, total)


def _beginning(count: int) -> int:
    """The first of ``count`` parts to try, another one in most processes."""
    return zlib.crc32(f"{socket.gethostname()}/{os.getpid()}".encode()) % count + 1


def _local(variables: _Variables) -> int | None:
    """The rank of this process on its machine, where several have one launcher."""
    if "LOCAL_RANK" in variables:
        return variables.number("LOCAL_RANK")
    if "SLURM_STEP_ID" in variables and variables.number("SLURM_STEP_NUM_TASKS") > 1:
        return variables.number("SLURM_LOCALID", "SLURM_STEP_ID is set,")
    return None
