"""Who does the images of a job: this process, or several.

An executor takes entries, each with what was found out ahead, and yields their records as they
end. ``work(entry, ahead)`` gives the record of one; it can be pickled.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from trace_d2.jobs.journal import ImageEntry, Record

Work = Callable[[Any, Any], Record]
Task = tuple[ImageEntry, Any]  # an image, and what was found out ahead
Executor = Callable[[Work, Iterable[Task]], Generator[Record, None, None]]

AHEAD = 2  # images a worker that are read or waiting, so that memory stays bounded


class WorkerDiedError(RuntimeError):
    """A worker process ended by itself, mostly for want of memory."""


class DeviceFailedError(WorkerDiedError):
    """A process cannot go on, as its GPU fails whatever it is given."""


def build_executor(workers: int) -> Executor:
    """This process for one worker, else as many processes."""
    return partial(in_processes, workers) if workers > 1 else in_this_process


def in_this_process(work: Work, tasks: Iterable[Task]) -> Generator[Record, None, None]:
    """One after the other."""
    for entry, ahead in tasks:
        yield work(entry, ahead)


def in_processes(workers: int, work: Work, tasks: Iterable[Task]) -> Generator[Record, None, None]:
    """In ``workers`` processes of this machine. Raises WorkerDiedError if one does."""
    with contextlib.closing(WorkerPool(workers, work)) as pool:
        yield from pool.run(tasks)


class WorkerPool:
    """Processes of this machine that do images of one job until ``close``.

    Args:
        workers: how many.
        work: what they do.
    """

    def __init__(self, workers: int, work: Work) -> None:
        self._workers = workers
        # Spawned, as a fork of a process that runs CUDA or threads may hang.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, _start_worker, (work,))

    def run(self, tasks: Iterable[Task]) -> Generator[Record, None, None]:
        """The records of ``tasks`` as they end. Raises WorkerDiedError if a process died."""
        waiting: dict[Future[Record], ImageEntry] = {}
        try:
            for entry, ahead in tasks:
                waiting[self._pool.submit(_do_in_worker, entry, ahead)] = entry
                if len(waiting) >= AHEAD * self._workers:
                    yield from _ended(waiting)
            while waiting:
                yield from _ended(waiting)
        except BrokenProcessPool as error:
            names = ", ".join(entry.file_name for entry in waiting.values())
            raise WorkerDiedError(
                f"a worker process died while these were in work: {names}. It may have run out of "
                "memory: use fewer --workers. Finished images are safe; the same command continues"
            ) from error

    def close(self) -> None:
        """Let what is in work end, and end the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _ended(waiting: dict[Future[Record], ImageEntry]) -> list[Record]:
    """Wait for at least one of ``waiting``; removes and returns those that have ended."""
    ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
    records = [future.result() for future in ended]
    for future in ended:
        del waiting[future]
    return records


_work: Work | None = None


def _start_worker(work: Work) -> None:
    """Prepare a worker: no Ctrl-C (the main process ends it), one thread, no life as an orphan."""
    global _work
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = work


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do_in_worker(entry: Any, ahead: Any) -> Record:
    if _work is None:
        raise RuntimeError("the worker was not started by _start_worker")
    return _work(entry, ahead)
