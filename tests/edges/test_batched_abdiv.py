"""ABDiv of several maps at once, with gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trace_d2.edges.abdiv import (
    attention_boundary_divergence,
    batched_boundary_divergence,
    pseudo_edges,
    upsample_edges,
)

GRIDS = [(5, 7), (1, 6), (6, 1), (1, 1), (2, 2), (3, 2)]


def maps(grid: tuple[int, int], spread: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    tokens = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, tokens, tokens, generator=generator, dtype=torch.float64)
    return (spread * scores).softmax(-1).to(dtype)


@pytest.mark.parametrize("grid", GRIDS)
def test_equals_that_of_each_map(grid) -> None:
    attention = maps(grid)
    expected = torch.stack([attention_boundary_divergence(one, grid) for one in attention])
    torch.testing.assert_close(
        batched_boundary_divergence(attention, grid), expected, rtol=1e-10, atol=1e-12
    )


def test_zeros_count_as_in_one_map() -> None:
    attention = maps((3, 4))
    attention[attention < 0.02] = 0
    attention /= attention.sum(-1, keepdim=True)
    expected = torch.stack([attention_boundary_divergence(one, (3, 4)) for one in attention])
    found = batched_boundary_divergence(attention, (3, 4))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert found.max() > 1


@pytest.mark.parametrize("grid", [(3, 3), (1, 4), (2, 3)])
def test_gradcheck(grid) -> None:
    attention = maps(grid, 0.5)[:2].requires_grad_()
    assert torch.autograd.gradcheck(lambda a: batched_boundary_divergence(a, grid), (attention,))


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_mixed_precision_does_not_round_it(narrow) -> None:
    # Neighbours nearly agree: ABDiv is a small difference of large sums.
    attention = maps((6, 6), 0.05, torch.float32)
    exact = batched_boundary_divergence(attention.double(), (6, 6))
    with torch.autocast("cpu", narrow):
        found = batched_boundary_divergence(attention, (6, 6))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=1e-5)


def test_float32_keeps_small_differences() -> None:
    attention = maps((8, 8), 0.02, torch.float32)
    exact = batched_boundary_divergence(attention.double(), (8, 8))
    assert exact.mean() < 2e-3
    found = batched_boundary_divergence(attention, (8, 8)).double()
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)
    assert (found >= 0).all()


ABDIV = torch.tensor([[0.0, 3.0], [4.0, 5.0]])  # mu 3, sigma sqrt(3.5) = 1.87


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("mean_std", [[0, -1], [-1, 1]]),  # none below 1.13, edge above 4.87
        ("upper_band", [[0, -1], [-1, 1]]),  # 3 is not below mu
        ("mean", [[0, 0], [1, 1]]),
    ],
)
def test_modes_by_hand(mode, expected) -> None:
    labels = pseudo_edges(ABDIV, mode)
    assert labels.dtype == torch.int8
    assert labels.tolist() == expected


def test_a_heavy_tail_has_negatives_in_the_upper_band() -> None:
    abdiv = torch.tensor([[0.1, 0.1, 0.2, 5.0]])  # mu 1.35, sigma 2.11: mu - sigma is below 0
    assert pseudo_edges(abdiv, "mean_std").tolist() == [[-1, -1, -1, 1]]
    assert pseudo_edges(abdiv, "upper_band").tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize("mode", ["mean_std", "upper_band", "mean"])
def test_thresholds_are_those_of_the_grid_whatever_the_size(mode) -> None:
    abdiv = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) ** 3
    labels = pseudo_edges(abdiv, mode, (15, 8))
    fine = upsample_edges(abdiv, (15, 8)).double()
    mean, deviation = abdiv.double().mean(), abdiv.double().std(correction=0)
    high = mean + (0 if mode == "mean" else deviation)
    low = {"mean_std": mean - deviation, "upper_band": mean, "mean": mean}[mode]
    assert labels.shape == (15, 8)
    assert torch.equal(labels == 1, fine > high)
    assert torch.equal(labels == 0, fine < low)
    # Upsampled values spread less: thresholds of the fine map would give more edges.
    assert fine.std(correction=0) < deviation


def test_constant_maps_and_unknown_modes() -> None:
    flat = torch.full((2, 3), 0.7)
    assert (pseudo_edges(flat, "upper_band", (4, 4)) == -1).all()
    assert (pseudo_edges(flat, "mean", (4, 4)) == 0).all()
    with pytest.raises(ValueError, match="one of mean_std, upper_band, mean, not 'median'"):
        pseudo_edges(flat, "median")
