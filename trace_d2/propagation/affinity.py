"""Affinities between nearby cells of a grid: one minus the strongest edge on the way.

The affinities are kept as one plane a direction rather than as a matrix. All planes and maps share
a flat layout: rows of ``pitch = w + radius - 1`` cells, so that the spare cells at the end of a row
also stand before the next one, with ``radius - 1`` spare rows above and below. A neighbour is then
a constant offset, no step needs a bounds test, and spare cells have affinity 0 with everything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def walk_directions(radius: int) -> tuple[tuple[int, int], ...]:
    """The (dy, dx) with 0 < dy^2 + dx^2 < radius^2, one of each opposite pair: 34 at radius 5.

    Raises:
        ValueError: ``radius`` is below 2, which leaves no direction.
    """
    if radius < 2:
        raise ValueError(f"radius must be at least 2 grid cells, not {radius}")
    reach = range(1 - radius, radius)
    return tuple(
        (dy, dx)
        for dy in range(radius)
        for dx in reach
        if (dy > 0 or dx > 0) and dy * dy + dx * dx < radius * radius
    )


def direction_path(dy: int, dx: int) -> tuple[tuple[int, int], ...]:
    """Cells (y, x) on the way from (0, 0) to (dy, dx), both included; ``dy`` is not negative.

    They are the cells of the bounding box closer than one cell to the line:
    (dy x - dx y)^2 / (dy^2 + dx^2) < 1.
    """
    length_squared = dy * dy + dx * dx
    return tuple(
        (y, x)
        for y in range(dy + 1)
        for x in range(min(0, dx), max(0, dx) + 1)
        if (dy * x - dx * y) ** 2 < length_squared
    )


@dataclass(frozen=True)
class PathAffinity:
    """A^(beta) of every cell with its neighbours, in the flat layout of this module.

    Attributes:
        shape: (h, w) of the grid.
        radius: cells closer than this are neighbours.
        planes: (directions, cells) float32 in 0..1; ``planes[d, p]`` ties cell p to p + offsets[d].
        offsets: (directions,) int64, positive.
        degree: (cells,) float64, the row sums of A^(beta), own affinity of 1 included.
    """

    shape: tuple[int, int]
    radius: int
    planes: np.ndarray
    offsets: np.ndarray
    degree: np.ndarray

    @property
    def interior(self) -> tuple[int, int]:
        """First flat index of the grid's rows, and the one after their last."""
        return _interior(self.shape, self.radius)

    def flatten(self, maps: np.ndarray) -> np.ndarray:
        """(K, h, w) maps to (K, cells) float32, spare cells 0."""
        return _flatten(maps, self.radius)

    def unflatten(self, flat: np.ndarray) -> np.ndarray:
        """(K, cells) back to (K, h, w), spare cells dropped."""
        height, width = self.shape
        first, last = self.interior
        pitch = (last - first) // height
        return flat[:, first:last].reshape(len(flat), height, pitch)[:, :, :width]


def path_affinity(edges: np.ndarray, *, radius: int = 5, beta: float = 10.0) -> PathAffinity:
    """A^(beta) with A_pq = 1 - the strongest edge on the path from p to q, both ends included.

    Args:
        edges: (h, w) float, strength in 0..1.
        radius: neighbours are closer than this, in cells.
        beta: exponent, positive.

    Raises:
        ValueError: ``edges`` is not such a map, or an option is out of range.
    """
    check_edges(edges)
    if not beta > 0:
        raise ValueError(f"beta must be positive, not {beta}")
    directions = walk_directions(radius)
    shape = (edges.shape[0], edges.shape[1])
    first, last = _interior(shape, radius)
    pitch = shape[1] + radius - 1
    # (1 - max e)^beta is the least (1 - e)^beta: one power a cell instead of one an affinity.
    ease = _flatten((1 - edges.astype(np.float32))[None] ** np.float32(beta), radius)[0]
    planes = np.zeros((len(directions), ease.size), np.float32)
    offsets = np.array([dy * pitch + dx for dy, dx in directions], np.int64)
    for plane, (dy, dx) in zip(planes, directions, strict=True):
        least = plane[first:last]
        least[:] = ease[first:last]
        for y, x in direction_path(dy, dx):
            step = y * pitch + x
            np.minimum(least, ease[first + step : last + step], out=least)
    # In double: a row sum that is off by one part in a million is off by 256 after the walk.
    degree = np.ones(ease.size)
    for plane, offset in zip(planes, offsets, strict=True):
        degree[first:last] += plane[first:last]
        degree[first:last] += plane[first - offset : last - offset]
    return PathAffinity(shape, radius, planes, offsets, degree)


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


def _interior(shape: tuple[int, int], radius: int) -> tuple[int, int]:
    margin, pitch = radius - 1, shape[1] + radius - 1
    first = margin + margin * pitch
    return first, first + shape[0] * pitch


def _flatten(maps: np.ndarray, radius: int) -> np.ndarray:
    count, height, width = maps.shape
    pitch = width + radius - 1
    first, last = _interior((height, width), radius)
    flat = np.zeros((count, last + first), np.float32)
    flat[:, first:last].reshape(count, height, pitch)[:, :, :width] = maps
    return flat
