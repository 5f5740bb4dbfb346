"""What a job's edges mean, measured on a sample of its images before the first result is made.

The sample hangs on the seed and on the names of the images alone, so that every shard, whatever
its order or its workers, comes to the same calibration. The first one writes it down:
``calibration.json`` in the folder of results, which others can be given.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from trace_d2.edges.sources import EdgeSource
from trace_d2.io.atomic import write_json
from trace_d2.jobs.entries import ImageEntry
from trace_d2.jobs.image_job import ImageJob
from trace_d2.jobs.journal import Record
from trace_d2.jobs.store import writing_to
from trace_d2.propagation.calibration import EdgeCalibration, EdgeStatistics

SAMPLE_IMAGES = 48
"""Images that edges are measured on; twice as many change PQ by a tenth."""

_STUFF_IMAGES = 16  # of the sample, whose stuff is cut to count false pieces

_Job = ImageJob[Any, Any, Any]


def draw(seed: int, stem: str) -> int:
    """The rank by which an image is drawn into a sample, whatever other images there are."""
    return zlib.crc32(f"{seed} {stem}".encode())


def calibrate_job(
    job: _Job,
    entries: Sequence[ImageEntry],
    build_detection: Callable[[], EdgeSource] | None,
    workers: int,
    progress: bool,
) -> EdgeCalibration | None:
    """The calibration that ``job`` is to use: given, written down before, or measured now.

    Args:
        job: the job.
        entries: all its images, whatever the shard.
        build_detection: makes the edge detector, where edges are detected.
        workers: threads that read the sample.
        progress: show a progress bar.

    Returns:
        None where no calibration is needed.

    Raises:
        FileNotFoundError, ValueError: a calibration is given that cannot be read.
        OutputError: the folder takes no more files.
    """
    if not job.calibrates:
        return None
    if given := job.settings.calibration:
        return EdgeCalibration.load(given)
    path = job.store.calibration_path
    with writing_to(job.store.root), FileLock(job.store.root / ".locks" / "calibration.lock"):
        if not _is_whole(path):
            sample = _sample(job, entries)
            read = partial(_read, job, build_detection)
            threads = workers if build_detection is None else 1
            write_json(path, _measure(job, sample, read, threads, progress), indent=1)
    return EdgeCalibration.load(path)


def _is_whole(path: Path) -> bool:
    """Whether there is a calibration; a damaged one is measured again, to the same values."""
    try:
        EdgeCalibration.load(path)
    except FileNotFoundError:
        return False
    except ValueError as error:
        print(f"note: {error}; measured again", file=sys.stderr)
        return False
    return True


def _sample(job: _Job, entries: Sequence[ImageEntry]) -> list[ImageEntry]:
    """The images to measure on, the same for every order of ``entries``."""
    seed = job.settings.cfg.MODEL.TRACE.SEED
    drawn = sorted(entries, key=lambda e: (draw(seed, e.stem), e.stem))
    usable = (entry for entry in drawn if not job.skip_reason(entry))
    return sorted(_first(usable, SAMPLE_IMAGES), key=lambda entry: entry.stem)


def _first(entries: Iterator[ImageEntry], count: int) -> list[ImageEntry]:
    return [entry for entry, _ in zip(entries, range(count), strict=False)]


def _read(job: _Job, build_detection: Callable[[], EdgeSource] | None, entry: ImageEntry) -> Any:
    """The inputs of ``entry`` with edges; None where the image will fail, and be recorded then."""
    if build_detection is not None:
        found = job.detect(entry, build_detection(), partial(job.load, entry), keep=True)
        return None if isinstance(found, Record) else found.inputs
    try:
        return job.load(entry)
    except (OSError, ValueError):
        return None


def _measure(
    job: _Job,
    sample: Sequence[ImageEntry],
    read: Callable[[ImageEntry], Any],
    workers: int,
    progress: bool,
) -> dict[str, Any]:
    """What ``calibration.json`` is to hold."""

    def count(entry: ImageEntry) -> EdgeStatistics:
        statistics, inputs = EdgeStatistics(), read(entry)
        if inputs is not None:
            job.count_edges(statistics, entry, inputs)
        return statistics

    def cut_stuff(entry: ImageEntry) -> tuple[int, int]:
        inputs = read(entry)
        return (0, 0) if inputs is None else job.count_false_pieces(inputs)

    with ThreadPoolExecutor(workers) as pool:
        bar = tqdm(total=len(sample), desc="measuring edges", unit="image", disable=not progress)
        total = EdgeStatistics()
        with bar:
            for counted in pool.map(count, sample):  # in order: sums of floats depend on it
                total += counted
                bar.update()
        calibration = total.calibrate()
        job.use_calibration(calibration)
        stuff = list(pool.map(cut_stuff, sample[:: max(1, len(sample) // _STUFF_IMAGES)]))
    return {
        **calibration.to_json(),
        "sample": [entry.stem for entry in sample],
        "stuff_masks": sum(masks for masks, _ in stuff),
        "false_pieces": sum(pieces for _, pieces in stuff),
    }
