"""Scenes: each returns in words how its jobs ended, and adds to the faults what went wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import TYPE_CHECKING

from soaking.jobs import Command, SmallJob, results, spoil, state

if TYPE_CHECKING:
    from soak import Soak

_DAY = 86400.0
_SAME, _REFUSED = "the same bytes", "refused, nothing changed"
_syncs = RawValue("l")  # shared with the processes that are forked off
_CHANGED = ("MODEL.TRACE.BGP.BETA", "9.0", "MODEL.TRACE.LABELS.NECK_DEPTH", "0.5")


def clocks(soak: Soak) -> str:
    """Clocks a day ahead, then right; clocks that jump at every look; shards that differ."""
    for name in soak.kinds:
        job, shards = soak.jobs[name], soak.jobs[f"{name} by shards"]
        (whole,) = job.steps
        output = soak.new_output(job)
        for _ in range(2):
            jumping = clock(*soak.rng.uniform(-_DAY, _DAY, 97))
            soak.start(whole, output, jumping).kill_at("images", 0.05, everything=True)
        soak.run(whole, output, clock(-_DAY, _DAY, 0.0))
        soak.compare(job, output, f"{name}, by clocks that jump")

        # An image fails, is repaired, and done again by machines whose clocks are behind.
        tries = {
            "a day ahead": (whole, whole),
            "different": (shards.steps[0], *shards.steps[1:], shards.steps[0], shards.steps[2]),
        }
        for clocks, steps in tries.items():
            expected = _repaired(soak, job, steps, [0.0] * len(steps))
            ahead = [2 * _DAY - _DAY * rank for rank in range(len(steps))]
            found = _repaired(soak, job, steps, ahead)
            soak.compare_files(found, expected, f"{name}, by clocks that are {clocks}")
    return _SAME


def _repaired(
    soak: Soak, job: SmallJob, steps: Sequence[Command], offsets: Sequence[float]
) -> dict[str, bytes]:
    """Files after ``steps`` at clocks that are off by ``offsets``; one image is broken at first.

    The first step that joins before that image is done again must tell of it.
    """
    output = soak.new_output(job)
    repair = spoil(soak.root / "in/images/s001.png")
    try:
        for rank, (step, offset) in enumerate(zip(steps, offsets, strict=True)):
            joins_early = not step.words and rank < len(steps) - 1
            soak.run(step, output, clock(offset), status=3 if not rank or joins_early else 0)
            if not rank:
                repair()
    finally:
        repair()
    return results(output.parent)


def two_writers(soak: Soak) -> str:
    """Commands on an output that another one writes to, or that start at one moment."""
    refusals = 0
    for name in soak.kinds:
        job, shards = soak.jobs[name], soak.jobs[f"{name} by shards"]
        (whole,) = job.steps
        for other in (whole, *shards.steps):
            output = soak.new_output(job)
            first = soak.start(whole, output)
            first.reach("images")
            second = soak.start(other, output, log="second.txt")
            statuses = second.wait().status, first.wait().status
            refusals += statuses[0] == 2
            if statuses not in ((2, 0), (0, 0)):
                soak.faults.append(f"{name} and {other.on(output)} at once: status {statuses}")
            if statuses[0] == 0:  # it came when the first had ended; a shard's journal waits then
                soak.run(whole, output)
            soak.compare(job, output, f"{name}, while another command tried")
        output = soak.new_output(job)
        both = [soak.start(whole, output, log=log) for log in ("first.txt", "second.txt")]
        ended = [process.wait().status for process in both]
        refusals += ended.count(2)
        if 0 not in ended or not set(ended) <= {0, 2}:
            soak.faults.append(f"{name}, started twice: status {ended}")
        soak.run(whole, output)
        soak.compare(job, output, f"{name}, started twice")
    return f"{_SAME}; {refusals} second writers refused"


def full_disk(soak: Soak) -> str:
    """A disk that is full at some point, and then has room."""
    how = "a small tmpfs" if may_mount(soak.root) else "no mount allowed: a patched fsync"
    for name in soak.kinds:
        job = soak.jobs[name]
        (whole,) = job.steps
        output = soak.new_output(job)
        soak.run(whole, output, counting_syncs)
        used = sum(path.lstat().st_blocks for path in output.parent.rglob("*")) // 2
        for share in soak.rng.uniform(0.05, 0.9, 3):
            output = soak.new_output(job)
            if may_mount(soak.root):
                with mounted(output.parent, f"size={int(share * used)}k"):
                    soak.run(whole, output, status=1)
                    remount(output.parent, "size=64m")
                    soak.run(whole, output)
                    soak.compare(job, output, f"{name}, on a disk that was full")
            else:
                soak.run(whole, output, full_after(int(share * _syncs.value)), status=1)
                soak.run(whole, output)
                soak.compare(job, output, f"{name}, on a disk that was full")
    return f"{_SAME} once there is room ({how})"


def read_only(soak: Soak) -> str:
    """An output that cannot be written to: new, half done, and done."""
    if not may_mount(soak.root) and os.geteuid() == 0:
        return "not tried: no mount allowed, and root may write everywhere"
    for name in soak.kinds:
        job = soak.jobs[name]
        (whole,) = job.steps
        merge = Command(job.tool, ())
        output = soak.new_output(job)
        with mounted(output.parent) if may_mount(soak.root) else contextlib.nullcontext():
            refused(soak, whole, output, 2, locked(output.parent))
            soak.start(whole, output).kill_at("images", 0.02, everything=True)
            refused(soak, whole, output, 1, locked(output.parent))
            soak.run(whole, output)
            for command in (whole, merge, overwriting(whole)):
                refused(soak, command, output, 1, locked(output.parent))
    return _REFUSED


def links(soak: Soak) -> str:
    """An output that is a link is as good as a folder; links in it are refused."""
    for name in soak.kinds:
        job = soak.jobs[name]
        (whole,) = job.steps
        output = soak.new_output(job)
        root = output if name == "labels" else output.with_name(f"{output.name}.work")
        elsewhere = soak.root / "elsewhere"
        elsewhere.mkdir()
        root.symlink_to(elsewhere)
        soak.run(whole, output)
        root.unlink()
        elsewhere.rename(root)
        soak.compare(job, output, f"{name}, where a link leads to")
        elsewhere.mkdir()
        for member in members(root, output):
            moved = elsewhere / "theirs"
            member.rename(moved)
            member.symlink_to(moved)
            for command in (whole, overwriting(whole), Command(job.tool, ())):
                refused(soak, command, output, 2)
            if not moved.exists():
                soak.faults.append(f"{name}: what the link {member.name} leads to is gone")
            member.unlink()
            moved.rename(member)
        shutil.rmtree(elsewhere)
        soak.run(whole, output)
        soak.compare(job, output, f"{name}, once the links are gone")
    return f"a link as output: {_SAME}; links in it: {_REFUSED}"


def no_locks(soak: Soak) -> str:
    """File systems without locks."""
    for number in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
        for name in soak.kinds:
            job = soak.jobs[name]
            (whole,) = job.steps
            output = soak.new_output(job)
            refused(soak, whole, output, 2, prepare=without_locks(number))
            soak.run(whole, output)
            for command in (whole, overwriting(whole), Command(job.tool, ())):
                refused(soak, command, output, 2, prepare=without_locks(number))
            soak.compare(job, output, f"{name}, once there are locks")
    return _REFUSED


SCENES: dict[str, Callable[[Soak], str]] = {
    "clocks": clocks,
    "two-writers": two_writers,
    "full-disk": full_disk,
    "read-only": read_only,
    "links": links,
    "no-locks": no_locks,
}


def refused(
    soak: Soak,
    command: Command,
    output: Path,
    status: int,
    guard: contextlib.AbstractContextManager[None] | None = None,
    prepare: Callable[[], None] | None = None,
) -> None:
    """``command`` must end with ``status`` and change nothing, here or where links lead."""
    before = state(soak.root / "outputs"), state(soak.root / "elsewhere")
    with guard or contextlib.nullcontext():
        soak.run(command, output, prepare, status)
    after = state(soak.root / "outputs"), state(soak.root / "elsewhere")
    if before != after:
        soak.faults.append(f"{command.on(output)} was refused, and changed files")


def overwriting(command: Command) -> Command:
    """The same with other settings, and ``--overwrite``."""
    return Command(command.tool, (*command.words, "--overwrite", *_CHANGED))


def members(root: Path, output: Path) -> Iterator[Path]:
    """Files and folders of a finished output, one of each kind."""
    yield from (path for path in sorted(root.iterdir()))
    yield root / ".locks/job.lock"
    yield next(iter(sorted((root / "annotations").iterdir())))
    yield next(iter(sorted((root / "previews").iterdir())))
    if output != root:
        yield output


def clock(*offsets: float) -> Callable[[], None]:
    """Have a process see a clock that is off by each of ``offsets`` (seconds) in turn."""

    def prepare() -> None:
        right, looks = time.time, iter(range(10**9))
        time.time = lambda: right() + offsets[next(looks) % len(offsets)]

    return prepare


def counting_syncs() -> None:
    """Have a process count its syncs, from 0 on."""
    plain, _syncs.value = os.fsync, 0

    def fsync(descriptor: int) -> None:
        _syncs.value += 1
        plain(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


def full_after(calls: int) -> Callable[[], None]:
    """Have a process see a full disk from its ``calls``-th sync on."""

    def prepare() -> None:
        plain, left = os.fsync, iter(range(calls, -(10**9), -1))

        def fsync(descriptor: int) -> None:
            if next(left) <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            plain(descriptor)

        os.fsync = fsync  # type: ignore[assignment]

    return prepare


def without_locks(number: int) -> Callable[[], None]:
    """Have a process see file systems that answer with the error ``number`` to locks."""

    def prepare() -> None:
        import fcntl

        def flock(descriptor: int, operation: int) -> None:
            raise OSError(number, os.strerror(number))

        fcntl.flock = flock  # type: ignore[assignment]

    return prepare


def may_mount(root: Path) -> bool:
    """Whether this process may mount a file system."""
    place = root / "mount"
    place.mkdir(exist_ok=True)
    with contextlib.suppress(OSError, subprocess.CalledProcessError), mounted(place):
        return True
    return False


@contextlib.contextmanager
def mounted(place: Path, options: str = "size=64m") -> Iterator[None]:
    """A file system of its own at ``place`` within the block."""
    mount("-t", "tmpfs", "-o", options, "tmpfs", str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextlib.contextmanager
def locked(place: Path) -> Iterator[None]:
    """Nothing can be written below ``place`` within the block."""
    if place.is_mount():
        remount(place, "ro")
    else:
        modes = {path: path.stat().st_mode for path in (place, *place.rglob("*"))}
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        if place.is_mount():
            remount(place, "rw")
        else:
            for path, mode in modes.items():
                path.chmod(mode)


def remount(place: Path, options: str) -> None:
    """Change the options of what is mounted at ``place``."""
    mount("-o", f"remount,{options}", str(place))


def mount(*words: str) -> None:
    """Run ``mount``; raises CalledProcessError where that is not allowed."""
    subprocess.run(["mount", *words], check=True, capture_output=True)
