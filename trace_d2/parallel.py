"""An ordered map over processes, and how much is in work at once."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

from tqdm import tqdm

PIXELS_A_WORKER = 24_000_000
"""Of images in work or waiting, for each that works: larger ones are not done several at a time."""

T = TypeVar("T")
R = TypeVar("R")


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count(text: str) -> int:
    """The value of ``--workers`` on a command line: 0 (one a CPU) or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


class PixelGate:
    """Lets threads through as long as their images have so many pixels at most, all together.

    A larger image goes alone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside: list[int] = []
        self._changed = threading.Condition()

    def fits(self, pixels: int) -> bool:
        """Whether an image of so many ``pixels`` may go in now."""
        return not self._inside or sum(self._inside) + pixels <= self._most

    @contextlib.contextmanager
    def image(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for an image of so many ``pixels``, and take it."""
        with self._changed:
            self._changed.wait_for(lambda: self.fits(pixels))
            self._inside.append(pixels)
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(pixels)
                self._changed.notify_all()


def ordered_map(
    job: Callable[[T], R],
    items: Sequence[T],
    workers: int = 1,
    *,
    items_a_worker: int = 1,
    description: str | None = None,
    unit: str = "image",
    progress: bool = False,
) -> Iterator[R]:
    """``map(job, items)`` over processes, in the order of ``items``, under a progress bar.

    Args:
        job: a function of a module, or a ``partial`` of one, as it goes to them by pickle.
        items: what it is called with.
        workers: processes at most; 0: one a CPU. Others than this one import the main module anew,
            which must keep its work under ``if __name__ == "__main__"``.
        items_a_worker: how many are worth the start of a process; a share that is smaller than
            that for two is done in this one.
        description, unit: of the bar.
        progress: show it.

    Raises:
        what ``job`` does, at the result of its item; what has not begun is dropped.
    """
    workers = min(workers or available_cpus(), len(items) // items_a_worker)
    bar = partial(tqdm, total=len(items), desc=description, unit=unit, disable=not progress)
    if workers <= 1:
        yield from bar(map(job, items))
        return
    # Spawned, not forked: a fork copies the locks of the threads that torch and OpenCV keep.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    chunk = max(1, min(16, len(items) // (4 * workers)))
    try:
        yield from bar(pool.map(job, items, chunksize=chunk))
    finally:
        pool.shutdown(cancel_futures=True)
