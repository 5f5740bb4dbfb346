"""Chunked mean softmax: the numbers do not depend on the chunks, and the gradient is right."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.attention import average_over_grids, mean_softmax_attention
from torch import Tensor
from torch.nn import functional

from trace_d2.attention import AttentionLayout, SelfAttentionReader
from trace_d2.attention.layout import (
    add_resampled,
    key_multiplicity,
    nearest_tokens,
    resample_attention,
)
from trace_d2.attention.mean_softmax import (
    accumulate_mean_softmax,
    chunk_sizes,
)
from trace_d2.attention.operators import mean_softmax


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_two_tokens_by_hand() -> None:
    # Scores of the one head are log 3 and 0 for the first query, 0 and 0 for the second.
    query = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    key = torch.tensor([[[[3.0, 5.0], [1.0, 7.0]]]]).log()
    out = torch.zeros(1, 2, 2)
    accumulate_mean_softmax(query, key, out, scale=1.0)
    torch.testing.assert_close(out, torch.tensor([[[0.75, 0.25], [0.5, 0.5]]]))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 5),
    tokens=st.integers(1, 23),
    scratch=st.integers(1, 8000),
)
def test_chunks_do_not_matter(batch: int, heads: int, tokens: int, scratch: int) -> None:
    query, key = random(batch, heads, tokens, 4), random(batch, heads, tokens, 4, seed=1)
    out = torch.zeros(batch, tokens, tokens)
    accumulate_mean_softmax(query, key, out, scale=0.5, scratch_bytes=scratch)
    expected = mean_softmax_attention(query, key, 0.5)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scratch", [4, 4096, 50_000, 2**24])
def test_chunks_keep_to_the_scratch(scratch: int) -> None:
    heads, rows = chunk_sizes(24, 64, scratch, torch.zeros(1))
    assert heads == 1 or rows == 64
    assert heads * rows * 64 * 4 <= max(scratch, 64 * 4)


def test_adds_to_what_is_there() -> None:
    query, out = random(1, 2, 5, 3), torch.full((1, 5, 5), 2.0)
    accumulate_mean_softmax(query, query, out, scale=1.0)
    torch.testing.assert_close(out, 2 + mean_softmax_attention(query, query, 1.0))


@pytest.mark.parametrize("scratch", [100, 1000, 2**20])
def test_gradients(scratch: int) -> None:
    query = random(2, 3, 5, 4, dtype=torch.float64).requires_grad_()
    key = random(2, 3, 5, 4, seed=1, dtype=torch.float64).requires_grad_()
    bias = random(2, 3, 5, 5, seed=2, dtype=torch.float64)
    weights = random(2, 5, 5, seed=3, dtype=torch.float64)
    scores = query @ key.transpose(-1, -2) * 0.6
    for mask, masked in (
        (None, scores),
        (bias, scores + bias),
        (bias > -1, scores.masked_fill(bias <= -1, -torch.inf)),
    ):
        mean = mean_softmax(query, key, scale=0.6, mask=mask, scratch_bytes=scratch)
        expected = masked.softmax(-1).mean(1)
        torch.testing.assert_close(mean, expected)
        grads = torch.autograd.grad((mean * weights).sum(), (query, key))
        wanted = torch.autograd.grad((expected * weights).sum(), (query, key), retain_graph=True)
        torch.testing.assert_close(grads, wanted)


def test_differentiable_reader_equals_autograd_through_softmax() -> None:
    layout = AttentionLayout(((4, 2), (2, 1)))
    large, small = random(1, 2, 8, 4).requires_grad_(), random(1, 2, 2, 4).requires_grad_()
    with SelfAttentionReader(layout, differentiable=True) as reader:
        for query in (large, small, large * 2):
            functional.scaled_dot_product_attention(query, query, query)
    attention = reader.attention()
    index = nearest_tokens((2, 1), (4, 2))
    repeated = mean_softmax_attention(small, small)[:, index][..., index]
    maps = (
        mean_softmax_attention(large, large),
        repeated / repeated.sum(-1, keepdim=True),
        mean_softmax_attention(large * 2, large * 2),
    )
    expected = sum(maps) / 3
    torch.testing.assert_close(attention, expected, rtol=0, atol=1e-6)
    weights = random(1, 8, 8, seed=5)
    grads = torch.autograd.grad((attention * weights).sum(), (large, small))
    wanted = torch.autograd.grad((expected * weights).sum(), (large, small))
    torch.testing.assert_close(grads, wanted, rtol=0, atol=1e-6)


def test_differentiable_and_plain_reader_agree() -> None:
    layout = AttentionLayout(((3, 3), (2, 2)))
    calls = (random(2, 2, 9, 4), random(2, 2, 4, 4, seed=1))
    maps = []
    for differentiable in (False, True):
        with SelfAttentionReader(layout, differentiable=differentiable) as reader:
            for query in calls:
                functional.scaled_dot_product_attention(query, query, query)
        maps.append(reader.attention())
    torch.testing.assert_close(*maps, rtol=0, atol=1e-6)


def test_resampling_by_hand() -> None:
    assert nearest_tokens((1, 2), (2, 4)).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    # 2 -> 3: cells 0 and 1 both come from floor(0) and floor(2/3) = 0.
    assert nearest_tokens((1, 2), (1, 3)).tolist() == [0, 0, 1]
    assert key_multiplicity((1, 2), (1, 3)).tolist() == [2, 1]
    attention = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    expected = average_over_grids([attention], [(1, 2)], (1, 3))
    # Row 0 becomes (0.25, 0.25, 0.75) / 1.25.
    torch.testing.assert_close(
        expected[0], torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64), rtol=0, atol=1e-12
    )
    repeated = resample_attention(attention, (1, 2), (1, 3))
    assert repeated.tolist() == [[0.25, 0.25, 0.75], [0.25, 0.25, 0.75], [0.5, 0.5, 0.5]]


@pytest.mark.parametrize("source", [(1, 1), (2, 3), (3, 5), (4, 4)])
@pytest.mark.parametrize("target", [(4, 4), (6, 9), (7, 5), (8, 8)])
def test_keys_are_counted_as_they_are_repeated(source, target) -> None:
    expected = torch.bincount(nearest_tokens(source, target), minlength=source[0] * source[1])
    assert torch.equal(key_multiplicity(source, target), expected)


@pytest.mark.parametrize("scratch", [1, 2000, 2**20])
@pytest.mark.parametrize("target", [(4, 6), (5, 4), (2, 9)])
def test_resampled_maps_are_added_bit_for_bit(target, scratch) -> None:
    tokens = target[0] * target[1]
    total, attention = random(2, tokens, tokens), random(2, 6, 6, seed=1)
    expected = total + resample_attention(attention, (2, 3), target)
    add_resampled(total, attention, (2, 3), target, scratch)
    assert torch.equal(total, expected)
