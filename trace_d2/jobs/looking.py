"""Images that a model looks at, read ahead by other threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trace_d2.jobs.executors import Task
from trace_d2.jobs.job import AnyJob, EntryT, InputsT, Job, Looked, Read
from trace_d2.jobs.journal import ImageEntry, Record

_READERS = 4  # of them, as many work as images are looked at together
_MOST_PIXELS = 2**26  # of images that are looked at and read meanwhile, but for one that has more

_Window = deque[tuple[EntryT, Callable[[], Read[EntryT, InputsT]] | None]]


def look_through(
    job: Job[EntryT, InputsT, Any], entries: Iterable[EntryT]
) -> Iterator[tuple[EntryT, Looked[InputsT] | Record | None]]:
    """Entries with what ``job.look_ahead`` gives, None for those that are skipped.

    While the model looks at some images, the next ones are read, and no more than these; of large
    images fewer, or none.
    """
    reader = ThreadPoolExecutor(_READERS)
    left = iter(entries)
    waiting: list[tuple[EntryT, int]] = []  # one at most, for which there was no room

    def begin(beside: int) -> tuple[_Window[EntryT, InputsT], int]:
        """The next images to look at together, each with what waits for its reading.

        Args:
            beside: pixels of those that are looked at meanwhile.

        Returns:
            with the pixels of these.
        """
        window: _Window[EntryT, InputsT] = deque()
        wanted, own = job.together, 0
        while wanted:
            entry, pixels = waiting.pop() if waiting else (next(left, None), -1)
            if entry is None:
                break
            skipped = bool(job.skip(entry))
            if pixels < 0:
                pixels = 0 if skipped else job.pixels(entry)
            if beside + own and beside + own + pixels > _MOST_PIXELS:
                waiting.append((entry, pixels))
                break
            window.append((entry, None if skipped else reader.submit(job.read, entry).result))
            wanted, own = wanted - (not skipped), own + pixels
        return window, own

    try:
        window, pixels = begin(0)
        while window:
            following = begin(pixels)
            looked = deque(job.look_ahead([(e, read) for e, read in window if read]))
            while window:  # given on, and held here no longer: it may be large
                entry, read = window.popleft()
                wanted = read is not None
                del read
                yield entry, looked.popleft() if wanted else None
            window, pixels = following if following[0] else begin(0)
    finally:
        reader.shutdown(cancel_futures=True)


def tasks_of(job: AnyJob, entries: Iterable[ImageEntry]) -> Iterator[Task]:
    """Entries with what the model sees in them, if the job has one."""
    return look_through(job, entries) if job.looks else ((entry, None) for entry in entries)
