"""What a folder of results holds, to be looked through image by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trace_d2.jobs.journal import ImageEntry, Record
from trace_d2.jobs.on_disk import Stream
from trace_d2.jobs.store import JobStore


class FactCounts:
    """What the facts of records add up to, in one pass.

    Attributes:
        records: how many there are.
        sums: of each fact that is a number.
        highest: of the same.
        present, nonzero: how many records have the fact, and not as 0.
        timesteps: how often each emergence point was found.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = 0
        self.sums, self.present, self.nonzero = Counter[str](), Counter[str](), Counter[str]()
        self.highest, self.timesteps = Counter[str](), Counter[float]()
        for record in records:
            self.records += 1
            for name, value in record.facts.items():
                if name == "timestep":
                    self.timesteps[value] += 1
                elif not isinstance(value, list):
                    self.present[name] += 1
                    self.nonzero[name] += value != 0
                    self.sums[name] += value
                    self.highest[name] = max(self.highest[name], value)

    def mean(self, name: str) -> float:
        """Of the fact ``name``, of all records; 0 where there are none."""
        return self.sums[name] / max(1, self.records)


@dataclass(frozen=True)
class Outcome:
    """What a folder of results holds once its journals are joined.

    Nothing of it need be in memory: each part may be looked through again and again.

    Attributes:
        store: the folder.
        settings: what the results were made with.
        entries: all images of the job.
        records: how each came out, by stem.
        done: images with a finished result.
    """

    store: JobStore
    settings: Mapping[str, Any]
    entries: Collection[ImageEntry]
    records: Mapping[str, Record]
    done: Collection[ImageEntry]

    def results(self) -> Iterator[tuple[ImageEntry, Record]]:
        """The images that are done with their records."""
        return ((entry, self.records[entry.stem]) for entry in self.done)

    def noted(self) -> Iterator[tuple[ImageEntry, Record]]:
        """The same, for those who read the note of each."""
        return ((entry, self.records[entry.stem]) for entry in self.store.with_notes(self.done))

    @property
    def finished(self) -> Stream[Record]:
        """Records of the images that are done."""
        return Stream(lambda: (record for _, record in self.results()), len(self.done))

    @cached_property
    def counts(self) -> FactCounts:
        """What the facts of the images that are done add up to."""
        return FactCounts(self.finished)

    def of_status(self, status: str) -> Stream[Record]:
        """Records of the images that came out so."""

        def begin() -> Iterator[Record]:
            own = (self.records.get(entry.stem) for entry in self.entries)
            return (record for record in own if record is not None and record.status == status)

        return Stream(begin, sum(1 for _ in begin()))
