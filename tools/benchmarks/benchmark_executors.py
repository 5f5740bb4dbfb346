#!/usr/bin/env python3
"""Images a second of one job by processes, by actors of this machine and on Ray, in turns.

    python tools/benchmarks/benchmark_executors.py [--images N] [--cores N] [--repeats N]

The job labels scenes of 480 x 640: semantic masks are cut along given edges, so that it is the
cores that are busy. The rate is that of the images between the first to end and the last, by the
times in the journal; the seconds until the first one ends, which are of starting, stand beside it.
So do the processor's seconds that 100 images take meanwhile, of all processes: on a machine that
others use too these tell more than the rate, as Linux shares cores out among sessions, and Ray's
processes are one of their own.
Results of all are compared byte by byte.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import io
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from tabulate import tabulate

from trace_d2.io.listing import list_images
from trace_d2.jobs.actors import Actors
from trace_d2.jobs.engine import RunOptions, run_job
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.local_actors import LocalActors
from trace_d2.jobs.ray_actors import RayActors

_SCENES = 12  # drawn; the other images are copies


@dataclass(frozen=True)
class Turn:
    """One run of the job.

    Attributes:
        rate: images a second.
        first: seconds until the first one ended.
        whole: seconds of the whole run, with what joins the results.
        busy: seconds of the processor that 100 images took.
    """

    rate: float
    first: float
    whole: float
    busy: float


class Meter:
    """The processor's seconds of this process and all that it started, as time goes on."""

    def __enter__(self) -> Meter:
        self._samples: list[tuple[float, float]] = []
        self._known: dict[int, float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def between(self, start: float, end: float) -> float:
        """Those from ``start`` to ``end``, seconds since 1970."""
        at, seconds = zip(*self._samples, strict=True)
        return float(np.interp(end, at, seconds) - np.interp(start, at, seconds))

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._end.wait(0.2):
            for process in (own, *own.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    used = process.cpu_times()
                    self._known[process.pid] = used.user + used.system
            self._samples.append((time.time(), sum(self._known.values())))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    args = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        rows = compare(Path(name), args.images, args.cores, args.repeats, args.side)
    titles = ["images/s", "of processes", "first image", "whole run", "CPU of 100"]
    titles = ["images/s", "of processes", "first image", "whole run", "CPU of 100"]
    print(tabulate(rows, ["executor", *titles]))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=400, metavar="N")
    parser.add_argument("--cores", type=int, default=2, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--side", type=int, default=480, metavar="PIXELS", help="shorter side")
    return parser


def compare(
    folder: Path, images: int, cores: int, repeats: int, side: int = 480
) -> list[list[str]]:
    """A row for each: processes, actors of this machine, Ray; ``folder`` is empty."""
    write_images(folder, images, side)
    ways: dict[str, Callable[[], Actors] | None] = {
        f"{cores} processes": None,
        f"{cores} actors": lambda: LocalActors(workers=1, gpus=[""] * cores),
        f"Ray, {cores} cores": lambda: RayActors("local", cores, gpus=False, looks=False),
    }
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, actors in ways.items():
            options = RunOptions(workers=cores, actors=actors)
            turns[name].append(timed(folder, name, options))
        first, *others = (folder / name / "panoptic" for name in ways)
        for other in others:
            check_alike(first, other)
    base = next(iter(turns.values()))
    return [_row(name, of_one, base) for name, of_one in turns.items()]


def write_images(folder: Path, images: int, side: int) -> None:
    """Scenes, and copies of them until there are so many."""
    from trace_d2.scenes.dataset import SceneSettings, write_scenes

    drawn = min(images, _SCENES)
    settings = SceneSettings(size=(side, side * 4 // 3))
    write_scenes(folder, drawn, settings, progress=False)
    for number in range(drawn, images):
        for kind in ("images", "semantic", "edges_oracle"):
            source = folder / kind / f"scene_{number % drawn:06d}.png"
            shutil.copyfile(source, folder / kind / f"scene_{number:06d}.png")


def timed(folder: Path, name: str, options: RunOptions) -> Turn:
    """One run of the job, into the folder ``name`` there."""
    from trace_d2.config import get_trace_cfg
    from trace_d2.jobs.kinds.panoptic_labels import LabelJob
    from trace_d2.scenes.dataset import scene_categories

    shutil.rmtree(folder / name, ignore_errors=True)
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.EDGES.SOURCE = "files"
    cfg.MODEL.TRACE.EDGES.DIR = str(folder / "edges_oracle")
    names = list_images(folder / "images").items()
    entries = [ImageEntry(stem, name, rank) for rank, (stem, name) in enumerate(names, start=1)]
    given = (folder / "images", folder / "semantic", scene_categories())
    job = LabelJob(cfg, *given, folder / name, entries)
    start, began = time.perf_counter(), time.time()
    with contextlib.redirect_stdout(io.StringIO()), Meter() as meter:
        result = run_job(job, options)
    whole = time.perf_counter() - start
    if result.done != len(entries):
        raise RuntimeError(
            f"{len(entries) - result.done} images were not done: {list(result.failed)[:1]}"
        )
    ended = sorted(record.finished for record in job.store.read_records().values())
    busy = 100 * meter.between(ended[0], ended[-1]) / (len(ended) - 1)
    return Turn((len(ended) - 1) / (ended[-1] - ended[0]), ended[0] - began, whole, busy)


def check_alike(one: Path, other: Path) -> None:
    """Raise a RuntimeError unless both folders have the same files."""
    names = [path.name for path in one.iterdir()]
    _, differ, missing = filecmp.cmpfiles(one, other, names, shallow=False)
    if differ or missing:
        raise RuntimeError(f"{[*differ, *missing][0]} is another in {other} than in {one}")


def _row(name: str, turns: Sequence[Turn], base: Sequence[Turn]) -> list[str]:
    ratio = statistics.median(a.rate / b.rate for a, b in zip(turns, base, strict=True))
    rate, first, whole, busy = (
        statistics.median(getattr(turn, part) for turn in turns)
        for part in ("rate", "first", "whole", "busy")
    )
    seconds = [f"{part:.1f} s" for part in (first, whole, busy)]
    return [name, f"{rate:.1f}", f"{ratio:.2f}", *seconds]


if __name__ == "__main__":
    sys.exit(main())
