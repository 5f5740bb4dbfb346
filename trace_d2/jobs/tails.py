"""Journals that are read while they grow, and what they tell of those who write them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trace_d2.jobs.journal import FAILED, Record, sound_records

LATELY = 300.0
"""Seconds back that count as lately."""

_LONGEST = 3600.0  # seconds that one image may count as work


@dataclass(frozen=True)
class Worker:
    """What one process has done.

    Attributes:
        name: ``"host:pid"``, or that of an actor.
        images: records that it gave.
        failed: how many of them are failures.
        lately: images a second.
        last: when it gave the last one, seconds since 1970.
    """

    name: str
    images: int
    failed: int
    lately: float
    last: float


class Tally:
    """What one process, or all of a journal, has given so far."""

    def __init__(self) -> None:
        self.images = self.failed = 0
        self.first, self.last = float("inf"), 0.0
        self._recent: deque[tuple[float, float]] = deque()  # when each began and ended

    def add(self, record: Record, now: float) -> None:
        self.images += 1
        self.failed += record.status == FAILED
        began = record.finished - min(record.seconds, _LONGEST)
        self.first, self.last = min(self.first, began), max(self.last, record.finished)
        if record.finished > now - LATELY:
            self._recent.append((began, record.finished))

    def rate(self, now: float, since: float) -> float:
        """Images a second lately, of a process that has been at work ``since`` then."""
        while self._recent and self._recent[0][1] <= now - LATELY:
            self._recent.popleft()
        if not self._recent:
            return 0.0
        begun = now - LATELY if since < now - LATELY else self._recent[0][0]
        return len(self._recent) / max(now - begun, 1e-3)


class Activity:
    """When there was work: minutes, and within each from when to when."""

    def __init__(self) -> None:
        self.minutes: dict[int, tuple[float, float]] = {}

    def add(self, record: Record) -> None:
        end = record.finished
        begin = end - min(record.seconds, _LONGEST)
        for minute in range(int(begin // 60), int(end // 60) + 1):
            low, high = self.minutes.get(minute, (end, begin))
            self.minutes[minute] = (
                min(low, max(begin, 60.0 * minute)),
                max(high, min(end, 60.0 * minute + 60)),
            )

    @staticmethod
    def seconds(activities: Iterable[Activity]) -> float:
        """How long any was at work; breaks of a minute or two count as work."""
        joined: dict[int, tuple[float, float]] = {}
        for activity in activities:
            for minute, (low, high) in activity.minutes.items():
                known = joined.get(minute, (low, high))
                joined[minute] = min(low, known[0]), max(high, known[1])
        total, before = 0.0, None
        begin = end = 0.0
        for minute in sorted(joined):
            low, high = joined[minute]
            if before is None or minute - before > 2:
                total += end - begin
                begin = low
            before, end = minute, high
        return total + end - begin


@dataclass
class Track:
    """What the journals of a shard tell."""

    whole: Tally = field(default_factory=Tally)
    activity: Activity = field(default_factory=Activity)
    _workers: dict[str, Tally] = field(default_factory=dict)

    def add(self, record: Record, now: float) -> None:
        self.whole.add(record, now)
        self.activity.add(record)
        if record.worker:
            self._workers.setdefault(record.worker, Tally()).add(record, now)

    def workers_since(self, since: float, now: float) -> tuple[Worker, ...]:
        """The processes that gave a record ``since`` then, the latest first."""
        rows = [
            Worker(name, tally.images, tally.failed, tally.rate(now, tally.first), tally.last)
            for name, tally in self._workers.items()
            if tally.last >= since
        ]
        return tuple(sorted(rows, key=lambda row: (-row.last, row.name)))


@dataclass
class Tail:
    """A journal as far as it was read.

    Attributes:
        path: of the journal.
        number: of it among journals.
    """

    path: Path
    number: int
    _inode: int = 0
    _offset: int = 0

    def is_same(self) -> bool:
        """Whether it is the file that was read, and has only grown."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        return status.st_ino == self._inode and status.st_size >= self._offset

    def read(self) -> Iterator[Record]:
        """Records that were added, without those that are being written."""
        with open(self.path, "rb") as file:
            self._inode = os.fstat(file.fileno()).st_ino
            file.seek(self._offset)
            yield from sound_records(self._whole_lines(file), self.path)

    def _whole_lines(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            self._offset += len(line)
            yield line
