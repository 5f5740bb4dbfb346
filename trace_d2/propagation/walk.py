"""The random walk of BGP: vec(M*) = T^t vec(M (1 - E)), T = D^-1 A^(beta).

A ties cells closer than a radius: one minus the strongest edge on the way. T averages: its rows sum
to 1, so a constant map stays as it is, and what a walk conserves is the degree-weighted mass,
sum_p D_p M_p. IRNet normalises columns instead and multiplies from the left, x (A D^-1)^t. A is
symmetric, so (A D^-1)^t is the transpose of (D^-1 A)^t and the two are the same.

No power of T is formed. T is similar to the symmetric D^-1/2 A D^-1/2, whose spectrum lies in
[-1, 1]; there x^t is a Chebyshev series with the coefficients 2^(1-t) binom(t, (t-k)/2), which are
negligible for k beyond a few times sqrt(t): 71 products with T replace 256.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import comb
from typing import Any

import numba
import numpy as np

from trace_d2.propagation.grid import check_edges

# Cells a pass: the weights of a block stay in the second-level cache for all maps.
_BLOCK = 2048


def walk_directions(radius: int) -> tuple[tuple[int, int], ...]:
    """The (dy, dx) with 0 < dy^2 + dx^2 < radius^2, one of each opposite pair: 34 at radius 5."""
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
class FlatGrid:
    """A layout in which a neighbour is a constant offset and no step needs a bounds test.

    Rows have ``pitch = w + radius - 1`` cells, so that the spare cells at the end of a row also
    stand before the next one, with ``radius - 1`` spare rows above and below.

    Attributes:
        shape: (h, w) of the grid.
        radius: cells closer than this are neighbours.
    """

    shape: tuple[int, int]
    radius: int

    @property
    def pitch(self) -> int:
        """Cells of a row."""
        return self.shape[1] + self.radius - 1

    @property
    def interior(self) -> tuple[int, int]:
        """First flat index of the grid's rows, and the one after their last."""
        first = (self.radius - 1) * (self.pitch + 1)
        return first, first + self.shape[0] * self.pitch

    def flatten(self, maps: np.ndarray) -> np.ndarray:
        """(K, h, w) maps to (K, cells) float32, spare cells 0."""
        first, last = self.interior
        flat = np.zeros((len(maps), last + first), np.float32)
        flat[:, first:last].reshape(len(maps), self.shape[0], self.pitch)[:, :, : self.shape[1]] = (
            maps
        )
        return flat

    def unflatten(self, flat: np.ndarray) -> np.ndarray:
        """(K, cells) back to (K, h, w), spare cells dropped."""
        first, last = self.interior
        rows = flat[:, first:last].reshape(len(flat), self.shape[0], self.pitch)
        return rows[:, :, : self.shape[1]]


@dataclass(frozen=True)
class PathAffinity(FlatGrid):
    """A^(beta) of every cell with its neighbours: a plane a direction rather than a matrix.

    Attributes:
        planes: (directions, cells) float32 in 0..1; ``planes[d, p]`` ties cell p to p + offsets[d];
            spare cells have affinity 0 with everything.
        offsets: (directions,) int64, positive.
        degree: (cells,) float64, the row sums of A^(beta), own affinity of 1 included.
    """

    planes: np.ndarray
    offsets: np.ndarray
    degree: np.ndarray


def path_affinity(edges: np.ndarray, *, radius: int = 5, beta: float = 10.0) -> PathAffinity:
    """A^(beta) with A_pq = 1 - the strongest edge on the path from p to q, both ends included."""
    check_edges(edges)
    if not beta > 0:
        raise ValueError(f"beta must be positive, not {beta}")
    directions = walk_directions(radius)
    grid = FlatGrid((edges.shape[0], edges.shape[1]), radius)
    first, last = grid.interior
    # (1 - max e)^beta is the least (1 - e)^beta: one power a cell instead of one an affinity.
    ease = grid.flatten((1 - edges.astype(np.float32))[None] ** np.float32(beta))[0]
    planes = np.zeros((len(directions), ease.size), np.float32)
    offsets = np.array([dy * grid.pitch + dx for dy, dx in directions], np.int64)
    for plane, (dy, dx) in zip(planes, directions, strict=True):
        least = plane[first:last]
        least[:] = ease[first:last]
        for y, x in direction_path(dy, dx):
            step = y * grid.pitch + x
            np.minimum(least, ease[first + step : last + step], out=least)
    # In double: a row sum that is off by one part in a million is off by 256 after the walk.
    degree = np.ones(ease.size)
    for plane, offset in zip(planes, offsets, strict=True):
        degree[first:last] += plane[first:last]
        degree[first:last] += plane[first - offset : last - offset]
    return PathAffinity(grid.shape, radius, planes, offsets, degree)


class RandomWalk:
    """The walk over the grid of one edge map; the affinities are made once.

    Args:
        edges: (h, w) float, strength in 0..1.
        radius: cells closer than this are neighbours.
        beta: exponent of the affinities.
        steps: t, the number of steps.
        tolerance: bound on the sum of the Chebyshev coefficients left out.
        threads: threads to share the masks among.
    """

    def __init__(
        self,
        edges: np.ndarray,
        *,
        radius: int = 5,
        beta: float = 10.0,
        steps: int = 256,
        tolerance: float = 1e-5,
        threads: int = 1,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._threads = threads
        self._coefficients = power_coefficients(steps, tolerance).astype(np.float32)
        # IRNet surrounds the grid with edges, as its index lists leave out links near the borders.
        # Without that the result is the same: a path never leaves the bounding box of its ends.
        self._affinity = path_affinity(edges, radius=radius, beta=beta)
        self._open = 1 - edges.astype(np.float32)

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        """Propagate each mask until edges stop it: T^t vec(M (1 - E)).

        Args:
            masks: (K, h, w), bool or float, on the grid of the edges.

        Returns:
            (K, h, w) float32; in 0..1 up to rounding when the masks are.
        """
        shape = self._open.shape
        if masks.ndim != 3 or masks.shape[1:] != shape:
            raise ValueError(f"masks {masks.shape} must be (K, h, w) with (h, w) {shape}")
        if not np.isfinite(masks).all():
            raise ValueError("masks hold NaN or infinite values")
        seeds = masks.astype(np.float32) * self._open
        flat = self._affinity.flatten(seeds)
        parts = np.array_split(flat, max(1, min(self._threads, len(flat))))
        walk = partial(_power_series, self._affinity, self._coefficients)
        if len(parts) == 1:
            walked = [walk(flat)]
        else:
            with ThreadPoolExecutor(len(parts)) as pool:
                walked = list(pool.map(walk, parts))
        return np.ascontiguousarray(self._affinity.unflatten(np.concatenate(walked)))


def random_walk(masks: np.ndarray, edges: np.ndarray, **options: Any) -> np.ndarray:
    """`RandomWalk` of (K, h, w) ``masks`` over (h, w) ``edges`` with its ``options``; see there."""
    return RandomWalk(edges, **options)(masks)


def power_coefficients(steps: int, tolerance: float) -> np.ndarray:
    """Coefficients c_k of x^steps = sum_k c_k T_k(x), cut where their rest is below ``tolerance``.

    Those kept are scaled to sum to 1, so that constants stay exact.
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative, but is {steps}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must lie in [0, 1), not {tolerance}")
    coefficients = np.zeros(steps + 1)
    for k in range(steps % 2, steps + 1, 2):
        coefficients[k] = (2 if k else 1) * comb(steps, (steps - k) // 2) / 2**steps
    rest = np.cumsum(coefficients[::-1])[::-1]
    kept = coefficients[: int(np.count_nonzero(rest > tolerance))]
    return kept / kept.sum()


def _power_series(
    affinity: PathAffinity, coefficients: np.ndarray, seeds: np.ndarray
) -> np.ndarray:
    """sum_k c_k T_k(T) seeds over flat (K, cells) maps, by T_k+1 = 2 T T_k - T_k-1."""
    first, last = affinity.interior
    scale = (1 / affinity.degree).astype(np.float32)
    total = coefficients[0] * seeds
    previous, current = np.zeros_like(seeds), seeds.copy()
    for k, coefficient in enumerate(coefficients[1:], start=1):
        # T_1 = T T_0 is the one step without the factor 2; what comes before T_0 counts as 0.
        factor = scale if k == 1 else 2 * scale
        _advance(affinity.planes, affinity.offsets, factor, current, previous, first, last)
        current, previous = previous, current
        if coefficient:
            total += coefficient * current
    return total


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _advance(planes, offsets, factor, current, previous, first, last):  # type: ignore[no-untyped-def]
    """previous <- factor (A current) - previous, cell by cell.

    Directions are taken in pairs, both ways each, so the running sum is loaded and stored once for
    four products; their number is even at every radius (a quarter turn maps them onto themselves).
    """
    room = np.empty(_BLOCK, np.float32)
    for start in range(first, last, _BLOCK):
        size = min(_BLOCK, last - start)
        stop = start + size
        for k in range(len(current)):
            row, out = current[k], previous[k, start:stop]
            own, weight = row[start:stop], factor[start:stop]
            for p in range(size):
                room[p] = own[p]
            for d in range(0, len(offsets), 2):
                i, j = offsets[d], offsets[d + 1]
                a_to, a_from = planes[d, start:stop], planes[d, start - i : stop - i]
                b_to, b_from = planes[d + 1, start:stop], planes[d + 1, start - j : stop - j]
                a_next, a_back = row[start + i : stop + i], row[start - i : stop - i]
                b_next, b_back = row[start + j : stop + j], row[start - j : stop - j]
                for p in range(size):
                    room[p] += (a_to[p] * a_next[p] + a_from[p] * a_back[p]) + (
                        b_to[p] * b_next[p] + b_from[p] * b_back[p]
                    )
            for p in range(size):
                out[p] = weight[p] * room[p] - out[p]
