"""Who may write to an output folder: one whole job, or the shards of one division.

Locks are the operating system's, so they end with the process that holds them, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from trace_d2.jobs.holders import named_beside, read_holder
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.output import writing_to
from trace_d2.terminal import say

LOCKS = ".locks"
"""The folder of the locks, in the output."""

_GATE_SECONDS = 120.0  # jobs hold the gate only while they try the other locks
_PATIENCE = 3.0  # seconds of waiting after which there is something to say
_JOB_LOCK = re.compile(r"job(-[0-9]+-of-[0-9]+)?\.lock")
_SHARD = re.compile(r"-([0-9]+)-of-([0-9]+)")
_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


class FolderInUseError(RuntimeError):
    """Another process is writing to the output folder."""


class ShardInUseError(FolderInUseError):
    """Another process does this very shard; others are free."""


class NoLocksError(RuntimeError):
    """The output lies on a file system without locks, so that two jobs could write there."""


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from 1; 1/1 is the whole job."""

    index: int = 1
    count: int = 1

    @property
    def name(self) -> str:
        """``"I-of-N"``, for file names; empty for the whole job."""
        return "" if self.count == 1 else f"{self.index}-of-{self.count}"

    @property
    def title(self) -> str:
        """``"shard I/N"``, for people; empty for the whole job."""
        return "" if self.count == 1 else f"shard {self.index}/{self.count}"

    def take(self, entries: Sequence[ImageEntry]) -> list[ImageEntry]:
        """Every ``count``-th entry, so that shards see alike images and take alike long."""
        return list(entries[self.index - 1 :: self.count])


def shard_of(path: Path) -> Shard:
    """Whose journal or lock ``path`` is, by its name; the whole job where that names no shard."""
    found = _SHARD.search(path.name)
    return Shard(int(found[1]), int(found[2])) if found else Shard()


def job_locks(folder: Path) -> list[Path]:
    """The locks of jobs in ``folder``, held or not."""
    locks = folder / LOCKS
    return sorted(path for path in locks.glob("job*.lock") if _JOB_LOCK.fullmatch(path.name))


@contextlib.contextmanager
def folder_lock(folder: Path, shard: Shard) -> Iterator[None]:
    """Hold ``folder`` for ``shard`` within the block.

    A whole job (or a merge) wants the folder to itself; a shard only wants no whole job, no second
    process on the same shard, and no shards of another division.

    Raises:
        ShardInUseError: another process does this shard.
        FolderInUseError: another process holds the folder, or a shard of another division.
        NoLocksError: its file system has no locks; nothing is left of the try.
        OutputError: the folder cannot be written to.
    """
    locks = folder / LOCKS
    own = locks / (f"job-{shard.name}.lock" if shard.name else "job.lock")
    with contextlib.ExitStack() as held:
        with writing_to(folder), _removed_without_locks(locks):
            locks.mkdir(parents=True, exist_ok=True)
            _check_support(locks / "gate.lock")
            with hold_lock(locks / "gate.lock", _GATE_SECONDS):
                for path in job_locks(folder):
                    if path.name.partition("-of-")[2] != own.name.partition("-of-")[2]:
                        with hold_lock(path):
                            pass  # nobody holds it, or can take it before we pass the gate
                try:
                    held.enter_context(hold_lock(own))
                except FolderInUseError as error:
                    raise (ShardInUseError(str(error)) if shard.name else error) from None
            held.enter_context(named_beside(own))
        yield


def who_writes(folder: Path) -> str:
    """Which job writes to ``folder`` now, in words; empty if none does.

    The gate is held meanwhile, so that a job that starts just now waits instead of meeting a lock
    that we hold for a moment. Nobody writes to a folder that cannot be written to or locked.
    """
    locks = folder / LOCKS
    jobs = job_locks(folder)
    if not jobs or not os.access(locks, os.W_OK):
        return ""
    tried = locks / "gate.lock"
    try:
        _check_support(tried)
        with hold_lock(tried, _GATE_SECONDS):
            for tried in jobs:
                with hold_lock(tried):
                    pass
    except FolderInUseError:
        return _holder(tried)
    except (NoLocksError, PermissionError):
        return ""
    return ""


def is_locked(folder: Path) -> bool:
    """Whether a job writes to ``folder`` now."""
    return bool(who_writes(folder))


def ignores_case(folder: Path) -> bool:
    """Whether the file system of ``folder``, which we hold, takes A and a for one name."""
    return (folder / LOCKS.upper()).exists()


@contextlib.contextmanager
def hold_lock(path: Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold the lock ``path`` within the block.

    Raises:
        FolderInUseError: it isn't free within ``timeout`` seconds.
    """
    try:
        lock = FileLock(path).acquire(timeout=timeout)
    except Timeout:
        raise FolderInUseError(
            f"{path.parents[1]} is in use by another job ({_holder(path)}): {_remedy(path)}"
        ) from None
    with lock:
        yield


@contextlib.contextmanager
def hold_in_turn(path: Path, task: str) -> Iterator[None]:
    """Hold the lock ``path`` within the block, once it is free; says who is waited for.

    Args:
        task: what its holder does, as ``"measures edges"``.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        say(f"waiting for {read_holder(path) or 'another job'}, which {task} for all", error=True)
        lock.acquire(timeout=-1)
    try:
        with named_beside(path):
            yield
    finally:
        lock.release()


def _check_support(path: Path) -> None:
    """Raise a NoLocksError if ``path`` cannot be locked.

    Else filelock may take the mere existence of a file for a lock, which stays when its process is
    killed and blocks the folder.
    """
    try:
        import fcntl
    except ImportError:  # Windows locks in its own way
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise NoLocksError(
                f"the file system of {path.parents[1]} has no locks, without which two jobs could "
                "write there at once: choose an --output on a local disk, or have the file system "
                "mounted with locks (NFS: version 4, or a lock service)"
            ) from error
    finally:
        os.close(descriptor)  # which unlocks


@contextlib.contextmanager
def _removed_without_locks(locks: Path) -> Iterator[None]:
    """Leave no folder of locks behind, nor the folders made for it, where there are no locks."""
    made = [folder for folder in (locks, *locks.parents) if not folder.exists()]
    had_gate = (locks / "gate.lock").exists()
    try:
        yield
    except NoLocksError:
        with contextlib.suppress(OSError):
            if not had_gate:
                (locks / "gate.lock").unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()
        raise


def _holder(path: Path) -> str:
    index, _, count = path.stem.removeprefix("job-").partition("-of-")
    whole = {"gate": "just starting", "job": "a whole job or a merge"}
    holder, what = read_holder(path), whole.get(index, f"shard {index}/{count}")
    return f"{what}, {holder}" if holder else what


def _remedy(path: Path) -> str:
    """What to do about a lock that somebody holds."""
    holder = read_holder(path)
    if holder and holder.is_gone:
        return "that process has ended, but something that it started still runs: end that"
    remedy = "wait until it ends, or choose another --output"
    if holder and not holder.is_here:
        remedy += (
            f". If {holder.host} went down, its lock ends with it, on network file systems some "
            "minutes later: run the same command again then"
        )
    return remedy
