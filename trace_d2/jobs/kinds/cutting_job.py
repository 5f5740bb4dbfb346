"""What jobs that cut masks along edges share: the calibration of the edges' strengths.

What edges mean is measured on a sample of a job's images before the first result is made. The
sample hangs on the seed and on the names of the images alone, so that every shard, whatever its
order or its workers, comes to the same calibration. The first one writes it down:
``calibration.json`` in the folder of results, which others can be given. How far the edges are
trusted is told in the terminal and in the report.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from trace_d2.edges.sources import EdgeOutput
from trace_d2.io.atomic import write_bytes, write_json
from trace_d2.io.json_files import number, read_json
from trace_d2.io.remote import StoreError
from trace_d2.jobs.command_line import NONE
from trace_d2.jobs.job import EntryT, Looked, Lookers, ResultT
from trace_d2.jobs.kinds.edge_job import EdgeTakingJob, PhotoT
from trace_d2.jobs.locks import LOCKS, hold_in_turn
from trace_d2.jobs.looking import look_through
from trace_d2.jobs.outcome import FactCounts, Outcome
from trace_d2.jobs.output import OutputError, writing_to
from trace_d2.jobs.progress import progress_bar
from trace_d2.jobs.report import Curve, Report
from trace_d2.jobs.store import JobStore
from trace_d2.jobs.trust import CALIBRATION, is_blind, read_measured, trust_facts, trust_warnings
from trace_d2.parallel import PIXELS_A_WORKER, PixelGate
from trace_d2.propagation.calibration import SAMPLE_IMAGES, EdgeCalibration, EdgeStatistics, draw
from trace_d2.terminal import say

SCRATCH = "calibration"
"""The folder of edges that were detected for the calibration, until their image's turn comes."""


_STUFF_IMAGES = 16  # of the sample, whose stuff is cut to count false pieces
_LEVELS = np.float32(65535)  # of 16 bits
_T = TypeVar("_T")
logger = logging.getLogger(__name__)


class CuttingJob(EdgeTakingJob[EntryT, PhotoT, ResultT]):
    """A job that cuts masks along edges, whose strengths are calibrated first."""

    calibrated = True
    meaning: ClassVar[tuple[str, str]] = (
        "Calibration: what an edge inside a mask means",
        "probability that it parts two objects",
    )
    sampled: frozenset[str] = frozenset()  # stems of the sample, edges of which may be kept
    cutter: Any  # what works by its ``calibration``

    @property
    def measures(self) -> bool:
        """Whether the calibration counts."""
        return bool(self.cutter.settings.cut == "basins")

    def new_statistics(self) -> Any:
        """What edges are counted by: it is added up, and gives a calibration."""
        return EdgeStatistics()

    @abstractmethod
    def count_edges(self, statistics: Any, entry: EntryT, inputs: PhotoT) -> None:
        """Count the edges of ``entry``, of which there are, for the calibration."""

    def count_false_pieces(self, inputs: PhotoT) -> tuple[int, int]:
        """Masks of one image that hold no border, and the pieces that edges cut off them."""
        return 0, 0

    def prepare(
        self, left: Sequence[EntryT], workers: int, progress: bool, lookers: Lookers | None = None
    ) -> None:
        """Use the calibration: given, written down before, or measured now.

        Raises:
            FileNotFoundError, ValueError: a calibration is given that cannot be read.
            OutputError: the folder takes no more files.
        """
        if not left or self.source == NONE or not self.measures:
            return
        if given := self.cfg.MODEL.TRACE.EDGES.CALIBRATION:
            self.cutter.calibration = EdgeCalibration.load(given)
            return
        path = self.store.root / CALIBRATION
        lock = path.parent / LOCKS / "calibration.lock"
        with writing_to(self.store.root), hold_in_turn(lock, "measures edges"):
            if read_measured(self.store, tell=True):
                self.cutter.calibration = EdgeCalibration.load(path)
                self.sampled = _sampled(path)
            else:
                damaged = path.is_file()
                content = self._measure(workers, progress, lookers)
                write_json(path, content, indent=1)
                if not self.store.share(path, first=not damaged):  # another shard was sooner
                    self.cutter.calibration = EdgeCalibration.load(path)

    def ready(self, entry: EntryT, inputs: PhotoT) -> Any:
        found = None
        if entry.stem in self.sampled:
            path = self.store.fetch(self._sampled_path(entry))
            found = _read_sampled(path) if path.is_file() else None
        return super().ready(entry, inputs) if found is None else found

    @classmethod
    def tell(cls, store: JobStore) -> None:
        super().tell(store)
        records = store.read_records().values()
        counts = FactCounts(record for record in records if record.facts.get("uncut"))
        facts = trust_facts(store, counts)
        if counts.records:
            facts.insert(-1, ("things an image", f"{counts.mean('things'):.1f}"))
        if facts:
            say("edges: " + "; ".join(f"{value} {name}" for name, value in facts))
        for warning in trust_warnings(store, records):
            say(f"warning: {warning}", error=True)

    @classmethod
    def trust_page(
        cls, outcome: Outcome, *args: Any, cards: Sequence[tuple[str, str]], **more: Any
    ) -> Report:
        """A report page that tells how far the edges were trusted as well."""
        cards = [*cards, *trust_facts(outcome.store, outcome.counts)]
        warnings = trust_warnings(outcome.store, outcome.finished)
        curves = calibration_curves(outcome, *cls.meaning)
        return cls.page(outcome, *args, cards=cards, warnings=warnings, curves=curves, **more)

    def _measure(self, threads: int, progress: bool, lookers: Lookers | None) -> dict[str, Any]:
        """Calibrate the cutter; returns what ``calibration.json`` is to hold."""
        sample, total = self._sample(), self.new_statistics()
        self.sampled = frozenset(entry.stem for entry in sample)
        look = self.detects and lookers is None
        if self.detects and lookers is not None:
            with progress_bar(len(sample), "looking at edges", progress) as bar:
                for _ in lookers.look(self, sample):
                    bar.update()

        def count(entry: EntryT, inputs: PhotoT) -> Any:
            statistics = self.new_statistics()
            if inputs.edges is not None:
                self.count_edges(statistics, entry, inputs)
            return statistics

        def cut_stuff(entry: EntryT, inputs: PhotoT) -> tuple[int, int]:
            return self.count_false_pieces(inputs)

        # In order: sums of floats depend on it.
        counted = self._of_each(sample, count, threads, look)
        with progress_bar(len(sample), "measuring edges", progress) as bar:
            for statistics in counted:
                total += statistics or self.new_statistics()
                bar.update()
        calibration = total.calibrate()
        self.cutter.calibration = calibration
        some = sample[:: max(1, len(sample) // _STUFF_IMAGES)]
        stuff = [counts for counts in self._of_each(some, cut_stuff, threads, look) if counts]
        return {
            **calibration.to_json(),
            "sample": [entry.stem for entry in sample],
            "stuff_masks": sum(masks for masks, _ in stuff),
            "false_pieces": sum(pieces for _, pieces in stuff),
        }

    def _of_each(
        self,
        sample: Sequence[EntryT],
        work: Callable[[EntryT, PhotoT], _T],
        threads: int,
        look: bool,
    ) -> Iterator[_T | None]:
        """``work`` of the images with edges; None where one will fail, and be recorded then.

        Args:
            look: whether a model of this process finds them; else they are given, or were kept.
        """
        if look:
            for entry, looked in look_through(self, sample):
                if isinstance(looked, Looked):
                    self.keep_seen(entry, looked)
                    yield work(entry, looked.inputs)
                else:
                    yield None
            return

        gate = PixelGate(threads * PIXELS_A_WORKER)

        def attempt(entry: EntryT) -> _T | None:
            with gate.image(self.pixels(entry)):
                try:
                    inputs = self._load_kept(entry) if self.detects else self.load(entry)
                except (StoreError, OutputError):  # else results would depend on it
                    raise
                except Exception:
                    return None
                return work(entry, inputs)

        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(attempt, sample)

    def keep_seen(self, entry: EntryT, looked: Looked[PhotoT]) -> None:
        """Keep detected edges, for ``_measure`` and for when the image's turn comes."""
        path = self._sampled_path(entry)
        if looked.inputs.edges is not None and not path.is_file():
            with writing_to(self.store.root):
                _write_sampled(path, looked.inputs.edges, looked.facts)
            self.store.share(path)

    def _load_kept(self, entry: EntryT) -> PhotoT:
        """The inputs with edges that were kept. Raises a ValueError if there are none."""
        path = self.store.fetch(self._sampled_path(entry))
        found = _read_sampled(path) if path.is_file() else None
        if found is None:
            raise ValueError(f"no edges of {entry.file_name} were kept")
        return self.with_detected(entry, self.load(entry), found)

    def _sample(self) -> list[EntryT]:
        """The images to measure on, the same for every order of the entries."""
        seed = self.cfg.MODEL.TRACE.SEED
        drawn = sorted(self.entries, key=lambda e: (draw(seed, e.stem), e.stem))
        usable = (entry for entry in drawn if not self.skip(entry))
        return sorted(islice(usable, SAMPLE_IMAGES), key=lambda entry: entry.stem)

    def _sampled_path(self, entry: EntryT) -> Path:
        """Named by a hash, as the image's name may be as long as names can be."""
        stem = hashlib.sha256(os.fsencode(entry.stem)).hexdigest()[:16]
        return self.store.root / SCRATCH / f"{stem}-{self.fingerprint(entry)}.npz"


def calibration_curves(outcome: Outcome, title: str, meaning: str) -> list[Curve]:
    """What the strengths of the edges mean, measured or given; nothing where neither is."""
    content = read_measured(outcome.store) or outcome.settings.get("calibration")
    if not isinstance(content, dict) or is_blind(outcome.settings):
        return []
    try:
        odds = zip(map(number, content["strengths"]), map(number, content["log_odds"]), strict=True)
        points = [(strength, math.exp(min(0.0, value))) for strength, value in odds]
    except (KeyError, TypeError, ValueError):  # of settings that somebody changed
        return []
    return [Curve(title, points, "strength of the edge", meaning)]


def _sampled(path: Path) -> frozenset[str]:
    """The stems that ``calibration.json`` was measured on; none where somebody changed it."""
    sample = read_json(path).get("sample", [])
    return frozenset(map(str, sample)) if isinstance(sample, list) else frozenset()


def _write_sampled(path: Path, edges: np.ndarray, facts: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    levels = np.rint(edges * _LEVELS).astype(np.uint16)
    timestep, tiles = facts.get("timestep", -1), facts.get("tiles", 0)
    np.savez_compressed(buffer, levels=levels, timestep=timestep, tiles=tiles)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def _read_sampled(path: Path) -> EdgeOutput | None:
    """What ``_write_sampled`` wrote; None if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as content:
            timestep = content["timestep"].item()
            tiles = content["tiles"].item() if "tiles" in content else 0
            edges = content["levels"].astype(np.float32) / _LEVELS
            return EdgeOutput(edges, timestep=None if timestep < 0 else timestep, tiles=tiles)
    except Exception as error:  # numpy does not tell what broken archives raise
        logger.warning("%s is damaged (%s): its edges are detected again", path, error)
        return None
