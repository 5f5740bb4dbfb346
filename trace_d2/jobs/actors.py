"""Actors: processes that each hold a copy of a job and its model, and do images of it.

Entries go to them, never pixels, and records come back. In an actor runs what else runs in the
main process: the model looks at images that are read ahead, and workers make and write. A ``Crew``
in the main process hands out the images of a job. Where actors run, and how messages reach them,
is up to an ``Actors``: ``local_actors`` has processes of this machine.

An actor is begun with a job, and then is given entries, a few at a time and so many ahead that its
model need not wait. It answers each message of its own accord, and ends at ``None``::

    main process                      actor
                              <-      Hello
    Begin(LOOK)               ->
                              <-      Ready
    Batch, Batch              ->
                              <-      Ended, Ended, ...
    Begin(DO)                 ->                           (once it holds nothing)
                              <-      Ready
    Batch, ...                ->
                              <-      Ended, ...
    None                      ->
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import queue
import traceback
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trace_d2.jobs.executors import (
    AHEAD,
    DeviceFailedError,
    Executor,
    WorkerDiedError,
    WorkerPool,
    in_this_process,
    that_travels,
)
from trace_d2.jobs.job import AnyJob, Looked, UsageError
from trace_d2.jobs.journal import ImageEntry, Record
from trace_d2.jobs.looking import look_through, tasks_of

logger = logging.getLogger(__name__)

_TRIES = 4  # processes in one place that end without a result
LOOK, DO = "look", "do"
"""What actors are begun with: to look at images and keep what they see, or to do them."""


@dataclass(frozen=True)
class Begin:
    """To an actor that holds nothing: what to do.

    Attributes:
        job: as it is now, ``packed``.
        phase: ``LOOK`` or ``DO``.
        seen: some images and their fingerprints, which the actor must come to as well.
    """

    job: bytes
    phase: str
    seen: tuple[tuple[ImageEntry, str], ...] = ()


@dataclass(frozen=True)
class Batch:
    """To an actor: entries to be done after those that it holds."""

    entries: tuple[ImageEntry, ...]


@dataclass(frozen=True)
class Hello:
    """Of an actor that is there: where it runs, for messages and for the journal."""

    where: str


@dataclass(frozen=True)
class Ready:
    """Of an actor that has begun: how many entries it wants to hold."""

    wants: int


@dataclass(frozen=True)
class Ended:
    """Of an actor: the image of this stem has ended, with its record in the phase ``DO``."""

    stem: str
    record: Record | None
    wants: int


@dataclass(frozen=True)
class Failed:
    """Of an actor that ends, as the job cannot go on: why, and the traceback."""

    error: Exception
    trace: str


@dataclass(frozen=True)
class Gone:
    """Of an actor that ended, or about one that died: what it held is to be done by others.

    Attributes:
        reason: why, in words that follow "as".
        of_place: whether the place is to blame, as far as is known, and not what it held.
    """

    reason: str
    of_place: bool = False


@dataclass(frozen=True)
class Said:
    """Of an actor: what it would log, to be shown once though all of them say so."""

    logger: str
    level: int
    text: str


ToActor = Begin | Batch | None
FromActor = Hello | Ready | Ended | Failed | Gone | Said


class Actors(Protocol):
    """Where actors run. Each has a key of its own; one that takes another's place has a new key."""

    def start(self) -> None:
        """Start actors. They may come and go from now on; each says ``Hello`` once it is there."""

    def wait(self) -> Iterable[tuple[Any, FromActor]]:
        """What came from actors, by key; blocks until something has.

        ``Gone`` is told of each that died, after all else that came from it.

        Raises:
            WorkerDiedError: there are no actors any more, and none will come.
        """

    def send(self, key: Any, message: ToActor) -> None:
        """Pass a message on; to an actor that died meanwhile it is lost."""

    def stop(self) -> None:
        """End all actors, whatever they are at, and wait until they have."""


class Actor:
    """An actor, in its own process.

    Args:
        inbox: what is sent to it.
        send: passes its messages on.
        workers: processes that make and write beside the one that looks; 1: it does so itself.
        where: it runs, as ``"host:gpu0"``.
    """

    def __init__(
        self,
        inbox: queue.SimpleQueue[ToActor],
        send: Callable[[FromActor], None],
        workers: int,
        where: str,
    ) -> None:
        self._inbox, self._send = inbox, send
        self._workers, self._where = workers, where
        self._job: AnyJob | None = None
        self._phase = DO
        self._executor: Executor | None = None

    def run(self) -> None:
        """Do what is asked until told to end; what went wrong is told before."""
        self._send(Hello(self._where))
        with contextlib.ExitStack() as stack:
            try:
                while (message := self._inbox.get()) is not None:
                    if isinstance(message, Begin):
                        self._begin(message, stack)
                        self._send(Ready(self._wants))
                    else:
                        self._do(message.entries)
            except WorkerDiedError as error:
                self._send(Gone(str(error), isinstance(error, DeviceFailedError)))
            except Exception as error:
                trace = "".join(traceback.format_exception(error))
                self._send(Failed(that_travels(error), trace))

    def _begin(self, message: Begin, stack: contextlib.ExitStack) -> None:
        self._job, self._phase = unpacked(message.job, self._job), message.phase
        self._check_folder(self._job)
        self._check_inputs(self._job, message)
        self._job.open_detector()  # first, as entries would wait for it that others can do
        if self._phase == LOOK or self._executor is not None:  # for another shard of the job
            return
        self._job.open_models()
        if self._workers > 1:
            pool = WorkerPool(self._workers, self._job, self._job.pixels)
            stack.enter_context(contextlib.closing(pool))
            self._executor = lambda work, tasks: pool.run(tasks)
        else:
            self._executor = in_this_process

    def _check_folder(self, job: AnyJob) -> None:
        """Raise a UsageError or SettingsChangedError where we see another output than others."""
        try:
            job.store.read_settings()
        except FileNotFoundError as error:
            raise UsageError(
                f"{job.store.address} is not seen here ({error}): choose an --output on a file "
                "system that all machines share"
            ) from error
        job.store.check_settings(job.settings)

    def _check_inputs(self, job: AnyJob, message: Begin) -> None:
        """Raise a UsageError where we see other files than the main process does."""
        for entry, fingerprint in message.seen:
            if job.fingerprint(entry) != fingerprint:
                raise UsageError(
                    f"the files of {entry.file_name} (image, masks, edges) are not there, or of "
                    "another size or time than the main process sees: give inputs on a file system "
                    "that all machines share, or copies that keep their times (`rsync -a`)"
                )

    @property
    def _wants(self) -> int:
        """Twice what is in work at once: images that are looked at, read, made and written."""
        assert self._job is not None
        return 2 * (2 * self._job.together + AHEAD * self._workers)

    def _do(self, entries: Sequence[ImageEntry]) -> None:
        job, stream = self._job, self._stream(entries)
        assert job is not None
        if self._phase == LOOK:
            for entry, looked in look_through(job, stream):
                if isinstance(looked, Looked):
                    job.keep_seen(entry, looked)
                self._send(Ended(entry.stem, None, self._wants))
            return
        assert self._executor is not None
        with contextlib.closing(self._executor(job, tasks_of(job, stream))) as records:
            for record in records:
                self._send(Ended(record.stem, record, self._wants))

    def _stream(self, entries: Sequence[ImageEntry]) -> Iterator[ImageEntry]:
        """``entries`` and those of all batches that follow, until none is there when asked for.

        What is in work ends then, instead of waiting for more that may never come.
        """
        while True:
            yield from entries
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            if not isinstance(message, Batch):  # the end, for ``run``
                self._inbox.put(message)
                return
            entries = message.entries


class Barren:
    """Places where processes died since one there gave a result; some are given up."""

    def __init__(self) -> None:
        self._deaths: Counter[Hashable] = Counter()

    def gave(self, place: Hashable) -> None:
        """There was a result from ``place``."""
        self._deaths.pop(place, None)

    def died(self, place: Hashable, name: str, reason: str) -> None:
        """A process died there; ``name`` and ``reason`` are for the warning of the last one."""
        self._deaths[place] += 1
        if self._deaths[place] == _TRIES:
            logger.warning(
                "%s is given up: %d processes died there without a result, the last as %s",
                name,
                _TRIES,
                reason,
            )

    def is_given_up(self, place: Hashable) -> bool:
        """Whether no other process is to be started there."""
        return self._deaths[place] >= _TRIES

    @property
    def any_given_up(self) -> bool:
        """Whether any place is."""
        return any(map(self.is_given_up, self._deaths))


class LogSender(logging.Handler):
    """Sends to the main process what is logged here. Put it in place of all other handlers."""

    def __init__(self, send: Callable[[FromActor], None]) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send ``record``."""
        self._send(Said(record.name, record.levelno, self.format(record)))

    def take_over(self) -> None:
        """Become the root's only handler, of Python's warnings as well."""
        logging.getLogger().handlers = [self]
        logging.captureWarnings(True)


def packed(job: AnyJob) -> bytes:
    """What travels to an actor: the job without its entries and models."""
    stays = {*job.stays} - {*job.travels}
    return pickle.dumps((type(job), {k: v for k, v in vars(job).items() if k not in stays}))


def unpacked(content: bytes, known: AnyJob | None = None) -> AnyJob:
    """The job that was ``packed``, or the one that is ``known``, with its models, as it is now."""
    kind, state = pickle.loads(content)
    job: AnyJob = kind.__new__(kind) if known is None else known
    vars(job).update(state)
    return job
