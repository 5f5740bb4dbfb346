"""Features of tokens, drawn or by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from trace_d2.masks import TokenFeatures


@pytest.fixture
def as_features() -> Callable[..., TokenFeatures]:
    """Rows (N, D) of length 1, or of 0, and a grid (h, w), as features."""

    def make(rows: np.ndarray, grid: tuple[int, int]) -> TokenFeatures:
        return TokenFeatures(grid, torch.from_numpy(np.asarray(rows, np.float32)))

    return make


@pytest.fixture
def random_features() -> Callable[..., np.ndarray]:
    """Discs of four directions on a weaker ground, and noise: (h w, 16) float32 of length 1."""

    def make(seed: int, grid: tuple[int, int], noise: float) -> np.ndarray:
        rng = np.random.default_rng(seed)
        row, column = np.mgrid[: grid[0], : grid[1]]
        kind = np.zeros(grid, int)
        for k in range(1, 5):
            centre, radius = rng.random(2) * grid, (0.1 + 0.2 * rng.random()) * min(grid)
            kind[(row - centre[0]) ** 2 + (column - centre[1]) ** 2 < radius**2] = k
        directions = rng.standard_normal((5, 16))
        directions[0] *= 0.3
        rows = directions[kind.ravel()] + noise * rng.standard_normal((kind.size, 16))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return make
