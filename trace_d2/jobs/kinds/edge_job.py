"""What jobs that take edges share: detection, and the calibration of their strengths.

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
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from tqdm import tqdm

from trace_d2.edges.sources import EdgeOutput, EdgeSource, build_edge_source
from trace_d2.edges.student_files import student_print
from trace_d2.io.atomic import write_bytes, write_json
from trace_d2.io.edge_maps import check_edges, write_edges
from trace_d2.jobs.command_line import FILES, NONE, STUDENT, TEACHER
from trace_d2.jobs.job import EntryT, InputsT, Job, ResultT, UsageError
from trace_d2.jobs.journal import Record
from trace_d2.jobs.locks import LOCKS, hold_lock
from trace_d2.jobs.output import writing_to
from trace_d2.jobs.pinned_model import build_pinned
from trace_d2.jobs.report import Outcome, Report
from trace_d2.jobs.store import JobStore
from trace_d2.jobs.trust import CALIBRATION, read_measured, trust_facts, trust_warnings
from trace_d2.propagation.calibration import SAMPLE_IMAGES, EdgeCalibration, EdgeStatistics, draw
from trace_d2.settings import flatten
from trace_d2.terminal import say

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

KEPT_EDGES = "edges/{}.png"

SCRATCH = "calibration"
"""The folder of edges that were detected for the calibration, until their image's turn comes."""

_STUFF_IMAGES = 16  # of the sample, whose stuff is cut to count false pieces
_LEVELS = np.float32(65535)  # of 16 bits
logger = logging.getLogger(__name__)

# How the work is done, which leaves results as they are (up to rounding).
_RESOURCE_KEYS = frozenset(
    {
        "DEVICE",
        "BACKBONE.CPU_OFFLOAD",
        "BACKBONE.COMPILE",
        "BACKBONE.OFFLOAD",
        "ATTENTION.SCRATCH_MB",
        "ATTENTION.KERNELS",
        "EMERGENCE.BATCH",
        "EMERGENCE.MEMORY_MB",
        "BGP.THREADS",
    }
)
# Keys that came later: at these values results are as they were before.
_LATER_KEYS = {
    "BACKBONE.REVISION": "",
    "BACKBONE.VARIANT": "",
    "BACKBONE.DENOISER": "",
    "BACKBONE.QUANTIZE": "",
    "BACKBONE.GUIDANCE": 1.0,
}
# What detected edges depend on, which given edges do not. A student looks for no timestep and no
# threshold; its files tell its blocks and its decoder, and a hash of them goes with these keys.
_DETECTOR_KEYS = {
    TEACHER: ("SEED", "BACKBONE", "ATTENTION", "EMERGENCE", "ABDIV"),
    STUDENT: ("SEED", "BACKBONE", "STUDENT.MERGE_LORA"),
}


class EdgeTakingJob(Job[EntryT, InputsT, ResultT]):
    """A job whose images have edges: given ones, detected ones, or none.

    Args:
        cfg: the config; ``MODEL.TRACE.EDGES`` says where edges come from.
        images: folder of the photographs.
        output: see ``Job``.
        entries: all images, in sorted order of stems.
        settings: what decides the results besides images, edges and config.
        save_edges: keep the edges as well.
    """

    nodes: ClassVar[tuple[str, ...]] = ()  # of MODEL.TRACE that decide results
    calibrated: ClassVar[bool] = False  # whether strengths of edges are
    stays = (*Job.stays, "detector")

    def __init__(
        self,
        cfg: CfgNode,
        images: str | Path,
        output: str | Path,
        entries: Sequence[EntryT],
        settings: Mapping[str, Any],
        save_edges: bool,
    ) -> None:
        self.cfg = cfg
        self.images = Path(images)
        node = cfg.MODEL.TRACE.EDGES
        self.source: str = node.SOURCE
        self.looks = self.source in _DETECTOR_KEYS
        self.edges_folder = Path(node.DIR) if self.source == FILES else None
        content = {
            "images": str(self.images.resolve()),
            "edges": str(self.edges_folder.resolve()) if self.edges_folder else self.source,
            **settings,
            **deciding_keys(cfg, (*self.nodes, *_DETECTOR_KEYS.get(self.source, ()))),
        }
        if self.source == STUDENT:
            content["student"] = student_print(cfg)
        if self.calibrated and node.CALIBRATION and self.source != NONE:
            content["calibration"] = EdgeCalibration.load(node.CALIBRATION).to_json()
        super().__init__(output, content, entries, [KEPT_EDGES] if save_edges else [])

    @cached_property
    def detector(self) -> EdgeSource:
        """The teacher or the student. Raises UsageError where it cannot be loaded."""
        return build_pinned(build_edge_source, self.cfg, self.store)

    def look(self, entry: EntryT, inputs: InputsT) -> tuple[InputsT, Mapping[str, Any]]:
        """``inputs`` with detected edges; of the teacher's the emergence point is a fact."""
        found = self.detect(entry, inputs)
        facts = {"timestep": found.timestep} if self.source == TEACHER else {}
        return self.with_detected(entry, inputs, found), facts

    def detect(self, entry: EntryT, inputs: InputsT) -> EdgeOutput:
        """What the detector finds; the stem without folders fixes its noise."""
        return self.detector(inputs.photograph.pixels, Path(entry.file_name).stem)

    def with_detected(self, entry: EntryT, inputs: InputsT, found: EdgeOutput) -> InputsT:
        """``inputs`` with what was detected. Raises ValueError if that is no map of edges."""
        return inputs.with_edges(
            check_edges(found.edges, f"the edges detected in {entry.file_name}")
        )

    def keep_edges(self, entry: EntryT, edges: np.ndarray | None) -> None:
        """Write ``edges`` float32 (H, W) in 0..1, if there are any."""
        if edges is not None:
            write_edges(self.store.place(KEPT_EDGES, entry.stem), edges)

    @classmethod
    def page(
        cls,
        outcome: Outcome,
        title: str,
        panes: Sequence[tuple[str, str]],
        caption: Callable[[dict[str, Any]], list[str]],
        rows: Sequence[tuple[str, Any]] = (),
        **more: Any,
    ) -> Report:
        """A report page that tells where edges are from and which emergence points they have.

        Args:
            outcome, title, panes: see ``Report``.
            caption: what is said of one image, by its facts.
            rows: sources besides images and edges, by title.
            more: of ``Report``.
        """
        settings = outcome.settings
        edges, backbone = settings.get("edges", ""), settings.get("MODEL.TRACE.BACKBONE.NAME")
        detected = {TEACHER: f"backbone {backbone}", STUDENT: f"student of {backbone}"}
        images = ("Images", settings.get("images", ""))
        sources = [images, *rows, ("Edges", detected.get(edges, edges))]
        found = [r.facts["timestep"] for r in outcome.finished if "timestep" in r.facts]

        def full_caption(record: Record) -> str:
            point = record.facts.get("timestep")
            last = [] if point is None else [f"emergence point {point}"]
            return ", ".join([*caption(record.facts), *last])

        bars = {"Instance emergence point (of 1000)": dict(sorted(Counter(found).items()))}
        return Report(title, panes, full_caption, sources, bars=bars, **more)


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
        if given := self.cfg.MODEL.TRACE.EDGES.CALIBRATION:
            self.cutter.calibration = EdgeCalibration.load(given)
            return
        path = self.store.root / CALIBRATION
        lock = path.parent / LOCKS / "calibration.lock"
        with writing_to(self.store.root), hold_lock(lock, timeout=-1):
            if read_measured(self.store, tell=True):
                self.cutter.calibration = EdgeCalibration.load(path)
            else:
                content = self._measure(1 if self.looks else workers, progress)
                write_json(path, content, indent=1)

    def detect(self, entry: EntryT, inputs: InputsT) -> EdgeOutput:
        path = self._sampled_path(entry)
        found = _read_sampled(path) if path.is_file() else None
        return super().detect(entry, inputs) if found is None else found

    @classmethod
    def tell(cls, store: JobStore) -> None:
        records = list(store.read_records().values())
        facts = trust_facts(store, records)
        counted = [r.facts.get("things", 0) for r in records if r.facts.get("uncut")]
        if counted:
            facts.insert(-1, ("things an image", f"{sum(counted) / len(counted):.1f}"))
        if facts:
            say("edges: " + "; ".join(f"{value} {name}" for name, value in facts))
        for warning in trust_warnings(store, records):
            say(f"warning: {warning}", error=True)

    @classmethod
    def trust_page(
        cls, outcome: Outcome, *args: Any, cards: Sequence[tuple[str, str]], **more: Any
    ) -> Report:
        """A report page that tells how far the edges were trusted as well."""
        cards = [*cards, *trust_facts(outcome.store, outcome.finished)]
        warnings = trust_warnings(outcome.store, outcome.finished)
        return cls.page(outcome, *args, cards=cards, warnings=warnings, **more)

    def _measure(self, threads: int, progress: bool) -> dict[str, Any]:
        """Calibrate the cutter; returns what ``calibration.json`` is to hold."""
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
        """Named by a hash, as the image's name may be as long as names can be."""
        stem = hashlib.sha256(os.fsencode(entry.stem)).hexdigest()[:16]
        return self.store.root / SCRATCH / f"{stem}-{self.fingerprint(entry)}.npz"


def deciding_keys(cfg: CfgNode, names: Sequence[str]) -> dict[str, Any]:
    """The config keys that decide results, of the nodes and keys ``names`` of ``MODEL.TRACE``."""
    return {
        f"MODEL.TRACE.{key}": value
        for key, value in flatten(cfg.MODEL.TRACE).items()
        if key not in _RESOURCE_KEYS
        and not (key in _LATER_KEYS and value == _LATER_KEYS[key])
        and any(key == name or key.startswith(f"{name}.") for name in names)
    }


def upgrade(settings: dict[str, Any]) -> dict[str, Any]:
    """From settings of format 1: few kinds had a name, the teacher was called ``backbone``.

    A key that changed no result is gone since.
    """
    kind = "refined masks" if "masks" in settings else "labels"
    edges = TEACHER if settings.get("edges") == "backbone" else settings.get("edges")
    kept = {k: v for k, v in settings.items() if k != "MODEL.TRACE.BGP.IRNET_PADDING"}
    return {"kind": kind, **kept, "edges": edges}


def _write_sampled(path: Path, edges: np.ndarray, timestep: int | None) -> None:
    buffer = io.BytesIO()
    levels = np.rint(edges * _LEVELS).astype(np.uint16)
    np.savez_compressed(buffer, levels=levels, timestep=-1 if timestep is None else timestep)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def _read_sampled(path: Path) -> EdgeOutput | None:
    """What ``_write_sampled`` wrote; None if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as content:
            timestep = int(content["timestep"])
            edges = content["levels"].astype(np.float32) / _LEVELS
            return EdgeOutput(edges, timestep=None if timestep < 0 else timestep)
    except Exception as error:  # numpy does not tell what broken archives raise
        logger.warning("%s is damaged (%s): its edges are detected again", path, error)
        return None
