"""Actors that are processes of this machine, each with a GPU of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType

from trace_d2.devices import VISIBLE
from trace_d2.jobs.actors import (
    Actor,
    Barren,
    Begin,
    Ended,
    FromActor,
    Gone,
    LogSender,
    Ready,
    ToActor,
)
from trace_d2.jobs.executors import WorkerDiedError, deaf_to_interrupts

_SECONDS = 15.0  # for what is in work to end, once told to


@dataclass(frozen=True)
class _Process:
    process: BaseProcess
    connection: Connection
    slot: int


class LocalActors:
    """Processes of this machine; one that dies is started again, as long as that brings results.

    Args:
        workers: of each, that make and write beside the one that looks; 1: it does so itself.
        gpus: the device that each sees, as ``CUDA_VISIBLE_DEVICES`` names it; empty: all.
    """

    def __init__(self, workers: int, gpus: Sequence[str]) -> None:
        self._workers, self._gpus = workers, gpus
        self._processes: dict[int, _Process] = {}
        self._started = 0
        self._barren = Barren()  # slots
        self._reasons: dict[int, str] = {}  # of those that told why they end
        self._ready: set[int] = set()  # those that may hold something

    def start(self) -> None:
        """Start all of them."""
        for slot in range(len(self._gpus)):
            self._start(slot)

    def wait(self) -> Iterator[tuple[int, FromActor]]:
        """See ``Actors``."""
        if not self._processes:
            raise WorkerDiedError(
                "all processes died again and again (see above). Finished images are safe; the "
                "same command continues"
            )
        by_connection = {one.connection: key for key, one in self._processes.items()}
        for connection in wait(list(by_connection)):
            assert isinstance(connection, Connection)
            key = by_connection[connection]
            try:
                message = connection.recv()
            except (EOFError, ConnectionResetError):  # it ended
                yield key, Gone(self._end(key))
                continue
            if isinstance(message, Ended):
                self._barren.gave(self._processes[key].slot)
            elif isinstance(message, Ready):
                self._ready.add(key)
            elif isinstance(message, Gone):
                self._reasons[key] = message.reason
            yield key, message

    def send(self, key: int, message: ToActor) -> None:
        """See ``Actors``."""
        if isinstance(message, Begin):
            self._ready.discard(key)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; wait tells
            self._processes[key].connection.send(message)

    def stop(self) -> None:
        """See ``Actors``; what has not ended after a while, or loads a model, is killed."""
        for key, one in self._processes.items():
            if key in self._ready:
                one.process.terminate()
            else:
                one.process.kill()
        for one in self._processes.values():
            one.process.join(_SECONDS)
            if one.process.is_alive():
                one.process.kill()
                one.process.join()
            one.connection.close()
        self._processes.clear()

    def _start(self, slot: int) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        gpu = self._gpus[slot]
        arguments = (there, self._workers, self._place(slot))
        process = context.Process(target=_run_actor, args=arguments)
        with _only_visible(gpu), deaf_to_interrupts():
            process.start()
        there.close()
        self._processes[self._started] = _Process(process, here, slot)
        self._started += 1

    def _end(self, key: int) -> str:
        """Put another in the place of one that ended; returns how it did."""
        one = self._processes.pop(key)
        one.connection.close()
        one.process.join()
        how = self._reasons.pop(key, None) or _how_it_ended(one.process.exitcode)
        self._barren.died(one.slot, self._place(one.slot), how)
        if not self._barren.is_given_up(one.slot):
            self._start(one.slot)
        return how

    def _place(self, slot: int) -> str:
        gpu = self._gpus[slot]
        return f"{socket.gethostname()}:{f'gpu{gpu}' if gpu else f'cpu{slot}'}"


@contextlib.contextmanager
def _only_visible(gpu: str) -> Iterator[None]:
    """Processes that start within the block see ``gpu`` alone."""
    before = os.environ.get(VISIBLE)
    if gpu:
        os.environ[VISIBLE] = gpu
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = ", which is how a machine without memory ends them" if name == "SIGKILL" else ""
        return f"it was ended by {name}{memory}"
    return f"it ended with status {code}"


def _run_actor(connection: Connection, workers: int, where: str) -> None:
    """The whole life of the process of an actor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends it
    signal.signal(signal.SIGTERM, _leave)
    inbox: queue.SimpleQueue[ToActor] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    speaking = threading.Lock()  # threads that read ahead may log

    def send(message: FromActor) -> None:
        with speaking:
            connection.send(message)

    LogSender(send).take_over()
    Actor(inbox, send, workers, where).run()


def _leave(number: int, frame: FrameType | None) -> None:
    """End what is in work tidily."""
    raise SystemExit(128 + number)


def _receive(connection: Connection, inbox: queue.SimpleQueue[ToActor]) -> None:
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):  # the main process is gone, and with it who asks for anything
        os._exit(1)
