"""Ternary pseudo edges against a brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_d2.edges import normalise_edges, pseudo_edges
from trace_d2.edges.abdiv import ternary_edges
from trace_d2.io.edge_maps import label_shares


def bilinear(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixel by pixel: between the four cell centres around it, clamped at the border."""
    (height, width), fine = grid.shape, np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * height / size[0] - 0.5, 0), height - 1)
            u = min(max((x + 0.5) * width / size[1] - 0.5, 0), width - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = v - top, u - left
            fine[y, x] = (1 - a) * ((1 - b) * grid[top, left] + b * grid[top, right]) + a * (
                (1 - b) * grid[below, left] + b * grid[below, right]
            )
    return fine


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    scale=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    mode=st.sampled_from(["mean_std", "mean"]),
)
def test_labels_equal_a_brute_force(seed, grid, scale, mode) -> None:
    abdiv = np.random.default_rng(seed).random(grid, np.float32)
    size = (grid[0] * scale[0], grid[1] * scale[1])
    labels = ternary_edges(abdiv, size, mode)
    assert (labels.shape, labels.dtype) == (size, np.int8)
    if abdiv.size == 1:
        assert (labels == (0 if mode == "mean" else -1)).all()
        return
    mean, deviation = abdiv.astype(float).mean(), abdiv.astype(float).std()
    high, low = (mean, mean) if mode == "mean" else (mean + deviation, mean - deviation)
    fine = bilinear(abdiv, size)
    expected = np.where(fine > high, 1, np.where(fine < low, 0, 0 if mode == "mean" else -1))
    clear = (abs(fine - high) > 1e-5) & (abs(fine - low) > 1e-5)  # else rounding decides
    np.testing.assert_array_equal(labels[clear], expected[clear])


@pytest.mark.parametrize("mode", ["mean_std", "mean"])
def test_at_the_size_of_the_grid_they_are_those_of_the_grid(mode) -> None:
    abdiv = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
    labels = ternary_edges(abdiv.numpy(), (7, 9), mode)
    np.testing.assert_array_equal(labels, pseudo_edges(abdiv, mode).numpy())
    # The same threshold as of the edge strengths that are kept beside them.
    np.testing.assert_array_equal(labels == 1, normalise_edges(abdiv, mode).numpy() > 0.5)


def test_a_heavy_tail_leaves_no_negatives() -> None:
    abdiv = np.full((4, 4), 0.01, np.float32)
    abdiv[0, 0] = 1.0  # sigma 0.24 exceeds mu 0.07
    assert label_shares(ternary_edges(abdiv, (4, 4), "mean_std")) == (1 / 16, 0, 15 / 16)
    assert label_shares(ternary_edges(abdiv, (4, 4), "mean")) == (1 / 16, 15 / 16, 0)


def test_an_image_below_the_grid_and_wrong_arguments() -> None:
    abdiv = np.random.default_rng(0).random((8, 8), np.float32)
    assert ternary_edges(abdiv, (3, 5)).shape == (3, 5)
    with pytest.raises(ValueError, match="mean_std, upper_band, mean, not 'median'"):
        ternary_edges(abdiv, (8, 8), "median")
    with pytest.raises(ValueError, match=r"not of shape \(1, 8, 8\)"):
        ternary_edges(abdiv[None], (8, 8))
