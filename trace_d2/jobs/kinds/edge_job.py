"""What jobs that take edges share: options and settings of where those are from, and detection."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trace_d2.edges.sources import EdgeOutput, EdgeSource, build_edge_source, check_edge_source
from trace_d2.edges.student_files import student_print
from trace_d2.io.edge_maps import check_edges, write_edges
from trace_d2.jobs.command_line import existing_folder, load_cfg
from trace_d2.jobs.entries import UsageError
from trace_d2.jobs.job import EntryT, InputsT, Job, ResultT
from trace_d2.jobs.journal import Record
from trace_d2.jobs.report import Outcome, Report
from trace_d2.propagation.calibration import EdgeCalibration
from trace_d2.settings import flatten

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

TEACHER, STUDENT, FILES, NONE = "teacher", "student", "files", "none"
"""Where edges come from, ``MODEL.TRACE.EDGES.SOURCE``; ``NONE``: nowhere, nothing is cut."""

KEPT_EDGES = "edges/{}.png"

# How the work is done, which leaves results as they are (up to rounding).
_RESOURCE_KEYS = frozenset(
    {
        "DEVICE",
        "BACKBONE.CPU_OFFLOAD",
        "ATTENTION.SCRATCH_MB",
        "EMERGENCE.BATCH",
        "EMERGENCE.MEMORY_MB",
        "BGP.THREADS",
    }
)
# What detected edges depend on, which given edges do not. A student looks for no timestep and no
# threshold; its files tell its blocks and its decoder, and a hash of them goes with these keys.
_DETECTOR_KEYS = {
    TEACHER: ("SEED", "BACKBONE", "ATTENTION", "EMERGENCE", "ABDIV"),
    STUDENT: ("SEED", "BACKBONE", "STUDENT.MERGE_LORA"),
}


def add_edge_options(parser: argparse.ArgumentParser) -> None:
    """``--edges``, ``--no-edges`` and ``--save-edges``."""
    edges = parser.add_mutually_exclusive_group()
    edges.add_argument(
        "--edges",
        metavar="DIR",
        help="given edges: <stem>.png (grey, 8 or 16 bit, scaled to 0..1) or <stem>.npy (float)",
    )
    edges.add_argument("--no-edges", action="store_true", help="cut nothing by edges")
    edges.add_argument("--save-edges", action="store_true", help="keep the detected edges")


def load_edge_cfg(args: argparse.Namespace, *opts: str) -> CfgNode:
    """The config of a command line, ``MODEL.TRACE.EDGES`` as the options say where they do.

    Args:
        args: of a ``job_parser``, with ``add_edge_options`` or not.
        opts: config keys and values that go before those of the command line.

    Raises:
        UsageError: a key does not exist, or there is no such folder, student or source.
        FileNotFoundError: there is no such config file.
    """
    cfg = load_cfg(args.config_file, [*args.opts, *opts])
    cfg.defrost()
    node, option = cfg.MODEL.TRACE.EDGES, "MODEL.TRACE.EDGES.DIR"
    if getattr(args, "no_edges", False):
        node.SOURCE = NONE
    elif getattr(args, "edges", None):
        node.SOURCE, node.DIR, option = FILES, args.edges, "--edges"
    cfg.freeze()
    if node.SOURCE == FILES:
        existing_folder(node.DIR, option)
    elif node.SOURCE == STUDENT:
        _check_student(cfg)
    elif node.SOURCE not in (TEACHER, NONE):
        raise UsageError(
            f'MODEL.TRACE.EDGES.SOURCE is {node.SOURCE!r}; choose "teacher", "student" or "files"'
        )
    return cfg


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

    @property
    def looks(self) -> bool:
        return self.source in _DETECTOR_KEYS

    @cached_property
    def detector(self) -> EdgeSource:
        """The teacher or the student. Raises UsageError where it cannot be loaded."""
        try:
            return build_edge_source(self.cfg)
        except (ValueError, KeyError, OSError, ImportError) as error:
            raise UsageError(f"{_name_of_detector(self.cfg)} cannot be loaded: {error}") from error

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
        edges, backbone = settings["edges"], settings.get("MODEL.TRACE.BACKBONE.NAME")
        detected = {TEACHER: f"backbone {backbone}", STUDENT: f"student of {backbone}"}
        sources = [("Images", settings["images"]), *rows, ("Edges", detected.get(edges, edges))]
        found = [r.facts["timestep"] for r in outcome.finished if "timestep" in r.facts]

        def full_caption(record: Record) -> str:
            point = record.facts.get("timestep")
            last = [] if point is None else [f"emergence point {point}"]
            return ", ".join([*caption(record.facts), *last])

        bars = {"Instance emergence point (of 1000)": dict(sorted(Counter(found).items()))}
        return Report(title, panes, full_caption, sources, bars=bars, **more)


def deciding_keys(cfg: CfgNode, names: Sequence[str]) -> dict[str, Any]:
    """The config keys that decide results, of the nodes and keys ``names`` of ``MODEL.TRACE``.

    Keys of training and inference come and go without a change of what exists.
    """
    return {
        f"MODEL.TRACE.{key}": value
        for key, value in flatten(cfg.MODEL.TRACE).items()
        if key not in _RESOURCE_KEYS
        and any(key == name or key.startswith(f"{name}.") for name in names)
    }


def upgrade(settings: dict[str, Any]) -> dict[str, Any]:
    """From settings of format 1, which named few kinds and called the teacher ``backbone``."""
    kind = "refined masks" if "masks" in settings else "labels"
    edges = TEACHER if settings.get("edges") == "backbone" else settings.get("edges")
    return {"kind": kind, **settings, "edges": edges}


def _name_of_detector(cfg: CfgNode) -> str:
    """For messages."""
    trace = cfg.MODEL.TRACE
    if trace.EDGES.SOURCE == STUDENT:
        return f"the student {trace.STUDENT.WEIGHTS or f'of {trace.BACKBONE.NAME}'}"
    return f"the backbone {trace.BACKBONE.NAME}"


def _check_student(cfg: CfgNode) -> None:
    try:
        check_edge_source(cfg)
    except (ValueError, OSError) as error:
        raise UsageError(f"{_name_of_detector(cfg)} cannot be loaded: {error}") from error
