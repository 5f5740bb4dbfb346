"""Processes that work: whichever of them die, and whenever, that is told and nothing waits."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from trace_d2.jobs.executors import WorkerDiedError, WorkerPool, deaf_to_interrupts
from trace_d2.jobs.journal import DONE, ImageEntry, Record

ENTRIES = [ImageEntry(f"s{n:02}", f"s{n:02}.png", n) for n in range(24)]


def work(entry: ImageEntry, ahead: Any) -> Record:
    """Tells how much it was given; ``s99`` goes wrong, ``s98`` dies."""
    if entry.stem == "s99":
        raise ValueError("no such pixel")
    if entry.stem == "s98":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return Record(entry.stem, entry.file_name, DONE, reason=str(ahead.nbytes))


@pytest.fixture(scope="module")
def lasting_pool() -> Iterator[WorkerPool]:
    """For tests in which everything is done and nobody dies."""
    with contextlib.closing(WorkerPool(3, work)) as pool:
        yield pool


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with contextlib.closing(WorkerPool(3, work)) as pool:
        yield pool


def tasks(*more: str) -> Iterator[tuple[ImageEntry, np.ndarray]]:
    """More than a pipe takes at once, each."""
    for entry in [*ENTRIES, *(ImageEntry(stem, f"{stem}.png", 0) for stem in more)]:
        yield entry, np.zeros(2**20, np.uint8)


def test_they_do_all_again_and_again(lasting_pool: WorkerPool) -> None:
    for _ in range(2):
        records = sorted(lasting_pool.run(tasks()), key=lambda record: record.stem)
        assert [record.stem for record in records] == [entry.stem for entry in ENTRIES]
        assert {record.reason for record in records} == {str(2**20)}


def test_what_goes_wrong_there_is_raised_here(pool: WorkerPool) -> None:
    with pytest.raises(ValueError, match="no such pixel") as told:
        list(pool.run(tasks("s99")))
    assert "in work" in str(told.value.__cause__)


def test_one_that_dies_is_told_with_what_it_held(pool: WorkerPool) -> None:
    with pytest.raises(WorkerDiedError, match=r"in work: [^:]*s98\.png.*fewer --workers"):
        list(pool.run(tasks("s98")))


@pytest.mark.parametrize(("count", "after"), [(3, 0), (1, 1), (2, 1)])
def test_death_never_hangs(count: int, after: int) -> None:
    """Of the newest or all, as they start or as the first results come."""
    with contextlib.closing(WorkerPool(3, work)) as pool:
        records = pool.run(tasks())
        for _ in range(after):
            next(records)
        for worker in pool._workers[-count:]:
            worker.process.kill()
        with pytest.raises(WorkerDiedError):
            list(records)


def test_ctrl_c_while_they_start_is_nothing_to_them(capfd) -> None:
    with contextlib.closing(WorkerPool(2, work)) as pool:
        for delay in (0.0, 0.02, 0.1, 0.1):  # before Python has begun, and as it imports
            time.sleep(delay)
            for worker in pool._workers:
                os.kill(worker.process.pid, signal.SIGINT)
        assert len(list(pool.run(tasks()))) == len(ENTRIES)
    assert "Traceback" not in capfd.readouterr().err


def test_ctrl_c_as_a_process_starts_is_raised_once_it_has() -> None:
    started = []

    def start() -> None:
        with deaf_to_interrupts():
            signal.raise_signal(signal.SIGINT)
            started.append(1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGINT, before)
    assert started


def test_an_end_in_the_middle_of_a_message_is_one() -> None:
    """As Ctrl-C makes it, most likely while they start and take in nothing yet."""
    with contextlib.closing(WorkerPool(1, work)) as pool:
        (worker,) = pool._workers
        os.write(worker.tasks.fileno(), (1000).to_bytes(4, "big") + b"the first of 1000")
    assert worker.process.exitcode == 0


def test_those_that_are_told_to_end_leave_nothing(pool: WorkerPool) -> None:
    records = pool.run(tasks())
    next(records)
    records.close()
    ends = [worker.process for worker in pool._workers]
    pool.close()
    assert [process.exitcode for process in ends] == [0, 0, 0]


def test_large_images_are_given_out_alone(lasting_pool: WorkerPool) -> None:
    """Of 30 megapixels each, three workers have two at once; of 100, one."""
    sizes = {entry.stem: 30_000_000 for entry in ENTRIES[:8]}
    sizes |= {entry.stem: 100_000_000 for entry in ENTRIES[2:4]}
    given: list[str] = []
    done: list[str] = []
    most = 0

    def told() -> Iterator[tuple[ImageEntry, np.ndarray]]:
        nonlocal most
        for entry in ENTRIES[:8]:
            held = [sizes[stem] for stem in given if stem not in done]
            assert sum(held) <= 72_000_000 or len(held) == 1
            most = max(most, len(held))
            given.append(entry.stem)
            yield entry, np.zeros(1)

    with patch.object(lasting_pool, "_pixels", lambda entry: sizes[entry.stem]):
        for record in lasting_pool.run(told()):
            done.append(record.stem)
    assert sorted(done) == given
    assert most == 2
