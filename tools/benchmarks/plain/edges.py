"""Algorithms 1 and 2 by the book: double loops in float64, and loops of shifted views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .attention import divergence_by_loops

_FOUR = ((1, 0), (0, 1))
_EIGHT = ((1, 0), (0, 1), (1, 1), (1, -1))


def abdiv_by_loops(
    attention: Tensor, grid: tuple[int, int], neighbourhood: int = 4, epsilon: float = 1e-12
) -> np.ndarray:
    """ABDiv token by token and key by key, neighbours outside the grid clamped to it.

    Args:
        attention: (N, N), N = h w.
        grid: (h, w).
        neighbourhood: 4 or 8.

    Returns:
        (h, w) float64.
    """
    height, width = grid
    values = attention.double().numpy().reshape(height, width, -1)
    result = np.zeros(grid)
    for i in range(height):
        for j in range(width):
            for down, right in _FOUR if neighbourhood == 4 else _EIGHT:
                p = values[_clamp(i + down, height), _clamp(j + right, width)]
                q = values[_clamp(i - down, height), _clamp(j - right, width)]
                for a, b in zip(p, q, strict=True):
                    result[i, j] += a * math.log(max(a, epsilon) / max(b, epsilon))
    return result


def abdiv_of_shifted_views(
    attention: Tensor, grid: tuple[int, int], neighbourhood: int = 4, epsilon: float = 1e-12
) -> Tensor:
    """ABDiv the way it is usually written: a shifted copy of the whole map a neighbour.

    Returns:
        (h, w) of the type of ``attention``.
    """
    height, width = grid
    rows = attention.view(height, width, -1)
    i, j = torch.arange(height)[:, None], torch.arange(width)[None]
    result = attention.new_zeros(height, width)
    for down, right in _FOUR if neighbourhood == 4 else _EIGHT:
        p = rows[(i + down).clamp(0, height - 1), (j + right).clamp(0, width - 1)]
        q = rows[(i - down).clamp(0, height - 1), (j - right).clamp(0, width - 1)]
        log_ratio = torch.log(p.clamp_min(epsilon)) - torch.log(q.clamp_min(epsilon))
        result += (p * log_ratio).sum(dim=-1)
    return result


def emergence_by_loops(maps: Sequence[Tensor], metric: str) -> tuple[int, list[float]]:
    """Index of t* among ``maps`` (N, N) of tau_0 < ... < tau_N, and all N divergences."""
    curve = []
    for before, after in pairwise(maps):
        rows = zip(before.double().tolist(), after.double().tolist(), strict=True)
        values = [divergence_by_loops(p, q, metric) for p, q in rows]
        curve.append(math.fsum(values) / len(values))
    return 1 + curve.index(max(curve)), curve


def _clamp(value: int, size: int) -> int:
    return min(max(value, 0), size - 1)
