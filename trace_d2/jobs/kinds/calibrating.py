"""What a job's edges mean, measured on a sample of its images before the first result is made.

The sample hangs on the seed and on the names of the images alone, so that every shard, whatever
its order or its workers, comes to the same calibration. The first one writes it down:
``calibration.json`` in the folder of results, which others can be given. How far the edges are
trusted is told in the terminal and in the report.
"""

from __future__ import annotations

import io
import json
import sys
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from trace_d2.edges.sources import EdgeOutput
from trace_d2.io.atomic import write_bytes, write_json
from trace_d2.jobs.entries import UsageError
from trace_d2.jobs.job import EntryT, InputsT, ResultT
from trace_d2.jobs.journal import Record
from trace_d2.jobs.kinds.edge_job import NONE, EdgeTakingJob
from trace_d2.jobs.report import Outcome, Report
from trace_d2.jobs.store import JobStore, writing_to
from trace_d2.propagation.calibration import SAMPLE_IMAGES, EdgeCalibration, EdgeStatistics, draw

SCRATCH = "calibration"
"""The folder of edges that were detected for the calibration, until their image's turn comes."""

CALIBRATION = "calibration.json"

_STUFF_IMAGES = 16  # of the sample, whose stuff is cut to count false pieces
_USELESS = 0.1  # of trust
_LEVELS = np.float32(65535)  # of 16 bits


class CuttingJob(EdgeTakingJob[EntryT, InputsT, ResultT]):
    """A job that cuts masks along edges, whose strengths are calibrated first."""

    calibrated = True
    cutter: Any  # cuts as its ``settings.cut`` says, and by its ``calibration``

    @abstractmethod
    def count_edges(self, statistics: EdgeStatistics, entry: EntryT, inputs: InputsT) -> None:
        """Count the edges of ``entry``, of which there are, for the calibration."""

    def count_false_pieces(self, inputs: InputsT) -> tuple[int, int]:
        """Masks of one image that hold no border, and the pieces that edges cut off them."""
        return 0, 0

    def prepare(self, left: Sequence[EntryT], workers: int, progress: bool) -> None:
        """Use the calibration: given, written down before, or measured now.

        Raises:
            FileNotFoundError, ValueError: a calibration is given that cannot be read.
            OutputError: the folder takes no more files.
        """
        if not left or self.source == NONE or self.cutter.settings.cut != "basins":
            return
        path = self.store.root / CALIBRATION
        if given := self.cfg.MODEL.TRACE.EDGES.CALIBRATION:
            path = Path(given)
        else:
            lock = FileLock(self.store.root / ".locks" / "calibration.lock")
            with writing_to(self.store.root), lock:
                if _written(self.store, tell=True) is None:
                    threads = 1 if self.looks else workers
                    write_json(path, self._measure(threads, progress), indent=1)
        self.cutter.calibration = EdgeCalibration.load(path)

    def detect(self, entry: EntryT, inputs: InputsT) -> EdgeOutput:
        path = self._sampled_path(entry)
        if not path.is_file():
            return super().detect(entry, inputs)
        return _read_sampled(path)

    @classmethod
    def tell(cls, store: JobStore) -> None:
        records = list(store.read_records().values())
        facts = trust_facts(store, records)
        counted = [record.facts["things"] for record in records if record.facts.get("uncut")]
        if counted:
            facts.insert(-1, ("things an image", f"{sum(counted) / len(counted):.1f}"))
        if facts:
            print("edges: " + "; ".join(f"{value} {name}" for name, value in facts))
        for warning in trust_warnings(store):
            print(f"warning: {warning}", file=sys.stderr)

    @classmethod
    def trust_page(
        cls, outcome: Outcome, *args: Any, cards: Sequence[tuple[str, str]], **more: Any
    ) -> Report:
        """A report page that tells how far the edges were trusted as well."""
        cards = [*cards, *trust_facts(outcome.store, outcome.finished)]
        warnings = trust_warnings(outcome.store)
        return cls.page(outcome, *args, cards=cards, warnings=warnings, **more)

    def _measure(self, threads: int, progress: bool) -> dict[str, Any]:
        """What ``calibration.json`` is to hold."""
        sample = self._sample()

        def count(entry: EntryT) -> EdgeStatistics:
            statistics, inputs = EdgeStatistics(), self._sampled(entry)
            if inputs is not None and inputs.edges is not None:
                self.count_edges(statistics, entry, inputs)
            return statistics

        def cut_stuff(entry: EntryT) -> tuple[int, int]:
            inputs = self._sampled(entry)
            return (0, 0) if inputs is None else self.count_false_pieces(inputs)

        with ThreadPoolExecutor(threads) as pool:
            total = EdgeStatistics()
            counted = pool.map(count, sample)  # in order: sums of floats depend on it
            bar = {"desc": "measuring edges", "unit": "image", "disable": not progress}
            for statistics in tqdm(counted, total=len(sample), **bar):
                total += statistics
            calibration = total.calibrate()
            self.cutter.calibration = calibration
            stuff = list(pool.map(cut_stuff, sample[:: max(1, len(sample) // _STUFF_IMAGES)]))
        return {
            **calibration.to_json(),
            "sample": [entry.stem for entry in sample],
            "stuff_masks": sum(masks for masks, _ in stuff),
            "false_pieces": sum(pieces for _, pieces in stuff),
        }

    def _sample(self) -> list[EntryT]:
        """The images to measure on, the same for every order of the entries."""
        seed = self.cfg.MODEL.TRACE.SEED
        drawn = sorted(self.entries, key=lambda e: (draw(seed, e.stem), e.stem))
        usable = (entry for entry in drawn if not self.skip(entry))
        return sorted(islice(usable, SAMPLE_IMAGES), key=lambda entry: entry.stem)

    def _sampled(self, entry: EntryT) -> InputsT | None:
        """The inputs with edges; None where the image will fail, and be recorded then.

        Detected edges are kept for when the image's turn comes.
        """
        try:
            inputs = self.load(entry)
            if not self.looks:
                return inputs
            found = self.detect(entry, inputs)
            inputs = self.with_detected(entry, inputs, found)
        except UsageError:
            raise
        except Exception:
            return None
        path = self._sampled_path(entry)
        if inputs.edges is not None and not path.is_file():
            _write_sampled(path, inputs.edges, found.timestep)
        return inputs

    def _sampled_path(self, entry: EntryT) -> Path:
        return self.store.root / SCRATCH / f"{entry.stem}.{self.fingerprint(entry)}.npz"


def trust_facts(store: JobStore, records: Sequence[Record]) -> list[tuple[str, str]]:
    """How far the edges of a folder of results were trusted, as names and values."""
    facts = []
    content = _written(store)
    if content is not None and content["images"]:
        facts.append(("trust in the edges, of 1", f"{content['trust']:.2f}"))
        if content.get("stuff_masks"):
            false = content["false_pieces"] / content["stuff_masks"]
            facts.append(("pieces that edges would cut off a stuff mask", f"{false:.2f}"))
    uncut = [record.facts["uncut"] for record in records if record.facts.get("uncut")]
    if uncut:
        facts.append(("things an image if edges cut nothing", f"{sum(uncut) / len(uncut):.1f}"))
    return facts


def trust_warnings(store: JobStore) -> list[str]:
    """A sentence where the edges of a folder of results say little."""
    content = _written(store)
    if content is None or (content["trust"] >= _USELESS and content["images"]):
        return []
    if not content["images"]:
        return [
            "the sample has too few outlines, or nothing inside them, to measure edges on: an edge "
            "is taken to be one above 0.5. Name a calibration.json by MODEL.TRACE.EDGES.CALIBRATION"
        ]
    if len(content["strengths"]) == 1:
        return [
            "the edges are empty, or fainter than 1/60 everywhere, and cut nothing of their own: "
            "0/1 masks and 8-bit values in 16-bit files must be scaled to the whole range"
        ]
    return [
        f"these edges say little here (trust {content['trust']:.2f} of 1): most of those inside "
        "the masks are no borders between objects, so masks are cut by their shape almost alone. "
        "Look at the pictures, and try another detector"
    ]


def _write_sampled(path: Path, edges: np.ndarray, timestep: int | None) -> None:
    buffer = io.BytesIO()
    levels = np.rint(edges * _LEVELS).astype(np.uint16)
    np.savez_compressed(buffer, levels=levels, timestep=-1 if timestep is None else timestep)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def _read_sampled(path: Path) -> EdgeOutput:
    with np.load(path, allow_pickle=False) as content:
        timestep = int(content["timestep"])
        edges = content["levels"].astype(np.float32) / _LEVELS
        return EdgeOutput(edges, timestep=None if timestep < 0 else timestep)


def _written(store: JobStore, tell: bool = False) -> dict[str, Any] | None:
    """What a job measured; None where there is nothing, or nothing whole: ``tell`` prints that."""
    path = store.root / CALIBRATION
    try:
        EdgeCalibration.load(path)
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        return None
    except ValueError as error:
        if tell:
            print(f"note: {error}; measured again", file=sys.stderr)
        return None
