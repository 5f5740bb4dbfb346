"""What keeps a folder of results whole: locks, and errors of writing that say what to do.

The locks keep two jobs from writing one folder, and let shards of one job do so. They are the
operating system's, so they end with the process that holds them, however it ends. A whole job (or
a merge) wants the folder to itself; a shard only wants no whole job, no second process on the same
shard, and no shards of another division.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from trace_d2.jobs.entries import Shard

_GATE_SECONDS = 30.0  # the gate is held only while the other locks are tried


class FolderInUseError(RuntimeError):
    """Another process is writing to the output folder."""


class OutputError(RuntimeError):
    """The folder takes no more files: the disk is full, or not ours to write to."""


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raise an OutputError that says what to do where writing to ``folder`` fails in the block."""
    try:
        yield
    except OSError as error:
        remedy = "make it writable"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "the disk is full: make room"
        raise OutputError(
            f"cannot write to {folder} ({error.strerror or error}): {remedy}. Finished images "
            "are safe, and the same command continues"
        ) from error


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
        with _held(locks / "gate.lock", folder, _GATE_SECONDS):
            for path in sorted(locks.glob("job*.lock")):
                if path != own and _excludes(path, own):
                    with _held(path, folder):
                        pass  # nobody holds it, and nobody can take it before we pass the gate
            stack.enter_context(_held(own, folder))
        yield


def is_locked(folder: Path) -> bool:
    """Whether a job writes to ``folder`` now.

    The gate is held meanwhile, so that a job that starts just now waits instead of meeting a lock
    that we hold for a moment. Nobody writes to a folder that cannot be written to.
    """
    locks = folder / ".locks"
    jobs = sorted(locks.glob("job*.lock"))
    if not jobs or not os.access(locks, os.W_OK):
        return False
    try:
        with FileLock(locks / "gate.lock").acquire(timeout=_GATE_SECONDS):
            for path in jobs:
                with FileLock(path).acquire(timeout=0):
                    pass
    except Timeout:
        return True
    return False


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
