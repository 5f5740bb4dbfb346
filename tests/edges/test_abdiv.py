"""ABDiv against double loops and by hand; pseudo edges and edge strength by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.edges import abdiv_by_loops, abdiv_of_shifted_views

from trace_d2.attention.divergences import DIVERGENCES
from trace_d2.edges import attention_boundary_divergence, normalise_edges, pseudo_edges
from trace_d2.edges.abdiv import _CONSTANT


def random_attention(
    grid: tuple[int, int], seed: int = 0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    size = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(size, size, generator=generator, dtype=dtype), -1)


def test_by_hand() -> None:
    # A 1 x 3 grid: ABDiv of the middle is KL(right | left), of the ends one-sided.
    rows = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]])
    left = 0.5 * math.log(2) - 0.25 * math.log(2)
    abdiv = attention_boundary_divergence(rows, (1, 3))
    assert abdiv.tolist()[0] == pytest.approx([left, left, left], abs=1e-6)
    # The same tokens as a column.
    assert torch.equal(attention_boundary_divergence(rows, (3, 1)), abdiv.T)


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    neighbourhood=st.sampled_from([4, 8]),
    seed=st.integers(0, 99),
)
def test_equals_double_loops(height: int, width: int, neighbourhood: int, seed: int) -> None:
    attention = random_attention((height, width), seed)
    if height * width > 2:
        attention[0, 1] = 0.0
        attention[-1, 0] = 0.0
        attention /= attention.sum(-1, keepdim=True)
    loops = abdiv_by_loops(attention, (height, width), neighbourhood)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        abdiv = attention_boundary_divergence(attention.to(dtype), (height, width), neighbourhood)
        assert abdiv.dtype == dtype
        np.testing.assert_allclose(abdiv, loops, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("neighbourhood", [4, 8])
def test_equals_shifted_views(neighbourhood: int) -> None:
    attention = random_attention((9, 14))
    abdiv = attention_boundary_divergence(attention, (9, 14), neighbourhood)
    shifted = abdiv_of_shifted_views(attention.double(), (9, 14), neighbourhood)
    torch.testing.assert_close(abdiv.double(), shifted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("neighbourhood", [4, 8])
@pytest.mark.parametrize("metric", list(DIVERGENCES))
def test_other_divergences_are_summed_over_opposite_neighbours(metric, neighbourhood) -> None:
    height, width = 3, 4
    maps = torch.stack([random_attention((height, width), n, torch.float64) for n in (0, 1)])
    steps = [(1, 0), (0, 1), (1, 1), (1, -1)][: neighbourhood // 2]

    def row(i: int, j: int) -> torch.Tensor:
        return maps[:, min(max(i, 0), height - 1) * width + min(max(j, 0), width - 1)]

    expected = torch.stack(
        [
            sum(DIVERGENCES[metric](row(i + a, j + b), row(i - a, j - b)) for a, b in steps)
            for i in range(height)
            for j in range(width)
        ],
        dim=1,
    )
    found = attention_boundary_divergence(maps, (height, width), neighbourhood, metric)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-9, atol=1e-12)
    one = attention_boundary_divergence(maps[1], (height, width), neighbourhood, metric)
    torch.testing.assert_close(one, found[1])


def test_two_regions_divide_at_their_border() -> None:
    # Tokens of columns 0..2 attend to themselves, those of 3..6 to themselves.
    side = torch.arange(7) >= 3
    same = (side[:, None] == side).float().repeat(4, 4)
    attention = same * 0.9 + 0.1
    attention /= attention.sum(-1, keepdim=True)
    abdiv = attention_boundary_divergence(attention, (4, 7))
    assert torch.equal((abdiv > 1e-3).any(0), torch.tensor([0, 0, 1, 1, 0, 0, 0]).bool())
    # Five of seven columns hold none, so mu + sigma lies below the border's strength.
    assert torch.equal(normalise_edges(abdiv) > 0.5, abdiv > 1e-3)
    assert torch.equal(pseudo_edges(abdiv) == 1, abdiv > 1e-3)


def test_bad_shapes_are_refused() -> None:
    attention = random_attention((2, 3))
    with pytest.raises(ValueError, match=r"none of a grid \(2, 4\)"):
        attention_boundary_divergence(attention, (2, 4))
    with pytest.raises(ValueError, match="4 or 8, not 6"):
        attention_boundary_divergence(attention, (2, 3), 6)


def test_pseudo_edges_by_hand() -> None:
    abdiv = torch.tensor([[0.0, 3.0], [4.0, 5.0]])  # mu = 3, sigma = sqrt(3.5) = 1.87
    assert pseudo_edges(abdiv).tolist() == [[0, -1], [-1, 1]]
    assert pseudo_edges(abdiv, "mean").tolist() == [[0, 0], [1, 1]]
    assert pseudo_edges(abdiv).dtype == torch.int8
    with pytest.raises(ValueError, match="one of mean_std, upper_band, mean"):
        pseudo_edges(abdiv, "median")


def test_edge_strength_by_hand() -> None:
    abdiv = torch.tensor([[0.0, 3.0], [4.0, 5.0]])
    scale = 2 * (3 + math.sqrt(3.5))
    expected = torch.tensor([[0.0, 3 / scale], [4 / scale, 5 / scale]])
    torch.testing.assert_close(normalise_edges(abdiv), expected)
    assert normalise_edges(abdiv.double()).dtype == torch.float32
    torch.testing.assert_close(normalise_edges(abdiv, "mean"), abdiv.div(6).clamp(max=1))
    with pytest.raises(ValueError, match="one of mean_std, upper_band, mean"):
        normalise_edges(abdiv, "median")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=20))
def test_half_is_the_papers_threshold(values: list[float]) -> None:
    abdiv = torch.tensor([values])
    strength = normalise_edges(abdiv)
    assert ((strength >= 0) & (strength <= 1)).all()
    numbers = np.array(values, dtype=np.float64)
    if numbers.std() <= _CONSTANT * numbers.mean():
        assert not strength.any()
        return
    threshold = numbers.mean() + numbers.std()
    clear = torch.from_numpy(np.abs(numbers - threshold) > 1e-5 * threshold)[None]
    assert torch.equal((strength > 0.5)[clear], (pseudo_edges(abdiv) == 1)[clear])


@pytest.mark.parametrize("value", [0.0, 0.3, 7e4])
def test_a_constant_map_has_no_edge(value: float) -> None:
    abdiv = torch.full((3, 5), value)
    assert not normalise_edges(abdiv).any()
    assert (pseudo_edges(abdiv) == -1).all()
    assert not pseudo_edges(abdiv, "mean").any()
    assert not normalise_edges(abdiv[:1, :1]).any()
    uniform = torch.full((12, 12), 1 / 12)
    assert not normalise_edges(attention_boundary_divergence(uniform, (3, 4))).any()
