"""Who does the images of a job: this process, or several.

An executor takes entries, each with what was found out ahead, and yields their records as they
end. ``work(entry, ahead)`` gives the record of one; it can be pickled.
"""

from __future__ import annotations

import contextlib
import multiprocessing.context
import multiprocessing.process
import os
import pickle
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from trace_d2.jobs.journal import ImageEntry, Record
from trace_d2.parallel import PIXELS_A_WORKER

Work = Callable[[Any, Any], Record]
Task = tuple[ImageEntry, Any]  # an image, and what was found out ahead
Executor = Callable[[Work, Iterable[Task]], Generator[Record, None, None]]
Pixels = Callable[[Any], int]  # of an image, 0 where that is not known

AHEAD = 2  # images a worker that are read or waiting, so that memory stays bounded
_END = b""  # in place of what a worker is sent


class WorkerDiedError(RuntimeError):
    """A worker process ended by itself, mostly for want of memory."""


class DeviceFailedError(WorkerDiedError):
    """A process cannot go on, as its GPU fails whatever it is given."""


def build_executor(workers: int, pixels: Pixels) -> Executor:
    """This process for one worker, else as many processes."""
    return partial(in_processes, workers, pixels) if workers > 1 else in_this_process


def in_this_process(work: Work, tasks: Iterable[Task]) -> Generator[Record, None, None]:
    """One after the other."""
    for entry, ahead in tasks:
        record = work(entry, ahead)
        del ahead  # it may be large
        yield record


def in_processes(
    workers: int, pixels: Pixels, work: Work, tasks: Iterable[Task]
) -> Generator[Record, None, None]:
    """In ``workers`` processes of this machine. Raises WorkerDiedError if one does."""
    with contextlib.closing(WorkerPool(workers, work, pixels)) as pool:
        yield from pool.run(tasks)


class WorkerPool:
    """Processes of this machine that do images of one job until ``close``.

    Each has pipes of its own, and nothing in common with others: one that dies, at any time,
    keeps no lock that others wait for, and is noticed as they end.

    Args:
        workers: how many.
        work: what they do.
        pixels: of an image; of large ones no more are given to them than ``PIXELS_A_WORKER`` says.
    """

    def __init__(self, workers: int, work: Work, pixels: Pixels = lambda entry: 0) -> None:
        self._pixels = pixels
        # Spawned, as a fork of a process that runs CUDA or threads may hang.
        context = multiprocessing.get_context("spawn")
        self._workers = [_Worker(context) for _ in range(workers)]
        for worker in self._workers:
            worker.send(work)

    def run(self, tasks: Iterable[Task]) -> Generator[Record, None, None]:
        """The records of ``tasks`` as they end. Raises WorkerDiedError if a process died."""
        for entry, ahead in tasks:
            pixels = self._pixels(entry)
            while not self._fits(pixels):
                yield from self._ended()
            freest = min(self._workers, key=lambda worker: len(worker.held))
            freest.held.append((entry, pixels))
            freest.send((entry, ahead))
            del ahead  # it may be large
            if all(len(worker.held) >= AHEAD for worker in self._workers):
                yield from self._ended()
        while any(worker.held for worker in self._workers):
            yield from self._ended()

    def close(self) -> None:
        """Let what is in work end, and end the processes."""
        for worker in self._workers:
            worker.tasks.close()  # whole messages or not: Ctrl-C may have come in the middle of one
        for worker in self._workers:
            worker.process.join()
            worker.records.close()
        self._workers.clear()

    def _fits(self, pixels: int) -> bool:
        """Whether an image of so many ``pixels`` may be given out now."""
        held = [own for worker in self._workers for _, own in worker.held]
        return not held or sum(held) + pixels <= PIXELS_A_WORKER * len(self._workers)

    def _ended(self) -> list[Record]:
        """Wait for at least one image in work to end; the records of those that have."""
        by_connection = {worker.records: worker for worker in self._workers}
        records = []
        for connection in wait(list(by_connection)):
            worker = by_connection[cast(Connection, connection)]
            try:
                answer = worker.records.recv()
            except (EOFError, ConnectionResetError) as error:
                raise self._death(worker) from error
            if isinstance(answer, _Raised):
                raise answer.error from RuntimeError(f"in another process:\n{answer.trace}")
            worker.held.popleft()
            records.append(answer)
        return records

    def _death(self, dead: _Worker) -> WorkerDiedError:
        """The error of one that died; the others end at once."""
        for worker in self._workers:
            worker.process.terminate()
        names = ", ".join(entry.file_name for entry, _ in dead.held) or "none"
        return WorkerDiedError(
            f"a worker process died while these were in work: {names}. It may have run out of "
            "memory: use fewer --workers. Finished images are safe; the same command continues"
        )


class _Worker:
    """A process that works, as others see it.

    ``held`` is what it was given and has not done, with the pixels of each.
    """

    def __init__(self, context: multiprocessing.context.SpawnContext) -> None:
        tasks, self.tasks = context.Pipe(duplex=False)
        self.records, records = context.Pipe(duplex=False)
        self.process = context.Process(target=_run_worker, args=(tasks, records))
        with deaf_to_interrupts():
            self.process.start()
        tasks.close()
        records.close()  # else it would not end with the process
        self.held: deque[tuple[ImageEntry, int]] = deque()

    def send(self, message: Any) -> None:
        """Pass ``message`` on; to a process that died it is lost, which ``recv`` tells."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.tasks.send(message)


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that start within the block get no Ctrl-C, not even while they import.

    One that comes to this process meanwhile is raised at the end of the block.
    """
    resource_tracker.ensure_running()  # whose first start would let it in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class _Raised:
    """Of a worker, in place of a record: what its work raised, and the traceback."""

    error: Exception
    trace: str


def _run_worker(tasks: Connection, records: Connection) -> None:
    """The whole life of a worker: no Ctrl-C (the main process ends it), one thread, no orphan."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_receive, args=(tasks, inbox), daemon=True).start()
    work: Work | None = None
    while (message := [inbox.get()]) != [_END]:  # from which it is taken, as it may be large
        try:
            if work is None:
                work = pickle.loads(message.pop())
            else:
                records.send(work(*pickle.loads(message.pop())))
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            records.send(_Raised(that_travels(error), trace))


def _end_with_parent() -> None:
    parent = multiprocessing.process.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _receive(tasks: Connection, inbox: queue.SimpleQueue[bytes]) -> None:
    """Take in what comes at once, so that who sends need not wait until it is wanted."""
    with contextlib.suppress(EOFError, OSError):  # it was closed
        while True:
            inbox.put(tasks.recv_bytes())
    with contextlib.suppress(queue.Empty):  # what is not begun is not wanted any more
        while True:
            inbox.get_nowait()
    inbox.put(_END)


def that_travels(error: Exception) -> Exception:
    """``error``, or one of the same text where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
