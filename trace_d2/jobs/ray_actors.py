"""Actors on a cluster of Ray: a GPU each, or a core, on whatever nodes there are.

Nodes may join and leave at any time. All of them see the images and the output at the same paths
as the main process, and have the same ``trace_d2`` installed; this is checked, nothing is copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import trace_d2
from trace_d2.jobs.actors import (
    Actor,
    Barren,
    Ended,
    Failed,
    FromActor,
    Gone,
    Hello,
    LogSender,
    Ready,
    ToActor,
)
from trace_d2.jobs.executors import WorkerDiedError
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.output import SettingsChangedError
from trace_d2.jobs.ray_cluster import Slot, connected, has_gpus, slots
from trace_d2.parallel import available_cpus
from trace_d2.terminal import say

_LOOK_AROUND = 5.0  # seconds after which nodes are looked for again
_PAUSE = 1.0  # seconds between looks while there is no actor
_PATIENCE = 60.0  # seconds without any actor until that is told, and without a place until the end
_END_SECONDS = 15.0
_INWARDS, _OUTWARDS = "inwards", "outwards"  # threads of an actor in Ray


@dataclass(frozen=True)
class Place:
    """What an actor must find as the main process has it.

    Attributes:
        version: of ``trace_d2``.
        code: a hash of its files.
        folder: that relative paths start from.
    """

    version: str
    code: str
    folder: str

    @staticmethod
    def here() -> Place:
        """That of this process."""
        return Place(trace_d2.__version__, code_print(), os.getcwd())

    def take(self) -> None:
        """Make this process have it too. Raises UsageError where it has another ``trace_d2``."""
        if (trace_d2.__version__, code_print()) != (self.version, self.code):
            raise UsageError(
                f"another trace_d2 is installed there, {trace_d2.__version__} (code "
                f"{code_print()}), than in the main process, {self.version} (code {self.code}): "
                "install the same one on all nodes"
            )
        # Where there is none, paths that are relative lead nowhere, which readers tell.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.chdir(self.folder)


@cache
def code_print() -> str:
    """A hash of the files of ``trace_d2``, as versions tell little while one is worked on."""
    root = Path(trace_d2.__file__).parent
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()[:12]


class RemoteActor:
    """An ``Actor`` in a process of Ray, which calls ``put`` and ``get`` from threads of its own."""

    def __init__(self, place: Place, slot: Slot) -> None:
        self._inbox: queue.SimpleQueue[ToActor] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[FromActor] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(place, slot), daemon=True).start()

    def put(self, message: ToActor) -> None:
        """Take a message to the actor."""
        self._inbox.put(message)

    def get(self) -> list[FromActor]:
        """What came from the actor since the last call; waits until something has."""
        messages = [self._outbox.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._outbox.get_nowait())
        return messages

    def _run(self, place: Place, slot: Slot) -> None:
        import cv2

        cv2.setNumThreads(max(1, slot.cpus))  # Ray tells OpenMP, but not OpenCV
        try:
            place.take()
            LogSender(self._outbox.put).take_over()
            Actor(self._inbox, self._outbox.put, slot.workers, slot.name).run()
        except UsageError as error:
            self._outbox.put(Failed(error, "".join(traceback.format_exception(error))))
        finally:
            self._outbox.put(Gone("it ended"))


@dataclass
class _Live:
    """An actor that was started; ``there`` once it has said Hello, and ``ready`` once it is."""

    handle: Any
    slot: Slot
    there: bool = False
    ready: bool = False


class RayActors:
    """Actors on all nodes of a cluster, and on those that join it.

    Args:
        address: of the cluster, see ``ray_cluster.find``.
        workers: processes that make and write, of a GPU or of a node without; None: a core each.
        gpus: whether each actor has a GPU; None: if the cluster has any.
        looks: whether a model looks at images.
    """

    def __init__(
        self, address: str | None, workers: int | None, gpus: bool | None, looks: bool
    ) -> None:
        self._address, self._workers = address, workers
        self._gpus, self._looks = gpus, looks
        self._stack = contextlib.ExitStack()
        self._live: dict[int, _Live] = {}
        self._polls: dict[Any, int] = {}  # what tells of the next messages of which actor
        self._started = 0
        self._barren = Barren()  # slots
        self._unfit: set[str] = set()  # nodes
        self._misfit: Exception | None = None  # why one of them is
        self._looked = self._alive = 0.0  # when nodes, and actors, were last seen
        self._told = False

    def start(self) -> None:
        """Connect to the cluster, and start actors there.

        Raises:
            UsageError: there is no such cluster, or nothing in it that actors could run on.
        """
        import ray

        self._stack.enter_context(connected(self._address, self._workers or available_cpus()))
        if self._gpus is None:
            self._gpus = has_gpus(ray.nodes())
        self._alive = time.monotonic()
        if not self._fill():
            self._stack.close()
            raise UsageError(
                "no node of the cluster of Ray has a GPU: start nodes that have (`ray start "
                "--num-gpus N`), or put `MODEL.TRACE.DEVICE cpu` at the end of the command"
                if self._gpus
                else "no node of the cluster of Ray has a core to spare (`ray start --num-cpus N`)"
            )

    def wait(self) -> list[tuple[int, FromActor]]:
        """See ``Actors``."""
        import ray

        news: list[tuple[int, FromActor]] = []
        while not news:
            if time.monotonic() - self._looked > _LOOK_AROUND:
                self._fill()
            polls = list(self._polls)
            if not polls:
                self._check_hope()
                time.sleep(_PAUSE)
            elif ray.wait(polls, timeout=_LOOK_AROUND)[0]:
                ready, _ = ray.wait(polls, num_returns=len(polls), timeout=0)
                news = [message for poll in ready for message in self._received(poll)]
            self._tell_of_waiting()
        return news

    def send(self, key: int, message: ToActor) -> None:
        """See ``Actors``."""
        if key in self._live:
            put = self._live[key].handle.put.options(concurrency_group=_INWARDS)
            put.remote(message)

    def stop(self) -> None:
        """See ``Actors``."""
        import ray

        for one in self._live.values():
            ray.kill(one.handle)
        if self._polls:
            ray.wait(list(self._polls), num_returns=len(self._polls), timeout=_END_SECONDS)
        self._live.clear()
        self._polls.clear()
        self._stack.close()

    def _received(self, poll: Any) -> Iterator[tuple[int, FromActor]]:
        """What the actor of ``poll`` sent, or how it ended."""
        import ray

        key = self._polls.pop(poll)
        one = self._live[key]
        try:
            messages = ray.get(poll)
        except ray.exceptions.RayError as error:
            messages = [_gone(error, one.slot)]
        for message in messages:
            if isinstance(message, Hello):
                one.there = True
            elif isinstance(message, Ready):
                one.ready = True
            elif isinstance(message, Ended):
                self._barren.gave(one.slot)
            elif isinstance(message, Failed) and not one.ready and self._do_without(one, message):
                message = Gone(str(message.error), of_place=True)
            if isinstance(message, Gone):
                self._end(key, message.reason)
                if one.there:  # else nobody has heard of it
                    yield key, message
                return
            yield key, message
        self._poll(key)

    def _do_without(self, one: _Live, message: Failed) -> bool:
        """Whether others can go on without the node of ``one``, where nothing can begin."""
        if not isinstance(message.error, (UsageError, SettingsChangedError)):
            return False
        self._unfit.add(one.slot.node)
        if not any(slot.node not in self._unfit for slot in self._places()):
            return False
        say(f"warning: {one.slot.host} is left out: {message.error}", error=True)
        self._misfit = message.error
        return True

    def _places(self) -> list[Slot]:
        """All that the cluster has by now, but those that are given up."""
        import ray

        found = slots(ray.nodes(), bool(self._gpus), self._workers, self._looks)
        return [
            slot
            for slot in found
            if slot.node not in self._unfit and not self._barren.is_given_up(slot)
        ]

    def _fill(self) -> bool:
        """Start actors wherever there is a place without one; whether there is any place."""
        self._looked = time.monotonic()
        taken = {one.slot for one in self._live.values()}
        places = self._places()
        for slot in places:
            if slot not in taken:
                self._start(slot)
        return bool(places)

    def _start(self, slot: Slot) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Messages inwards and outwards do not wait for each other.
        groups: dict[str, Any] = {"concurrency_groups": {_INWARDS: 1, _OUTWARDS: 1}}
        kind: Any = ray.remote(**groups)(RemoteActor)
        handle = kind.options(
            num_cpus=slot.cpus,
            num_gpus=int(slot.gpu),
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
        ).remote(Place.here(), slot)
        self._live[self._started] = _Live(handle, slot)
        self._poll(self._started)
        self._started += 1

    def _poll(self, key: int) -> None:
        get = self._live[key].handle.get.options(concurrency_group=_OUTWARDS)
        self._polls[get.remote()] = key

    def _end(self, key: int, reason: str) -> None:
        """Forget an actor that ended; its place is filled at the next look around."""
        import ray

        one = self._live.pop(key)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(one.handle)  # it may be out of reach only, and would go on
        self._barren.died(one.slot, one.slot.name, reason)

    def _check_hope(self) -> None:
        """Raise what keeps actors from coming to life where that is so everywhere."""
        if self._places():
            return
        if self._misfit:
            raise self._misfit
        if self._barren.any_given_up or time.monotonic() - self._alive > _PATIENCE:
            raise WorkerDiedError(
                "all processes died again and again, or their nodes were lost. Finished images "
                "are safe; the same command continues"
            )

    def _tell_of_waiting(self) -> None:
        if any(one.there for one in self._live.values()):
            self._alive = time.monotonic()
        elif not self._told and time.monotonic() - self._alive > _PATIENCE:
            self._told = True
            what = "GPU" if self._gpus else "core"
            say(f"note: waiting for a {what} of the cluster that is free (`ray status` tells)")


def _gone(error: Exception, slot: Slot) -> Gone:
    """How an actor ended, in a line; Ray's own words are many."""
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return Gone(f"{slot.host} ran out of memory")
    if "node has died" in str(error):
        return Gone(f"the node {slot.host} was lost", of_place=True)
    return Gone(f"the process on {slot.name} died, or cannot be reached any more")
