"""How a job stands that other processes do, maybe on other machines: read from its folder alone.

No lock is taken and nothing is written, so that anybody who can read the folder can look on.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trace_d2.jobs.failures import Kind, Kinds
from trace_d2.jobs.holders import Holder, read_holder
from trace_d2.jobs.journal import DONE, FAILED, SKIPPED, ImageEntry, Record
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.locks import Shard, job_locks, shard_of
from trace_d2.jobs.object_store import job_store
from trace_d2.jobs.store import JobStore
from trace_d2.jobs.tails import Activity, Tail, Track, Worker

SILENCE = 600.0
"""Seconds without a sign of life after which a process of another machine is doubted."""

RUNNING, SILENT, KILLED, STOPPED, ENDED = "running", "silent", "killed", "stopped", "ended"
"""Of a part: at work; without a sign of life; gone without an end; not at work; through."""

_PENDING, _DONE, _SKIPPED, _FAILED = range(4)
_CODES = {DONE: _DONE, SKIPPED: _SKIPPED, FAILED: _FAILED}


@dataclass(frozen=True)
class Part:
    """A whole job or a shard: what one command does.

    Attributes:
        name: ``"whole job"`` or ``"shard I/N"``.
        state: one of ``RUNNING``, ``SILENT``, ``KILLED``, ``STOPPED``, ``ENDED``.
        holder: the process that holds it; None: none does.
        images: how many it is to do.
        done, skipped, failed: how many of them came out so.
        lately: images a second.
        last: its last sign of life, seconds since 1970; 0: none.
        workers: its processes, where records tell them, the latest first.
    """

    name: str
    state: str
    holder: Holder | None
    images: int
    done: int
    skipped: int
    failed: int
    lately: float
    last: float
    workers: tuple[Worker, ...] = ()

    @property
    def pending(self) -> int:
        """Images that are still to be done."""
        return self.images - self.done - self.skipped - self.failed


@dataclass(frozen=True)
class Status:
    """How a job stands.

    Attributes:
        output: its folder.
        kind: of its results, in words.
        now: when it was looked at, seconds since 1970.
        images: how many it is to do.
        done, skipped, failed: how many of them came out so.
        lately: images a second during the last ``LATELY`` seconds, of all who are at work.
        overall: images a second over the time in which any were done.
        parts: whole job or shards that have begun.
        unbegun: names of shards that nobody has begun.
        failures: kinds of reasons, the most frequent first.
        skips: kinds of reasons of skipped images.
    """

    output: str
    kind: str
    now: float
    images: int
    done: int
    skipped: int
    failed: int
    lately: float
    overall: float
    parts: tuple[Part, ...]
    unbegun: tuple[str, ...]
    failures: tuple[Kind, ...]
    skips: tuple[Kind, ...]

    @property
    def pending(self) -> int:
        """Images that are still to be done."""
        return self.images - self.done - self.skipped - self.failed

    @property
    def seconds_left(self) -> float | None:
        """Until all is done at the speed of lately; None where nothing goes on."""
        if not self.pending:
            return 0.0
        if not self.lately:
            return None
        slowest = [part.pending / part.lately for part in self.parts if part.lately]
        return max([self.pending / self.lately, *slowest])

    @property
    def exit_status(self) -> int:
        """0: all is done; 3: all but what failed; 4: some is still to be done."""
        if self.pending:
            return 4
        return 3 if self.failed else 0


class Looker:
    """Looks at a folder again and again, and reads each time what was added.

    Args:
        output: as given to the job: the folder, or the file beside it.

    Raises:
        FileNotFoundError: no job has begun there.
        ForeignFolderError, DamagedFileError: it is somebody else's, or damaged.
    """

    def __init__(self, output: str | Path) -> None:
        self._store = _store_of(output)
        self._stamp: object = None
        self._table = _Table((), 0, Kinds({}))
        self._tails: dict[Path, Tail] = {}
        self._tracks: dict[Shard, Track] = {}

    def look(self, now: float | None = None) -> Status:
        """How the job stands ``now``, in seconds since 1970; None: by this machine's clock."""
        now = time.time() if now is None else now
        self._store.refresh()
        paths = self._store.journals()
        stamp = self._stamped()
        known = [path for path, tail in self._tails.items() if path in paths and tail.is_same()]
        if stamp != self._stamp or len(known) < len(self._tails):  # joined, or another job
            entries, limit = _images_of(self._store)
            settings = self._store.read_settings()
            self._table = _Table((entry.stem for entry in entries), limit, Kinds(settings))
            self._tails, self._tracks = {}, {}
            self._stamp = stamp if None not in stamp else self._stamped()
        for path in paths:
            tail = self._tails.setdefault(path, Tail(path, len(self._tails)))
            track = self._tracks.setdefault(shard_of(path), Track())
            for record in tail.read():
                track.add(record, now)
                self._table.add(record, tail.number)
        return self._status(now)

    def _stamped(self) -> tuple[object, object]:
        return _stamp(self._store.settings_path), _stamp(self._store.images_path)

    def _status(self, now: float) -> Status:
        table, settings = self._table, self._store.read_settings()
        parts = self._parts(now)
        done, skipped, failed = table.counts(slice(None))
        given = sum(track.whole.images for track in self._tracks.values())
        worked = Activity.seconds(track.activity for track in self._tracks.values())
        counts = {part.name.rpartition("/")[2] for part in parts if "/" in part.name}
        names = {part.name for part in parts}
        whole = any(part.state == RUNNING and "/" not in part.name for part in parts)
        shards = (Shard(i, int(n)).title for n in sorted(counts) for i in range(1, int(n) + 1))
        return Status(
            self._store.address,
            str(settings.get("kind")),
            now,
            len(table.codes),
            done,
            skipped,
            failed,
            sum(part.lately for part in parts),
            given / worked if worked else 0.0,
            tuple(parts),
            () if whole else tuple(name for name in shards if name not in names),
            table.kinds_of(_FAILED),
            table.kinds_of(_SKIPPED),
        )

    def _parts(self, now: float) -> list[Part]:
        """The whole job first, then shards, each that has a journal or a process."""
        locks = {path: read_holder(path) for path in job_locks(self._store.root)}
        holders = {shard_of(path): holder for path, holder in locks.items() if holder}
        shards = sorted({*holders, *self._tracks}, key=lambda shard: (shard.count, shard.index))
        if shards[1:] and Shard() not in holders:  # joined before
            shards = [shard for shard in shards if shard.name]
        return [self._part(shard, holders.get(shard), now) for shard in shards]

    def _part(self, shard: Shard, holder: Holder | None, now: float) -> Part:
        images = len(self._table.codes[_share(shard)])
        done, skipped, failed = self._table.counts(_share(shard))
        track = self._tracks.get(shard) or Track()
        begun = holder.since if holder else 0.0
        last = max(track.whole.last, begun)
        state = _state(holder, images == done + skipped + failed, now - last)
        if state == STOPPED and not self._store.has_locks:  # nothing but its records tells of it
            state = RUNNING if now - last < SILENCE else SILENT
        lately = track.whole.rate(now, begun or track.whole.first) if state == RUNNING else 0.0
        name, workers = shard.title or "whole job", track.workers_since(begun, now)
        return Part(name, state, holder, images, done, skipped, failed, lately, last, workers)


def _store_of(output: str | Path) -> JobStore:
    """The store in ``output``, or in the folder beside it; the kind of its results is not known."""
    stores = [job_store(output, Layout("results", beside=beside)) for beside in (False, True)]
    store = next((store for store in stores if store.has_settings()), None)
    if store is None:
        there = stores[0].address_of(stores[0].settings_path)
        raise FileNotFoundError(
            f"no job has begun in {output} (there is no {there}): give the --output of its command"
        )
    store.read_settings()
    return store


def _share(shard: Shard) -> slice:
    return slice(shard.index - 1, None, shard.count)


def _state(holder: Holder | None, is_through: bool, silence: float) -> str:
    if holder is None:
        return ENDED if is_through else STOPPED
    if holder.is_here:
        return KILLED if holder.is_gone else RUNNING
    return RUNNING if silence < SILENCE else SILENT


def _images_of(store: JobStore) -> tuple[Iterable[ImageEntry], int]:
    try:
        return store.read_images()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"the job of {store.address} has just begun and knows no images yet: look again in a "
            "moment"
        ) from None


def _stamp(path: Path) -> object:
    """What changes when the file does; None where there is none."""
    if not path.exists():
        return None
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


class _Table:
    """How each image came out, in a few bytes an image.

    Args:
        stems: of all images.
        limit: how many of them, from the first, are to be done.
        kinds: of reasons.
    """

    def __init__(self, stems: Iterable[str], limit: int, kinds: Kinds) -> None:
        # Of 64 bits: of ten million images two meet in one of a million jobs.
        hashes = np.fromiter(map(hash, stems), np.int64)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        self._kinds = kinds
        self._examples: dict[int, tuple[int, Record]] = {}  # by kind
        self._finished = np.zeros(limit)
        self._journals = np.full(limit, -1, np.int32)
        self._reasons = np.full(limit, -1, np.int32)
        self.codes = np.zeros(limit, np.uint8)

    def add(self, record: Record, journal: int) -> None:
        """Take the record, unless that of another journal is later; of one journal the last is."""
        rank = self._rank(record.stem)
        if rank is None:
            return
        if self._journals[rank] != journal and self._finished[rank] > record.finished:
            return
        self._finished[rank], self._journals[rank] = record.finished, journal
        self.codes[rank] = _CODES[record.status]
        self._reasons[rank] = -1
        if record.status != DONE:
            kind = self._kinds.number(record)
            self._reasons[rank] = kind
            if not self._is_example(kind):
                self._examples[kind] = rank, record

    def counts(self, share: slice) -> tuple[int, int, int]:
        """How many of ``share`` are done, skipped and failed."""
        counts = np.bincount(self.codes[share], minlength=4)
        return int(counts[_DONE]), int(counts[_SKIPPED]), int(counts[_FAILED])

    def kinds_of(self, code: int) -> tuple[Kind, ...]:
        """Kinds of the reasons of images with this code, the most frequent first."""
        counts = Counter(self._reasons[self.codes == code].tolist())
        return tuple(
            self._kinds.kind(
                kind, count, self._examples[kind][1] if self._is_example(kind) else None
            )
            for kind, count in counts.most_common()
        )

    def _is_example(self, kind: int) -> bool:
        return kind in self._examples and self._reasons[self._examples[kind][0]] == kind

    def _rank(self, stem: str) -> int | None:
        own = hash(stem)
        place = int(np.searchsorted(self._sorted, own))
        if place == len(self._sorted) or self._sorted[place] != own:
            return None  # of a list that was replaced since
        rank = int(self._order[place])
        return rank if rank < len(self.codes) else None
