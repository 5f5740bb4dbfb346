"""Images that a model looks at, read ahead by other threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trace_d2.jobs.executors import Task
from trace_d2.jobs.job import AnyJob, EntryT, InputsT, Job, Looked, Read
from trace_d2.jobs.journal import ImageEntry, Record

_READERS = 4  # of them, as many work as images are looked at together


def look_through(
    job: Job[EntryT, InputsT, Any], entries: Iterable[EntryT]
) -> Iterator[tuple[EntryT, Looked[InputsT] | Record | None]]:
    """Entries with what ``job.look_ahead`` gives, None for those that are skipped.

    While the model looks at some images, the next ones are read, and no more than these.
    """
    reader = ThreadPoolExecutor(_READERS)
    left = iter(entries)

    def begin() -> list[tuple[EntryT, Callable[[], Read[EntryT, InputsT]] | None]]:
        """The next images to look at together, each with what waits for its reading."""
        window: list[tuple[EntryT, Callable[[], Read[EntryT, InputsT]] | None]] = []
        wanted = job.together
        for entry in left:
            skipped = job.skip(entry)
            window.append((entry, None if skipped else reader.submit(job.read, entry).result))
            wanted -= not skipped
            if not wanted:
                break
        return window

    try:
        window = begin()
        while window:
            following = begin()
            looked = iter(job.look_ahead([(e, read) for e, read in window if read]))
            for entry, read in window:
                yield entry, next(looked) if read else None
            window = following
    finally:
        reader.shutdown(cancel_futures=True)


def tasks_of(job: AnyJob, entries: Iterable[ImageEntry]) -> Iterator[Task]:
    """Entries with what the model sees in them, if the job has one."""
    return look_through(job, entries) if job.looks else ((entry, None) for entry in entries)
