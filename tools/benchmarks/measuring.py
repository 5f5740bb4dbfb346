"""Time and peak memory of pieces of work, and two ways to one result in turns."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

Clock = Callable[[], float]


@dataclass(frozen=True)
class Turns:
    """Two ways to one result, timed in turns.

    Attributes:
        ours, plain: median seconds.
        ratio: the median of plain / ours, pair by pair.
        results: what ours and plain gave in the last turn.
    """

    ours: float
    plain: float
    ratio: float
    results: tuple[Any, Any]

    def row(self, name: str, apart: float, images: int = 0) -> list[str]:
        """A row of the table: times, or the rate at which so many ``images`` are done."""
        times = (self.ours, self.plain)
        cells = [f"{images / t:.0f} images/s" if images else _seconds(t) for t in times]
        return [name, *cells, f"{self.ratio:.{1 if self.ratio > 2 else 2}f} x", f"{apart:.1e}"]


def in_turns(
    ours: Callable[[], Any],
    plain: Callable[[], Any],
    repeats: int,
    clock: Clock = time.perf_counter,
    warm_up: int = 0,
) -> Turns:
    """Alternate two ways ``repeats`` times, after ``warm_up`` turns that do not count."""
    times = []
    for turn in range(warm_up + repeats):
        (first, mine), (second, other) = timed(ours, clock), timed(plain, clock)
        if turn >= warm_up:
            times.append((first, second))
    ratio = statistics.median(second / first for first, second in times)
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    return Turns(first, second, ratio, (mine, other))


def largest(ours: Any, plain: Any) -> float:
    """How far two results lie apart."""
    return float(np.abs(np.asarray(ours) - np.asarray(plain)).max())


def timed(way: Callable[[], Any], clock: Clock = time.perf_counter) -> tuple[float, Any]:
    """Seconds of ``way()``, the work that it leaves to a CUDA device included, and its result."""
    _synchronise()
    start = clock()
    result = way()
    _synchronise()
    return clock() - start, result


class Checkout:
    """Another checkout of this repository, in a process that does there what it is asked for.

    Args:
        root: its folder.
        module: of this folder; its ``serve`` answers lines of JSON with seconds.
    """

    def __init__(self, root: Path, module: str) -> None:
        path = f"{root}{os.pathsep}{Path(__file__).parent}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import {module}; {module}.serve()"],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, *request: Any) -> float:
        """What a piece of work took there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(request)}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def turns(
        self, ours: Callable[[], Any], request: Sequence[Any], repeats: int, clock: Clock
    ) -> Turns:
        """Ours and theirs in turns, after one that warms caches."""
        pairs = []
        for turn in range(repeats + 1):
            pair = timed(ours, clock)[0], self.seconds(*request)
            if turn:
                pairs.append(pair)
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        return Turns(mine, theirs, statistics.median(b / a for a, b in pairs), (None, None))

    def close(self) -> None:
        """End its process."""
        self._process.communicate()


def in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """``work(*arguments)`` in a process of its own, whose peak memory is nobody else's.

    Raises:
        RuntimeError: the process ended without a result.
    """
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, threads) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"{work.__name__}{arguments} ended without a result: did it run out of memory?"
            ) from error


class PeakMemory:
    """Measures from where it is made: ``held`` then, and the ``peak()`` since.

    On the CPU that is resident memory of the process (Linux only), on CUDA what PyTorch allocated.

    Attributes:
        held: bytes in use when it was made.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.held = torch.cuda.memory_allocated(self.device)
        else:
            # Forgets earlier peaks, such as that of loading a model; see proc(5).
            Path("/proc/self/clear_refs").write_text("5")
            self.held = _field_bytes("/proc/self/status", "VmRSS")

    def peak(self) -> int:
        """Most bytes in use since."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return _field_bytes("/proc/self/status", "VmHWM")

    def growth(self) -> int:
        """``peak() - held``: what the work took on top of what was there."""
        return self.peak() - self.held


def tree_memory(pid: int) -> tuple[int, int]:
    """Bytes of a process and all below it (Linux), and how many they are.

    What several share counts once: it is the sum of their proportional shares (PSS).
    """
    total, found, left = 0, 0, [pid]
    while left:
        process = Path(f"/proc/{left.pop()}")
        with contextlib.suppress(OSError):  # it ended
            total += _field_bytes(process / "smaps_rollup", "Pss")
            found += 1
            for task in (process / "task").iterdir():
                left += map(int, (task / "children").read_text().split())
    return total, found


def available_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that can still be taken on ``device``."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return _field_bytes("/proc/meminfo", "MemAvailable")


def _field_bytes(path: str | Path, field: str) -> int:
    """A field of a /proc file in bytes; getrusage would count the parent's peak, too."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path} has no {field}: memory is measured on Linux only")


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
