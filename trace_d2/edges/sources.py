"""Where edges come from: one callable for every source, chosen by ``MODEL.TRACE.EDGES``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trace_d2.io.edge_maps import find_edges, read_edges
from trace_d2.propagation.calibration import EdgeCalibration

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from .detector import EdgeDetector
    from .student import StudentDetector

CALIBRATION_NAME = "calibration.json"
"""In the folder of a student: what its strengths mean."""

EdgeSource = Callable[[np.ndarray, str], np.ndarray]
"""(image (H, W, 3) uint8 RGB, stem of its file) -> edge strength (H, W) float32 in 0..1, where an
edge is above 0.5."""


class TeacherEdges:
    """Edges by emergence point and ABDiv, as ``EdgeDetector`` finds them.

    Args:
        detector: image, key -> edges and more.
    """

    def __init__(self, detector: EdgeDetector) -> None:
        self.detector = detector

    @classmethod
    def from_config(cls, cfg: CfgNode) -> TeacherEdges:
        """Builds the backbone and the detector of ``cfg.MODEL.TRACE``."""
        from .detector import EdgeDetector

        return cls(EdgeDetector.from_config(cfg))

    def __call__(self, image: np.ndarray, stem: str) -> np.ndarray:
        """Edges (H, W) of ``image`` (H, W, 3) uint8 RGB; ``stem`` fixes its noise."""
        return self.detector(image, stem).edges


class StudentEdges:
    """Edges by the distilled student: one forward pass at t = 0.

    Args:
        detector: image, key -> edges and more.
    """

    def __init__(self, detector: StudentDetector) -> None:
        self.detector = detector

    @classmethod
    def from_config(cls, cfg: CfgNode) -> StudentEdges:
        """Builds the backbone and the student of ``cfg.MODEL.TRACE``."""
        from .student import StudentDetector

        return cls(StudentDetector.from_config(cfg))

    def __call__(self, image: np.ndarray, stem: str) -> np.ndarray:
        """Edges (H, W) of ``image`` (H, W, 3) uint8 RGB."""
        return self.detector(image, stem).edges


class FileEdges:
    """Edges that were computed before: ``<stem>.png`` or ``<stem>.npy`` in a folder.

    Args:
        folder: of the files, see ``trace_d2.io.edge_maps``.

    Raises:
        ValueError: no folder is named.
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        if not str(folder):
            raise ValueError(
                'MODEL.TRACE.EDGES.SOURCE is "files", but MODEL.TRACE.EDGES.DIR is empty: '
                "name the folder of <stem>.png or <stem>.npy"
            )
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"MODEL.TRACE.EDGES.DIR: there is no folder {folder}; name the one that holds "
                "<stem>.png or <stem>.npy"
            )
        self.folder = Path(folder)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FileEdges:
        """Reads from the folder ``cfg.MODEL.TRACE.EDGES.DIR``."""
        return cls(cfg.MODEL.TRACE.EDGES.DIR)

    def __call__(self, image: np.ndarray, stem: str) -> np.ndarray:
        """Edges (H, W) of the image file called ``stem``; of ``image`` only the size counts.

        Raises:
            FileNotFoundError: there is no edge file.
            ValueError: the file is damaged, or not of the image's size.
        """
        path = find_edges(self.folder, stem)
        edges = read_edges(path)
        if edges.shape != image.shape[:2]:
            raise ValueError(
                f"{path} is {edges.shape[0]} x {edges.shape[1]} (height x width), but the image "
                f"is {image.shape[0]} x {image.shape[1]}: write the edges at the image's size"
            )
        return edges


EDGE_SOURCES: dict[str, Any] = {
    "teacher": TeacherEdges,
    "files": FileEdges,
    "student": StudentEdges,
}
"""Values of ``MODEL.TRACE.EDGES.SOURCE``: classes with a ``from_config(cfg)`` that gives an
``EdgeSource``."""


def check_edge_source(cfg: CfgNode) -> None:
    """Raise what ``build_edge_source`` would for wrong ``MODEL.TRACE.EDGES`` keys; loads nothing.

    Raises:
        ValueError: an unknown ``SOURCE``, "files" without a folder, or a student that does not go
            with the backbone.
        FileNotFoundError: the folder of the files, or of the student, does not exist.
    """
    source = cfg.MODEL.TRACE.EDGES.SOURCE
    if source not in EDGE_SOURCES:
        raise ValueError(
            f"MODEL.TRACE.EDGES.SOURCE is {source!r}; choose one of {', '.join(EDGE_SOURCES)}"
        )
    if source == "files":
        FileEdges.from_config(cfg)
    if source == "student":
        from .student_files import student_folder

        student_folder(cfg)


def build_edge_source(cfg: CfgNode, device: str | None = None) -> EdgeSource:
    """The edge source that ``cfg.MODEL.TRACE.EDGES`` names.

    Args:
        cfg: with the ``TRACE`` keys.
        device: what ``MODEL.TRACE.DEVICE`` "auto" means; ``None``: ``cfg.MODEL.DEVICE`` where the
            config has one, as Detectron2's does, else CUDA if there is any.

    Raises:
        ValueError: a wrong key, named; see also ``build_backbone``.
        FileNotFoundError: the folder of the files, or a part of the backbone or the student, does
            not exist.
    """
    check_edge_source(cfg)
    cfg = on_device(cfg, device)
    source: EdgeSource = EDGE_SOURCES[cfg.MODEL.TRACE.EDGES.SOURCE].from_config(cfg)
    return source


def edge_calibration(cfg: CfgNode) -> EdgeCalibration | None:
    """The calibration that goes with ``cfg.MODEL.TRACE.EDGES``, for who cannot measure one.

    That is the one that ``CALIBRATION`` names, or the one that a student carries; else None.

    Raises:
        FileNotFoundError, ValueError: it cannot be read, or there is no such student.
    """
    node = cfg.MODEL.TRACE.EDGES
    if node.CALIBRATION:
        return EdgeCalibration.load(node.CALIBRATION)
    if node.SOURCE == "student":
        from .student_files import student_folder

        carried = student_folder(cfg) / CALIBRATION_NAME
        return EdgeCalibration.load(carried) if carried.is_file() else None
    return None


def on_device(cfg: CfgNode, device: str | None = None) -> CfgNode:
    """``cfg`` with ``MODEL.TRACE.DEVICE`` "auto" replaced by what it means, see above."""
    if device is None and "DEVICE" in cfg.MODEL:
        device = cfg.MODEL.DEVICE
    if device is not None and cfg.MODEL.TRACE.DEVICE == "auto":
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.TRACE.DEVICE = device
    return cfg
