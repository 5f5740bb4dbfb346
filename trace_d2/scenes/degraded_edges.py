"""Instance edges of a chosen quality: the true ones, degraded, with a detector's own false ones.

Real detectors blur and miss true edges, and find parts, texture and shadows besides. Taking those
from a real detector keeps their look, and their strength can be set apart from all else.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from trace_d2.io.atomic import write_png
from trace_d2.io.edge_maps import find_edges, read_edges

_HOLE = 9  # side of a hole in pixels
_SIGMA, _PEAK = 1.5, 0.27  # a line one pixel wide, blurred by sigma, is about so high
_WEAKEST = 0.8  # strength of the true edges of an image, which is 1 at most
_NEAR = 8  # pixels from a true edge within which a detector's edge is no false one
_TOP = 0.99  # the quantile that becomes 1 on a grid


@dataclass(frozen=True)
class EdgeQuality:
    """How good the edges are.

    Attributes:
        false: what the strength of the detector's false edges is multiplied by, 0..1.
        miss: share of the pixels of true edges that go, 0..1.
        grid: side of the square token grid that the edges are read on, as an attention map is;
            0: they stay as they are.

    Raises:
        ValueError: a share is outside 0..1, or the grid is negative.
    """

    false: float
    miss: float = 0.05
    grid: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.false <= 1 and 0 <= self.miss <= 1 and self.grid >= 0):
            raise ValueError(
                f"false and miss lie in 0..1 and grid is 0 or more, not {self.false}, "
                f"{self.miss} and {self.grid}"
            )


def degrade_edges(
    true: np.ndarray, detected: np.ndarray, quality: EdgeQuality, seed: int | list[int]
) -> np.ndarray:
    """Edges of a chosen quality.

    True edges lose square holes of 9 pixels until the share ``miss`` is gone, are blurred (sigma
    1.5 pixels, so that a thin line keeps about its height) and get one strength in 0.8..1. False
    ones are those of ``detected`` farther than 8 pixels from any true edge.

    Args:
        true: (H, W) bool, thin.
        detected: (H, W) floating point in 0..1, a detector's edges of the same image.
        quality: how good.
        seed: fixes the holes and the strength.

    Returns:
        (H, W) float32 in 0..1.

    Raises:
        ValueError: the sizes differ.
    """
    if true.shape != detected.shape:
        raise ValueError(f"true edges of {true.shape} and detected ones of {detected.shape} pixels")
    rng = np.random.default_rng(seed)
    kept = _with_holes(true, quality.miss, rng).astype(np.float32)
    soft = np.minimum(cv2.GaussianBlur(kept, (0, 0), _SIGMA) / np.float32(_PEAK), 1)
    edges = soft * np.float32(rng.uniform(_WEAKEST, 1))
    far = ndimage.distance_transform_edt(~true) > _NEAR if true.any() else np.ones_like(true)
    edges = np.maximum(edges, np.float32(quality.false) * detected * far).astype(np.float32)
    return _on_grid(edges, quality.grid) if quality.grid else edges


def write_degraded_edges(
    oracle: Path,
    detector: Path,
    output: Path,
    quality: EdgeQuality,
    seed: int = 0,
    progress: bool = True,
) -> int:
    """Write edges of a chosen quality for every ``<stem>.png`` of ``oracle``; returns how many.

    Args:
        oracle: folder of true edges, as ``write_oracle`` writes them; any value but 0 is an edge.
        detector: folder of a detector's edges, ``<stem>.png`` or ``<stem>.npy``.
        output: receives ``<stem>.png``, 8 bit.
        quality: how good.
        seed: of all images; each has its own besides, by its stem, so that a subset of the images
            gets the same files.
        progress: show a progress bar.

    Raises:
        ValueError, OSError: a file is missing or does not fit, named; or ``output`` cannot be
            written.
    """
    paths = sorted(oracle.glob("*.png"))
    if not paths:
        raise ValueError(
            f"no true edges (<stem>.png) in {oracle}: make them (tools/make_oracle.py)"
        )
    output.mkdir(parents=True, exist_ok=True)
    for path in tqdm(paths, desc="degraded edges", unit="image", disable=not progress):
        found = find_edges(detector, path.stem)
        seeds = [seed, zlib.crc32(path.stem.encode())]
        try:
            edges = degrade_edges(read_edges(path) > 0, read_edges(found), quality, seeds)
        except ValueError as error:
            raise ValueError(f"{found} does not fit {path} ({error}): make it again") from error
        write_png(output / path.name, np.rint(edges * 255).astype(np.uint8))
    return len(paths)


def _with_holes(edges: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """``edges`` with square holes centred on edge pixels, until at least ``share`` is gone."""
    broken = edges.copy()
    rows, columns = np.nonzero(edges)
    total = left = len(rows)
    while left > (1 - share) * total:
        i = rng.integers(total)
        top, side = max(0, rows[i] - _HOLE // 2), max(0, columns[i] - _HOLE // 2)
        hole = broken[top : rows[i] + _HOLE // 2 + 1, side : columns[i] + _HOLE // 2 + 1]
        left -= int(np.count_nonzero(hole))
        hole[:] = False
    return broken


def _on_grid(edges: np.ndarray, side: int) -> np.ndarray:
    """``edges`` averaged over the cells of a ``side`` x ``side`` grid and read back bilinearly."""
    height, width = edges.shape
    cells = cv2.resize(edges, (side, side), interpolation=cv2.INTER_AREA)
    edges = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    top = max(float(np.quantile(edges, _TOP)), 1e-6)
    return np.minimum(edges / np.float32(top), 1)
