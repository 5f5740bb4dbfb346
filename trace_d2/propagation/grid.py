"""Edge maps, and the way between their pixels and coarse grids.

Cell (i, j) covers the pixels from (stride i, stride j) on; those of the last row and column may
hang over the border. The grid has (H-1)//stride + 1 by (W-1)//stride + 1 cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from trace_d2.settings import NodeSettings, within

EDGE_THRESHOLD = 0.5
"""An edge is a strength above this, everywhere in the package."""

REFERENCE_PIXELS = 640 * 480
"""Sizes of tiny pieces are told for an image of so many."""


@dataclass(frozen=True)
class ScaleSettings(NodeSettings, node="MODEL.TRACE.EDGES"):
    """What edges are measured against, see ``calibration.EdgeStatistics.add``."""

    scale: float = within(0.0, default=0.0)


def check_edges(edges: np.ndarray) -> None:
    """Raise ValueError unless ``edges`` is a non-empty (H, W) float map in 0..1 without NaN."""
    if edges.ndim != 2 or edges.size == 0:
        raise ValueError(f"edges must be a non-empty (H, W) map, not of shape {edges.shape}")
    if not np.issubdtype(edges.dtype, np.floating):
        raise ValueError(f"edges must be floating point in 0..1, not {edges.dtype}")
    low, high = edges.min(), edges.max()
    if np.isnan(low):
        raise ValueError(f"edges hold {np.isnan(edges).sum()} NaN; repair the edge map first")
    if low < 0 or high > 1:
        raise ValueError(f"edges must lie in 0..1, not {low:g}..{high:g}; normalise them first")


def grid_size(shape: tuple[int, int], stride: int) -> tuple[int, int]:
    """Cells (h, w) of an image of ``shape`` (H, W) pixels."""
    return (shape[0] - 1) // stride + 1, (shape[1] - 1) // stride + 1


def pool(pixels: np.ndarray, stride: int) -> np.ndarray:
    """Greatest value (h, w) in each cell of (H, W) ``pixels``: a thin edge stays closed."""
    if stride == 1:
        return pixels
    rows = np.maximum.reduceat(pixels, np.arange(0, pixels.shape[0], stride), axis=0)
    return np.maximum.reduceat(rows, np.arange(0, pixels.shape[1], stride), axis=1)


def pool_labels(labels: np.ndarray, count: int, stride: int) -> np.ndarray:
    """Share of each cell's pixels that has each label 1..count: (count, h, w) float32.

    Of cells that hang over the border only the inside counts.
    """
    height, width = grid_size((labels.shape[0], labels.shape[1]), stride)
    y, x = np.nonzero(labels)
    cells = (y // stride) * width + x // stride
    index = (labels[y, x].astype(np.int64) - 1) * (height * width) + cells
    shares = np.bincount(index, minlength=count * height * width).astype(np.float32)
    sides = [
        np.minimum(stride, size - np.arange(0, size, stride)).astype(np.float32)
        for size in labels.shape
    ]
    return shares.reshape(count, height, width) / np.outer(*sides)


def upsample(score: np.ndarray, shape: tuple[int, int], stride: int) -> np.ndarray:
    """(h, w) float32 cells to (H, W) pixels, bilinear between cell centres."""
    if stride == 1:
        return score
    size = (score.shape[1] * stride, score.shape[0] * stride)
    pixels = cv2.resize(score, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(pixels[: shape[0], : shape[1]])
