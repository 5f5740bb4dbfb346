"""Where edges come from: ``MODEL.TRACE.EDGES`` chooses among teacher, student, files and others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, Protocol

import numpy as np
from fvcore.common.config import CfgNode

from trace_d2.backbones.registry import REGISTERED_MODELS
from trace_d2.io.edge_maps import edge_remarks, edge_size, find_edges, read_edges
from trace_d2.io.hints import did_you_mean, nearest_path
from trace_d2.io.remote import InputFolder, input_folder
from trace_d2.propagation.calibration import EdgeCalibration
from trace_d2.remarks import RemarkLog

from .hed_files import check_hed, hed_print
from .settings import CannySettings, TileSettings
from .student_files import CALIBRATION_NAME, student_folder, student_print

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EdgeOutput:
    """Edges of one image.

    Attributes:
        edges: (H, W) float32 in 0..1 of the image's own size; above 0.5 is an edge.
        abdiv: (h, w) float32 of the attention grid, in nats; None unless the teacher found them.
        timestep: in 0..1000, where the attention was read: t*, the fixed one, or 0 (the student);
            None where none was read, or no timestep exists.
        curve: timestep -> divergence from the one before; empty unless t* was searched.
        tiles: in how many the image was read; 0: as a whole.
    """

    edges: np.ndarray
    abdiv: np.ndarray | None = None
    timestep: float | None = None
    curve: dict[float, float] = field(default_factory=dict)
    tiles: int = 0


EdgeSource = Callable[[np.ndarray, str], EdgeOutput]
"""(image (H, W, 3) uint8 RGB, key) -> its edges. The key is the stem of the image's file: it fixes
the noise of a network, or names the file of edges."""


class BatchedEdgeSource(Protocol):
    """An edge source that can be read ahead for, and that looks at several images together.

    Results do not depend on the batch, up to rounding.
    """

    batch: int
    """Images of one size that it looks at in one pass."""

    def __call__(self, image: np.ndarray, key: str) -> EdgeOutput:
        """An ``EdgeSource``."""

    def ready(self, image: np.ndarray, key: str) -> Any:
        """What ``detect`` takes of an image: the CPU's share, done in any thread."""

    def detect(self, images: Sequence[Any]) -> list[EdgeOutput | Exception]:
        """Edges of images, of any number and sizes; what fails in one is returned in its place."""


@dataclass(frozen=True)
class OneByOne:
    """Any ``EdgeSource`` as a ``BatchedEdgeSource``: nothing is done ahead."""

    source: EdgeSource
    batch: int = 1

    def __call__(self, image: np.ndarray, key: str) -> EdgeOutput:
        return self.source(image, key)

    def ready(self, image: np.ndarray, key: str) -> tuple[np.ndarray, str]:
        """The arguments."""
        return image, key

    def detect(self, images: Sequence[tuple[np.ndarray, str]]) -> list[EdgeOutput | Exception]:
        """Edges of one image after the other."""
        return [self._attempt(*image) for image in images]

    def _attempt(self, image: np.ndarray, key: str) -> EdgeOutput | Exception:
        try:
            return self.source(image, key)
        except Exception as error:  # told by who asked for this image; the others go on
            return error


def batched(source: EdgeSource) -> BatchedEdgeSource:
    """``source`` as one that several images can be given to at once."""
    return source if hasattr(source, "detect") else OneByOne(source)  # type: ignore[return-value]


def timestep_text(timestep: float) -> str:
    """As it is shown: schedulers that shift give fractions."""
    return f"{timestep:.4g}"


class FileEdges:
    """Edges that were computed before, in a folder as ``trace_d2.io.edge_maps`` has them."""

    def __init__(self, folder: str | InputFolder) -> None:
        if not str(folder):
            raise ValueError(
                'MODEL.TRACE.EDGES.SOURCE is "files", but MODEL.TRACE.EDGES.DIR is empty: '
                "name the folder of <stem>.png or <stem>.npy"
            )
        self.folder = input_folder(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"MODEL.TRACE.EDGES.DIR: there is no folder {folder}{nearest_path(self.folder)}; "
                "name the one that holds <stem>.png or <stem>.npy"
            )
        self._remark = RemarkLog(logger)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FileEdges:
        """Of the folder ``cfg.MODEL.TRACE.EDGES.DIR``."""
        return cls(cfg.MODEL.TRACE.EDGES.DIR)

    def __call__(self, image: np.ndarray, key: str) -> EdgeOutput:
        """Edges of the stem ``key`` below the folder; of ``image`` only the size counts."""
        path = find_edges(self.folder, key)
        width, height = edge_size(path)
        if (height, width) != image.shape[:2]:
            raise ValueError(
                f"{path} is {height} x {width} (height x width), but the image "
                f"is {image.shape[0]} x {image.shape[1]}: write the edges at the image's size"
            )
        edges = read_edges(path)
        self._remark(path, edge_remarks(edges))
        return EdgeOutput(edges)


EDGE_SOURCES: dict[str, Any] = {
    "teacher": "trace_d2.edges.detector:EdgeDetector",
    "files": FileEdges,
    "student": "trace_d2.edges.detector:StudentDetector",
    "hed": "trace_d2.edges.hed:HedDetector",
    "canny": "trace_d2.edges.baselines:FilterEdges",
    "sobel": "trace_d2.edges.baselines:FilterEdges",
    "gradient": "trace_d2.edges.baselines:FilterEdges",
}
"""Values of ``MODEL.TRACE.EDGES.SOURCE``: classes with a ``from_config(cfg)`` that gives an
``EdgeSource``, or "module:class" of those that are imported when they are built."""

BASELINES = tuple(name for name in EDGE_SOURCES if name not in ("teacher", "files", "student"))
"""Those that know nothing of attention, to compare with."""

_IN_TILES = "trace_d2.edges.tiles:in_tiles"  # which needs it, too


def check_edge_source(cfg: CfgNode) -> None:
    """Raise what ``build_edge_source`` would for wrong ``MODEL.TRACE.EDGES`` keys; load nothing."""
    source = cfg.MODEL.TRACE.EDGES.SOURCE
    if source not in EDGE_SOURCES:
        raise ValueError(
            f"MODEL.TRACE.EDGES.SOURCE is {source!r}; choose one of {', '.join(EDGE_SOURCES)}"
            f"{did_you_mean(source, EDGE_SOURCES)}"
        )
    if source == "files":
        FileEdges.from_config(cfg)
    if source == "student":
        student_folder(cfg)
    if source == "hed":
        check_hed(cfg)
    if source == "canny":
        CannySettings.from_config(cfg)


def build_edge_source(cfg: CfgNode, device: str | None = None) -> EdgeSource:
    """The edge source that ``cfg.MODEL.TRACE.EDGES`` names.

    Args:
        cfg: with the ``TRACE`` keys.
        device: takes the place of ``cfg.MODEL.DEVICE``, which ``MODEL.TRACE.DEVICE`` follows.

    Raises:
        ValueError: a wrong key, named; see also ``build_backbone``.
        FileNotFoundError: the folder of the files, or a part of the backbone or the student, does
            not exist.
    """
    check_edge_source(cfg)
    if device is not None:
        cfg = _changed(cfg, "MODEL.DEVICE", device)
    entry = EDGE_SOURCES[cfg.MODEL.TRACE.EDGES.SOURCE]
    kind = resolve_name(entry) if isinstance(entry, str) else entry
    if TileSettings.from_config(cfg).mode == "never" or not hasattr(kind, "square"):
        return kind.from_config(cfg)
    whole = kind.from_config(_changed(cfg, f"{TileSettings.node}.MODE", "never"))
    return resolve_name(_IN_TILES)(whole, cfg)


def _changed(cfg: CfgNode, key: str, value: Any) -> CfgNode:
    """A copy of ``cfg`` with another value of one key."""
    cfg = cfg.clone()
    cfg.merge_from_list([key, value])
    return cfg


def with_tile_scale(cfg: CfgNode) -> CfgNode:
    """``cfg`` with ``MODEL.TRACE.EDGES.SCALE`` that of tiles, if edges are read in some.

    Edges of a tile mean what those of a photograph do: what they are measured against is of its
    size. Where the key is set, or images are never tiled, it stays as it is.

    Raises:
        ValueError: a key is wrong, or the side of a tile is told by files of the backbone alone.
    """
    settings, trace = TileSettings.from_config(cfg), cfg.MODEL.TRACE
    detected = trace.EDGES.SOURCE in ("teacher", "student")
    if settings.mode == "never" or trace.EDGES.SCALE or not detected:
        return cfg
    registered = REGISTERED_MODELS.get(trace.BACKBONE.NAME)
    native = registered.native_resolution if registered else None
    side = settings.size or trace.BACKBONE.RESOLUTION or native
    if not side:
        raise ValueError(
            f"how many pixels {trace.BACKBONE.NAME} reads is told by its files alone: set "
            "MODEL.TRACE.EDGES.TILES.SIZE to the side of a tile"
        )
    cfg = _changed(cfg, "MODEL.TRACE.EDGES.SCALE", float(side))
    cfg.freeze()
    return cfg


def source_print(cfg: CfgNode) -> dict[str, str]:
    """What tells the files of the source of ``cfg`` from others, by its name; empty without any."""
    prints = {"student": student_print, "hed": hed_print}
    source = cfg.MODEL.TRACE.EDGES.SOURCE
    return {source: prints[source](cfg)} if source in prints else {}


def edge_calibration(cfg: CfgNode) -> EdgeCalibration | None:
    """The calibration that goes with ``cfg.MODEL.TRACE.EDGES``, for who cannot measure one.

    That is the one that ``CALIBRATION`` names, or the one that a student carries; else None.
    """
    node = cfg.MODEL.TRACE.EDGES
    if node.CALIBRATION:
        return EdgeCalibration.load(node.CALIBRATION)
    if node.SOURCE == "student":
        carried = student_folder(cfg) / CALIBRATION_NAME
        return EdgeCalibration.load(carried) if carried.is_file() else None
    return None
