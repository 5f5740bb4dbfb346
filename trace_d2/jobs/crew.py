"""The main process's side of actors: who does which image, and who does those of the dead."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trace_d2.io.listing import spread
from trace_d2.jobs.actors import (
    DO,
    LOOK,
    Actors,
    Batch,
    Begin,
    Ended,
    Failed,
    FromActor,
    Gone,
    Hello,
    Ready,
    Said,
    packed,
)
from trace_d2.jobs.executors import WorkerDiedError
from trace_d2.jobs.job import AnyJob
from trace_d2.jobs.journal import ImageEntry, Record

logger = logging.getLogger(__name__)

_DEATHS = 3  # of actors with an image in work, that make it a failed one
_SEEN = 3  # images whose files an actor looks for first
_BARREN = 3  # deaths an actor and once more, one after the other, without a result of any
_TOLD = 20  # deaths that are warned of
_REMEMBERED = 1000  # different messages


class ActorError(RuntimeError):
    """What went wrong in an actor, with its traceback: the cause of what is raised here."""


@dataclass
class _Member:
    """An actor that is there.

    Attributes:
        where: it runs.
        wants: entries that it wants to hold; 0 until it has begun.
        held: those that it holds, by stem.
        alone: whether it holds one that is to be done alone.
    """

    where: str
    wants: int = 0
    held: dict[str, ImageEntry] = field(default_factory=dict)
    alone: bool = False


class Crew:
    """Hands the images of a job to actors.

    Whichever actor has room gets the next few. What a dead one held is done by others, in the end
    one by one, so that an image that kills them is found out: it is recorded as failed.

    Args:
        actors: where they run; started on entering, stopped on leaving.
    """

    def __init__(self, actors: Actors) -> None:
        self._actors = actors
        self._members: dict[Any, _Member] = {}
        self._begin: Begin | None = None
        self._gone: set[Any] = set()
        self._said: set[Said] = set()
        self._barren = 0
        self._most = 1  # actors at once, so far

    def __enter__(self) -> Crew:
        self._actors.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._actors.stop()

    def look(self, job: AnyJob, entries: Sequence[ImageEntry]) -> Iterator[ImageEntry]:
        """Let actors look at ``entries`` and ``keep_seen`` what they see; yields those that ended.

        Raises:
            WorkerDiedError: actors die whatever they do.
            Exception: what an actor raised that is no fault of an image.
        """
        for entry, _ in self._run(job, LOOK, entries):
            yield entry

    def do(self, job: AnyJob, entries: Sequence[ImageEntry]) -> Generator[Record, None, None]:
        """Records of ``entries`` as they end; raises as ``look``."""
        for entry, record in self._run(job, DO, entries):
            yield job.given_up(entry, _DEATHS) if record is None else record

    def _run(
        self, job: AnyJob, phase: str, entries: Sequence[ImageEntry]
    ) -> Iterator[tuple[ImageEntry, Record | None]]:
        seen = tuple((entry, job.fingerprint(entry)) for entry in spread(entries, _SEEN))
        self._begin = Begin(packed(job), phase, seen)
        for key, member in self._members.items():
            member.wants = 0
            self._actors.send(key, self._begin)
        share = _Share(entries)
        while share.left:
            for key, message in self._actors.wait():
                yield from self._take(key, message, share)
            for key, member in self._members.items():
                if batch := share.next_batch(member, len(self._members)):
                    self._actors.send(key, Batch(batch))

    def _take(
        self, key: Any, message: FromActor, share: _Share
    ) -> Iterator[tuple[ImageEntry, Record | None]]:
        """Take in what came from the actor ``key``; yields what ended."""
        if isinstance(message, Hello):
            self._members[key] = _Member(message.where)
            self._most = max(self._most, len(self._members))
            self._actors.send(key, self._begin)
            return
        if isinstance(message, Said):
            self._repeat(message)
            return
        member = self._members.get(key)
        if isinstance(message, Failed):
            where = member.where if member else str(key)
            raise _told(message, where) from ActorError(f"in {where}:\n{message.trace}")
        if isinstance(message, Gone):
            yield from self._bury(key, message, share)
        elif member is None:
            return
        elif isinstance(message, Ready):
            member.wants = message.wants
        else:
            yield share.end(member, message)
            self._barren = 0

    def _repeat(self, message: Said) -> None:
        """Log what an actor said, unless another said the same."""
        if message not in self._said:
            logging.getLogger(message.logger).log(message.level, "%s", message.text)
        if len(self._said) < _REMEMBERED:
            self._said.add(message)

    def _tell_of_death(self, where: str, reason: str) -> None:
        """Warn of an actor that died; of many, of the first ones."""
        if len(self._gone) <= _TOLD:
            last = " (more such deaths are not told)" if len(self._gone) == _TOLD else ""
            logger.warning("what a process%s held is done by others, as %s%s", where, reason, last)

    def _bury(
        self, key: Any, message: Gone, share: _Share
    ) -> Iterator[tuple[ImageEntry, Record | None]]:
        if key in self._gone:  # it told so itself, before it died
            return
        self._gone.add(key)
        self._barren += 1
        member = self._members.pop(key, None)
        self._tell_of_death(f" on {member.where}" if member else "", message.reason)
        if self._barren > _BARREN * (self._most + 1):
            raise WorkerDiedError(
                f"{self._barren} processes died one after the other without a result, the last as "
                f"{message.reason}. Finished images are safe; the same command continues"
            )
        if member is not None:
            yield from share.take_back(member, message)


class _Share:
    """The images of one phase: which wait, and which have met with deaths."""

    def __init__(self, entries: Sequence[ImageEntry]) -> None:
        self.left = len(entries)
        self._waiting = deque(entries)
        self._suspects: deque[ImageEntry] = deque()  # done alone, so that others need not die
        self._deaths: dict[str, list[str]] = defaultdict(list)  # where, by stem

    def next_batch(self, member: _Member, members: int) -> tuple[ImageEntry, ...]:
        """What ``member`` is to be given now, which it holds from now on; mostly nothing."""
        if not member.wants or member.alone:
            return ()
        batch: list[ImageEntry] = []
        if self._waiting:
            # The last images are shared out among all, lest one ends long after the others.
            fair = -(-len(self._waiting) // (2 * members))
            room = min(member.wants, 2 * fair) - len(member.held)
            if room >= max(1, min(member.wants // 4, fair)):
                batch = [self._waiting.popleft() for _ in range(min(room, fair))]
        elif self._suspects and not member.held:
            batch = [self._suspects.popleft()]
            member.alone = True
        member.held |= {entry.stem: entry for entry in batch}
        return tuple(batch)

    def end(self, member: _Member, message: Ended) -> tuple[ImageEntry, Record | None]:
        """What ended at ``member``."""
        entry = member.held.pop(message.stem)
        member.wants, member.alone = message.wants, False
        self.left -= 1
        record = message.record and replace(message.record, worker=member.where)
        return entry, record

    def take_back(self, member: _Member, death: Gone) -> Iterator[tuple[ImageEntry, None]]:
        """Let others do what ``member`` held when it died; yields what nobody can do.

        A place that is to blame counts once for each image, however often it takes that.
        """
        for entry in reversed(member.held.values()):
            deaths = self._deaths[entry.stem]
            if not (death.of_place and member.where in deaths):
                deaths.append(member.where)
            if len(deaths) >= _DEATHS:
                self.left -= 1
                yield entry, None
            elif len(deaths) == _DEATHS - 1:
                self._suspects.append(entry)
            else:
                self._waiting.appendleft(entry)


def _told(message: Failed, where: str) -> Exception:
    """The error of an actor, which tells where it was."""
    error = message.error
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{error} (told by {where})",)
    return error
