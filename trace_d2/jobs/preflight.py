"""A look at some images of a job before anything is loaded or written.

A mistake in the command (categories of other masks, edges of other images) fails every image; it
is said at once, rather than image by image once a backbone is there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from trace_d2.io.images import UnknownClassError
from trace_d2.io.listing import spread
from trace_d2.io.remote import StoreError
from trace_d2.jobs.job import AnyJob
from trace_d2.jobs.journal import ImageEntry
from trace_d2.terminal import say

_IMAGES = 24
_SECONDS = 1.5  # then it has seen enough
_FEWEST = 3  # failures; fewer say nothing of the others
_THREADS = 4


def look_at_some(job: AnyJob, limit: int | None) -> None:
    """Read some images of ``job``, drawn from all over the set, as its ``probe`` does.

    What a file tells of each image is compared with all of them, see ``check_entries``.

    Raises:
        ValueError: most of them have classes that the categories lack, or none can be used.
        StoreError: the store of the inputs does not answer any more.
    """
    usable = [entry for entry in job.entries[:limit] if not job.skip(entry)]
    remark = job.check_entries(usable)
    if remark:
        say(f"note: {remark}", error=True)
    seen = list(_look(job, usable))
    failed = [(entry, error) for entry, error in seen if error is not None]
    strange = [error for _, error in failed if isinstance(error, UnknownClassError)]
    if len(strange) >= _FEWEST and 2 * len(strange) > len(seen):
        raise ValueError(
            f"{len(strange)} of {len(seen)} semantic masks looked at are of other categories: "
            f"{strange[0]}"
        )
    if len(failed) < _FEWEST:
        return
    entry, error = failed[0]
    if len(failed) == len(seen):
        raise ValueError(
            f"none of the {len(seen)} images looked at can be {job.done}; {entry.file_name}: "
            f"{error}"
        )
    if 2 * len(failed) > len(seen):
        say(
            f"note: {len(failed)} of {len(seen)} images looked at will fail, as {entry.file_name}: "
            f"{error}",
            error=True,
        )


def _look(
    job: AnyJob, entries: Sequence[ImageEntry]
) -> Iterator[tuple[ImageEntry, Exception | None]]:
    """Some of ``entries`` with what is wrong with each, as many as there is time for."""
    by_stem = {entry.stem: entry for entry in entries}
    stems = spread(list(by_stem), _IMAGES)
    random.Random(0).shuffle(stems)  # so that the first ones are from all over the set
    until = time.monotonic() + _SECONDS

    def attempt(entry: ImageEntry) -> Exception | None:
        try:
            job.probe(entry)
        except (ValueError, OSError) as error:
            return error
        except StoreError:  # which was waited for, and is not once more
            raise
        except Exception:  # whatever else is told of the image when its turn comes
            return None
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = [(by_stem[stem], pool.submit(attempt, by_stem[stem])) for stem in stems]
        try:
            for entry, found in waiting:
                yield entry, found.result()
                if time.monotonic() > until:
                    break
        finally:
            pool.shutdown(cancel_futures=True)
