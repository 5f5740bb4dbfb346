"""Edge maps as files, so that edges of any detector and kept edges go through the same reader.

Edge strength is in 0..1, and "edge" means above 0.5. A file is ``<stem>.png`` (grey, 8 or 16 bit,
scaled to 0..1) or ``<stem>.npy`` (floating point, H x W, in 0..1).

Pseudo edges, what the student learns, are no strengths but labels: 1 (edge), 0 (none) or -1
(ignored). Their file is an 8-bit grey PNG of the image's size: 255 edge, 0 none, 128 ignored.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np

from .atomic import write_bytes, write_png

EDGE, NONE, IGNORED = 1, 0, -1
"""The labels of pseudo edges."""

_LEVELS = 65535  # of a 16-bit PNG
_SLACK = 1e-4  # rounding that detectors leave outside 0..1
_GREY = np.array((0, 255, 128), np.uint8)  # at NONE, EDGE and, from the end, IGNORED
_REMEDY = "make it again with tools/make_pseudo_edges.py"


def edge_paths(folder: str | Path, stem: str) -> list[Path]:
    """The files that may hold the edges of the image ``stem`` in ``folder``."""
    return [Path(folder) / f"{stem}{ending}" for ending in (".png", ".npy")]


def has_edges(folder: str | Path, stem: str) -> bool:
    """Whether there is an edge file of the image ``stem`` in ``folder``."""
    return any(path.is_file() for path in edge_paths(folder, stem))


def find_edges(folder: str | Path, stem: str) -> Path:
    """The edge file of the image ``stem`` in ``folder``."""
    choices = edge_paths(folder, stem)
    found = [path for path in choices if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"no edge file at {choices[0]} (nor {choices[1].name}): write one, or run without "
            "--edges to use the backbone"
        )
    if len(found) > 1:
        raise ValueError(f"both {found[0]} and {found[1].name} exist: remove one of them")
    return found[0]


def read_edges(path: str | Path) -> np.ndarray:
    """Edge strength float32 (H, W) in 0..1."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no edge file at {path}")
    if path.suffix == ".npy":
        return _read_array(path)
    pixels = _read_png(path, "write it again")
    if pixels.ndim == 3:
        if (pixels[..., :3] != pixels[..., :1]).any():  # alpha is left out
            raise ValueError(f"{path} is in colour: save the edges as a grey PNG of 8 or 16 bit")
        pixels = pixels[..., 0]
    highest = {"uint8": 255, "uint16": _LEVELS}.get(pixels.dtype.name)
    if highest is None:
        raise ValueError(f"{path} holds {pixels.dtype}: save it as an 8- or 16-bit grey PNG")
    return pixels.astype(np.float32) / np.float32(highest)


def write_edges(path: str | Path, edges: np.ndarray) -> None:
    """Write ``edges`` (H, W) in 0..1 as a 16-bit PNG, or as float32 where ``path`` ends in .npy.

    What ``read_edges`` gives back is ``quantise_edges(edges)`` for a PNG and ``edges`` for .npy.
    """
    path = Path(path)
    edges = check_edges(np.asarray(edges), path)
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, edges, allow_pickle=False)
        write_bytes(path, buffer.getvalue())
        return
    write_png(path, np.rint(edges * np.float32(_LEVELS)).astype(np.uint16), fast=True)


def quantise_edges(edges: np.ndarray) -> np.ndarray:
    """``edges`` (H, W) in 0..1 rounded to what a 16-bit PNG holds, float32.

    Labels made from the rounded map equal those made from the file later.
    """
    return np.rint(np.asarray(edges, np.float32) * np.float32(_LEVELS)) / np.float32(_LEVELS)


def check_edges(edges: np.ndarray, origin: str | Path) -> np.ndarray:
    """``edges`` (H, W) from ``origin`` as float32 in 0..1; rounding errors outside are clipped."""
    if edges.ndim != 2 or edges.size == 0:
        raise ValueError(f"{origin}: edges must be of shape (H, W), not {edges.shape}")
    if not np.isfinite(edges).all():
        count = int((~np.isfinite(edges)).sum())
        raise ValueError(
            f"{origin} has NaN or infinite values in {count} of {edges.size} pixels: repair the "
            "detector, or write 0 there"
        )
    low, high = float(edges.min()), float(edges.max())
    if low < -_SLACK or high > 1 + _SLACK:
        raise ValueError(f"{origin} has values in {low:.4g}..{high:.4g}: scale them to 0..1")
    return np.clip(edges, 0, 1).astype(np.float32)


def write_ternary(path: str | Path, labels: np.ndarray) -> None:
    """Write pseudo edges ``labels`` (H, W) int8 of 1, 0 and -1 as a PNG, whole or not at all."""
    if labels.ndim != 2 or labels.size == 0 or labels.dtype != np.int8:
        raise ValueError(f"labels are int8 (H, W), not {labels.dtype} of shape {labels.shape}")
    strange = np.setdiff1d(labels, (EDGE, NONE, IGNORED))
    if strange.size:
        raise ValueError(f"labels are 1, 0 and -1, not {strange[:8].tolist()}")
    write_png(path, _GREY[labels], fast=True)


def read_ternary(path: str | Path) -> np.ndarray:
    """What ``write_ternary`` wrote: (H, W) int8 of 1, 0 and -1."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no pseudo edges at {path}: {_REMEDY}")
    pixels = _read_png(path, _REMEDY)
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise ValueError(
            f"{path} holds {pixels.dtype} of shape {pixels.shape}, but pseudo edges are an 8-bit "
            f"grey PNG: {_REMEDY}"
        )
    strange = np.setdiff1d(pixels, _GREY)
    if strange.size:
        raise ValueError(
            f"{path} has values {strange[:8].tolist()}, but pseudo edges are 0 (none), 128 "
            f"(ignored) and 255 (edge). Is it a map of strengths? {_REMEDY}"
        )
    return (pixels == _GREY[EDGE]).astype(np.int8) - (pixels == _GREY[IGNORED])


def label_shares(labels: np.ndarray) -> tuple[float, float, float]:
    """The shares (0..1) of edge, none and ignored pixels in ``labels`` (H, W) int8."""
    edge, none, ignored = (float((labels == label).mean()) for label in (EDGE, NONE, IGNORED))
    return edge, none, ignored


def _read_png(path: Path, remedy: str) -> np.ndarray:
    data = path.read_bytes()
    # A truncated PNG may decode to a partly blank map, so its end marker must be there as well.
    whole = b"IEND" in data
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if whole else None
    if pixels is None:
        raise ValueError(f"{path} is not a complete PNG: {remedy}")
    return pixels


def _read_array(path: Path) -> np.ndarray:
    try:
        edges = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable .npy array ({error}): write it again"
        ) from error
    if edges.dtype.kind != "f":
        raise ValueError(
            f"{path} holds {edges.dtype}: save edge strengths in 0..1 as a floating-point array, "
            "or integers as a grey PNG"
        )
    return check_edges(edges, path)
