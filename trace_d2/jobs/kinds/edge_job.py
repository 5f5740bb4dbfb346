"""What jobs that take edges share: given edges, detected ones, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from trace_d2.backbones.prompt_texts import check_named, only_of, prompts_print
from trace_d2.devices import backbone_device
from trace_d2.edges.settings import idle_tile_keys
from trace_d2.edges.sources import (
    EdgeOutput,
    EdgeSource,
    OneByOne,
    batched,
    build_edge_source,
    source_print,
    timestep_text,
)
from trace_d2.io.edge_maps import check_edges, write_edges
from trace_d2.io.images import Inputs, image_pixels
from trace_d2.io.remote import InputFolder, input_folder
from trace_d2.jobs.command_line import FILES, NONE, STUDENT, TEACHER
from trace_d2.jobs.job import EntryT, Job, Read, ResultT
from trace_d2.jobs.journal import ImageEntry, Record
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.pinned_model import build_pinned
from trace_d2.jobs.report import Report, counted
from trace_d2.jobs.store import JobStore
from trace_d2.propagation.calibration import EdgeCalibration
from trace_d2.settings import flatten
from trace_d2.terminal import say

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

PhotoT = TypeVar("PhotoT", bound=Inputs)

KEPT_EDGES = "edges/{}.png"
EMBEDDED = "trace-tiny"


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
        "SAM.BATCH",
    }
)
_PROMPTS = "BACKBONE.PROMPTS"
# Keys that came later: at these values results are as they were before.
_LATER_KEYS = {
    "BACKBONE.REVISION": "",
    "BACKBONE.VARIANT": "",
    "BACKBONE.DENOISER": "",
    "BACKBONE.QUANTIZE": "",
    "BACKBONE.GUIDANCE": 1.0,
    _PROMPTS: "",
    "EMERGENCE.SPACING": "uniform",
    "ABDIV.METRIC": "kl",
    "EDGES.SCALE": 0.0,
    "EDGES.TILES.MODE": "never",
    "EDGES.TILES.SIZE": 0,
    "EDGES.TILES.OVERLAP": 0.25,
    "EDGES.TILES.RATIO": 2.0,
}
# What detected edges depend on, which given edges do not. A student looks for no timestep and no
# threshold; its files tell its blocks and its decoder, and a hash of them goes with these keys, as
# one of HED's weights does.
_DETECTOR_KEYS = {
    TEACHER: ("SEED", "BACKBONE", "ATTENTION", "EMERGENCE", "ABDIV", "EDGES.TILES"),
    STUDENT: ("SEED", "BACKBONE", "STUDENT.MERGE_LORA", "EDGES.TILES"),
    "hed": (),
    "canny": ("EDGES.CANNY",),
    "sobel": (),
    "gradient": (),
}


class EdgeTakingJob(Job[EntryT, PhotoT, ResultT]):
    """A job whose images have edges: given ones, detected ones, or none.

    Args:
        cfg: the config; ``MODEL.TRACE.EDGES`` says where edges come from.
        images: folder of the photographs.
        output: see ``Job``.
        entries: all images, in sorted order of stems.
        settings: what decides the results besides images, edges and config.
        save_edges: keep the edges as well.

    Attributes:
        detects: whether edges are found, by a model or a filter, in the process that looks.
    """

    nodes: ClassVar[tuple[str, ...]] = ()  # of MODEL.TRACE that decide results
    calibrated: ClassVar[bool] = False  # whether strengths of edges are
    stays = (*Job.stays, "detector")

    def __init__(
        self,
        cfg: CfgNode,
        images: str | InputFolder,
        output: str | Path,
        entries: Sequence[EntryT],
        settings: Mapping[str, Any],
        save_edges: bool,
    ) -> None:
        self.cfg = cfg
        self.images = input_folder(images)
        self.source: str = cfg.MODEL.TRACE.EDGES.SOURCE
        self.detects = self.looks = self.source in _DETECTOR_KEYS
        device, key = backbone_device(cfg)
        self.devices = {key: device}
        self.edges_folder = given_edges(cfg)
        content = {
            "images": str(self.images.resolve()),
            **settings,
            **edge_settings(cfg, self.nodes, self.calibrated),
        }
        super().__init__(output, content, entries, [KEPT_EDGES] if save_edges else [])

    def pixels(self, entry: EntryT) -> int:
        return image_pixels(self.images / entry.file_name)

    def check_entries(self, entries: Sequence[EntryT]) -> str:
        if not self._told:
            return ""
        return check_named(self._told, [entry.file_name for entry in entries])

    @property
    def _told(self) -> str:
        """The file of prompts, where the network that looks is told any; else empty."""
        decides = f"MODEL.TRACE.{_PROMPTS}" in self.settings
        return str(self.cfg.MODEL.TRACE.BACKBONE.PROMPTS) if decides else ""

    def open_detector(self) -> None:
        if self.detects:
            self.detector  # noqa: B018

    @cached_property
    def detector(self) -> EdgeSource:
        """What finds edges. Raises UsageError where it cannot be loaded."""
        return self.built(build_edge_source)

    def built(self, build: Callable[[CfgNode], Any]) -> Any:
        """What ``build`` makes of the config; of prompts, those of the job's images are encoded."""
        with contextlib.ExitStack() as stack:
            if self._told and self.store.has_settings():  # in an actor, too, which gets no entries
                entries, limit = self.store.read_images()
                stack.enter_context(only_of(entry.file_name for entry in entries.first(limit)))
            return build_pinned(build, self.cfg, self.store)

    @property
    def together(self) -> int:
        return batched(self.detector).batch if self._is_built else 1

    @property
    def _is_built(self) -> bool:
        """Whether there is a detector yet: it is built in the main thread, at the first look."""
        return "detector" in vars(self)

    def read(self, entry: EntryT) -> Read[EntryT, PhotoT]:
        inputs = self.load(entry)
        return Read(entry, inputs, self.ready(entry, inputs))

    def ready(self, entry: EntryT, inputs: PhotoT) -> Any:
        """Edges that were found before, or what the detector takes; None if there is none yet."""
        return batched(self.detector).ready(*_seen(entry, inputs)) if self._is_built else None

    def look(
        self, images: Sequence[Read[EntryT, PhotoT]]
    ) -> list[tuple[PhotoT, Mapping[str, Any]] | Exception]:
        """The inputs with detected edges; facts are the teacher's emergence point, if any, and in
        how many tiles an image was read, if in some.
        """
        known = [image.ready if isinstance(image.ready, EdgeOutput) else None for image in images]
        new = [image for image, found in zip(images, known, strict=True) if found is None]
        detected = iter(self._detect(new) if new else ())
        return [
            self._with(image, next(detected) if found is None else found)
            for image, found in zip(images, known, strict=True)
        ]

    def _detect(self, images: Sequence[Read[EntryT, PhotoT]]) -> list[EdgeOutput | Exception]:
        if any(image.ready is None for image in images):
            seen = [_seen(image.entry, image.inputs) for image in images]
            return OneByOne(self.detector).detect(seen)
        return batched(self.detector).detect([image.ready for image in images])

    def _with(
        self, image: Read[EntryT, PhotoT], found: EdgeOutput | Exception
    ) -> tuple[PhotoT, Mapping[str, Any]] | Exception:
        if isinstance(found, Exception):
            return found
        try:
            inputs = self.with_detected(image.entry, image.inputs, found)
        except Exception as error:
            return error
        # A backbone without diffusion has none.
        facts: dict[str, Any] = {}
        if self.source == TEACHER and found.timestep is not None:
            facts["timestep"] = found.timestep
        if tiles := getattr(found, "tiles", 0):  # masks of tokens have none
            facts["tiles"] = tiles
        return inputs, facts

    def with_detected(self, entry: EntryT, inputs: PhotoT, found: EdgeOutput) -> PhotoT:
        """``inputs`` with what was detected. Raises ValueError if that is no map of edges."""
        return inputs.with_edges(
            check_edges(found.edges, f"the edges detected in {entry.file_name}")
        )

    def keep_edges(self, entry: EntryT, edges: np.ndarray | None) -> None:
        """Write ``edges`` float32 (H, W) in 0..1, if there are any."""
        if edges is not None:
            write_edges(self.store.place(KEPT_EDGES, entry.stem), edges)

    @classmethod
    def tell(cls, store: JobStore) -> None:
        for remark in backbone_remarks(store.read_settings()):
            say(f"note: {remark}")

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
        images = ("Images", settings.get("images", ""))
        sources = [images, *rows]
        if not any(title == "Features" for title, _ in rows):  # which take the place of edges
            sources.append(("Edges", _edges_named(settings)))
        if tiled := outcome.counts.present["tiles"]:
            of = f"{tiled:,} of {counted(len(outcome.finished), 'images')}"
            sources.append(("Edges read in tiles", of))

        def full_caption(record: Record) -> str:
            point = record.facts.get("timestep")
            last = [] if point is None else [f"emergence point {timestep_text(point)}"]
            if "tiles" in record.facts:
                last.append(f"edges read in {record.facts['tiles']} tiles")
            return ", ".join([*caption(record.facts), *last])

        counts = {timestep_text(t): count for t, count in sorted(outcome.counts.timesteps.items())}
        bars = {"Instance emergence point (of 1000)": counts}
        notes = [*more.pop("notes", ()), *backbone_remarks(settings)]
        return Report(title, panes, full_caption, sources, bars=bars, notes=notes, **more)


def _edges_named(settings: Mapping[str, Any]) -> str:
    """Where edges are from, for people."""
    edges, backbone = settings.get("edges", ""), settings.get("MODEL.TRACE.BACKBONE.NAME")
    canny = settings.get("MODEL.TRACE.EDGES.CANNY")
    names = {
        TEACHER: f"backbone {backbone}",
        STUDENT: f"student of {backbone}",
        "hed": f"HED (weights {settings.get('hed')})",
        "canny": "Canny" + (f" at {canny[0]:g} and {canny[1]:g}" if canny else ""),
        "sobel": "Sobel's gradient",
        "gradient": "colour gradient",
    }
    return str(names.get(edges, edges))


def backbone_remarks(settings: Mapping[str, Any]) -> list[str]:
    """What users should know of the backbone that found the edges."""
    if settings.get("MODEL.TRACE.BACKBONE.NAME") != EMBEDDED:
        return []
    return [
        f"{EMBEDDED}, the backbone that comes with trace_d2, has never seen a photograph: there "
        "its edges part what is one object. Take --config-file configs/edges/sd35_large.yaml for "
        "photographs, or another of docs/backbones.md"
    ]


def _seen(entry: ImageEntry, inputs: Inputs) -> tuple[np.ndarray, str]:
    """What a detector is shown; the stem without folders fixes its noise."""
    return inputs.photograph.pixels, Path(entry.file_name).stem


def given_edges(cfg: CfgNode) -> InputFolder | None:
    """The folder of given edges; None where they are detected, or there are none."""
    node = cfg.MODEL.TRACE.EDGES
    return input_folder(node.DIR) if node.SOURCE == FILES else None


def edge_settings(cfg: CfgNode, nodes: Sequence[str], calibrated: bool) -> dict[str, Any]:
    """What decides results as far as edges do: where they are from, and what they depend on.

    Args:
        nodes: nodes of ``MODEL.TRACE`` that decide as well.
        calibrated: whether the strengths of edges are.
    """
    node, folder = cfg.MODEL.TRACE.EDGES, given_edges(cfg)
    content = {
        "edges": str(folder.resolve()) if folder else node.SOURCE,
        **deciding_keys(cfg, (*nodes, *_DETECTOR_KEYS.get(node.SOURCE, ()))),
        **source_print(cfg),
    }
    if calibrated and node.SOURCE != NONE:
        content |= deciding_keys(cfg, ("EDGES.SCALE",))
    if calibrated and node.CALIBRATION and node.SOURCE != NONE:
        content["calibration"] = EdgeCalibration.load(node.CALIBRATION).to_json()
    return content


def deciding_keys(cfg: CfgNode, names: Sequence[str]) -> dict[str, Any]:
    """The config keys that decide results, of the nodes and keys ``names`` of ``MODEL.TRACE``.

    Of a file of prompts its content decides, wherever it is.
    """
    idle = idle_tile_keys(cfg.MODEL.TRACE.EDGES.TILES.MODE)
    return {
        f"MODEL.TRACE.{key}": prompts_print(value) if value and key == _PROMPTS else value
        for key, value in flatten(cfg.MODEL.TRACE).items()
        if key not in _RESOURCE_KEYS
        and key not in idle
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
