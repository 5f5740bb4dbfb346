"""Locks that keep two jobs from writing one output folder, and let shards of one job do so.

The locks are the operating system's, so they end with the process that holds them, however it
ends. A whole job (or a merge) wants the folder to itself; a shard only wants no whole job, no
second process on the same shard, and no shards of another division.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from trace_d2.jobs.entries import Shard
from trace_d2.jobs.store import GATE_SECONDS, writing_to


class FolderInUseError(RuntimeError):
    """Another process is writing to the output folder."""


@contextlib.contextmanager
def folder_lock(folder: str | Path, shard: Shard) -> Iterator[None]:
    """Hold ``folder`` for ``shard`` within the block.

    Raises:
        FolderInUseError: another process holds the folder, this shard or one of another division.
        OutputError: the folder cannot be written to.
    """
    locks = Path(folder) / ".locks"
    with writing_to(Path(folder)):
        locks.mkdir(parents=True, exist_ok=True)
    own = locks / ("job.lock" if shard.whole else f"job-{shard.name}.lock")
    with contextlib.ExitStack() as stack:
        with _held(locks / "gate.lock", folder, GATE_SECONDS):
            for path in sorted(locks.glob("job*.lock")):
                if path != own and _excludes(path, own):
                    with _held(path, folder):
                        pass  # nobody holds it, and nobody can take it before we pass the gate
            stack.enter_context(_held(own, folder))
        yield


@contextlib.contextmanager
def _held(path: Path, folder: str | Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold the lock ``path``; raises FolderInUseError if it is not free within ``timeout`` s."""
    lock = FileLock(path)
    with writing_to(Path(folder)):
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            raise FolderInUseError(
                f"{folder} is in use by another job ({_describe(path)}): wait until it ends, or "
                "choose another --output"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _excludes(other: Path, own: Path) -> bool:
    """Whether ``own`` must not be held together with ``other``."""
    if own.name == "job.lock" or other.name == "job.lock":
        return True
    return own.name.split("-of-")[1] != other.name.split("-of-")[1]


def _describe(path: Path) -> str:
    if path.name == "gate.lock":
        return "just starting"
    if path.name == "job.lock":
        return "a whole job or a merge"
    index, _, count = path.stem.removeprefix("job-").partition("-of-")
    return f"shard {index}/{count}"
