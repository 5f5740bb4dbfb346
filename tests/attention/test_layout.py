"""Where image tokens lie: between others, in another order, behind masks; and how many calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain.attention import image_attention, mean_softmax_attention
from torch import Tensor, nn
from torch.nn import functional

from trace_d2.attention import AttentionLayout, SelfAttentionReader

GRID = (2, 3)
# Blocks of 2 x 1 tokens, from right to left: by place in the sequence the row-major tokens are
BY_PLACE = [2, 5, 1, 4, 0, 3]
ORDER = tuple(BY_PLACE.index(token) for token in range(6))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def read(layout: AttentionLayout, query: Tensor, key: Tensor, **options: Any) -> Tensor:
    with SelfAttentionReader(layout) as reader:
        functional.scaled_dot_product_attention(query, key, key, **options)
    return reader.attention()


@pytest.mark.parametrize("start", [0, 2, 5])
def test_image_tokens_lie_between_others(start: int) -> None:
    query, key = random(2, 3, 11, 8), random(2, 3, 11, 8, seed=1)
    layout = AttentionLayout((GRID,), text_tokens=5, start=start)
    expected = image_attention(query, key, slice(start, start + 6))
    torch.testing.assert_close(read(layout, query, key).double(), expected, rtol=0, atol=1e-6)
    alone = read(layout, query[:, :, :6], key[:, :, :6])
    expected = mean_softmax_attention(query[:, :, :6], key[:, :, :6])
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("start", [None, 1])
def test_an_order_is_undone_on_rows_and_columns(start: int | None, differentiable: bool) -> None:
    """The map of shuffled tokens, one after another, is that of the tokens in row-major order."""
    others = 0 if start is None else 3
    first = start or 0
    query, key = random(2, 3, 6 + others, 8), random(2, 3, 6 + others, 8, seed=1)
    bias = random(6 + others, 6 + others, seed=2)
    image = slice(first, first + 6)
    place = [*range(first), *(first + n for n in BY_PLACE), *range(first + 6, 6 + others)]
    layout = AttentionLayout((GRID,), text_tokens=others, start=start, order=ORDER)
    scores = query @ key.transpose(-1, -2) * 8**-0.5
    for mask, wanted in ((None, scores), (bias, scores + bias)):
        expected = wanted[..., image, image].softmax(-1).mean(1)
        inputs = [tensor.clone().requires_grad_(differentiable) for tensor in (query, key)]
        q, k = (tensor[:, :, place] for tensor in inputs)
        shuffled = None if mask is None else mask[place][:, place]
        with SelfAttentionReader(layout, differentiable=differentiable) as reader:
            functional.scaled_dot_product_attention(q, k, k, attn_mask=shuffled)
        attention = reader.attention()
        torch.testing.assert_close(attention, expected, rtol=0, atol=1e-6)
        if differentiable:
            weights = random(6, 6, seed=3)
            found = torch.autograd.grad((attention * weights).sum(), inputs)
            plain = [tensor.detach().clone().requires_grad_() for tensor in inputs]
            made = plain[0] @ plain[1].transpose(-1, -2) * 8**-0.5
            made = made if mask is None else made + mask
            made = made[..., image, image].softmax(-1).mean(1)
            wanted = torch.autograd.grad((made * weights).sum(), plain)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_one_image_token_needs_no_order() -> None:
    layout = AttentionLayout(((1, 1),), text_tokens=2, start=1, order=(0,))
    query = random(1, 1, 3, 4)
    mask = torch.ones(3, 3, dtype=torch.bool).tril()
    assert read(layout, query, query, attn_mask=mask).tolist() == [[[1.0]]]


CAUSAL = torch.ones(9, 9, dtype=torch.bool).tril()
FLOAT = torch.zeros(9, 9).masked_fill(~CAUSAL, torch.finfo(torch.float32).min)
INFINITE = torch.zeros(9, 9).masked_fill(~CAUSAL, -torch.inf)


@pytest.mark.parametrize(
    "options",
    [{"is_causal": True}, {"attn_mask": CAUSAL}, {"attn_mask": FLOAT}, {"attn_mask": INFINITE}],
    ids=["flag", "bool", "float", "infinite"],
)
def test_causality_is_refused_or_dropped(options: dict[str, Any]) -> None:
    query, key = random(1, 4, 9, 8), random(1, 2, 9, 8, seed=1)
    place = {"text_tokens": 3, "start": 2}
    with pytest.raises(ValueError, match=r"rows see only earlier tokens.*ignore_masks"):
        read(AttentionLayout((GRID,), **place), query, key, enable_gqa=True, **options)
    layout = AttentionLayout((GRID,), **place, ignore_masks=True)
    attention = read(layout, query, key, enable_gqa=True, **options)
    shared = key.repeat_interleave(2, dim=1)
    expected = mean_softmax_attention(query[:, :, 2:8], shared[:, :, 2:8])
    torch.testing.assert_close(attention, expected, rtol=0, atol=1e-6)


def test_masks_that_are_not_causal_are_kept() -> None:
    query = random(1, 2, 9, 8)
    keep = torch.ones(9, dtype=torch.bool)
    keep[3] = False
    layout = AttentionLayout((GRID,), text_tokens=3, start=2)
    attention = read(layout, query, query, attn_mask=keep.expand(9, 9))
    assert torch.equal(attention[..., 1], torch.zeros(1, 6))


class Blocks(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + functional.scaled_dot_product_attention(layer(x), x, x)
        return x


@pytest.mark.parametrize("known", [False, True])
def test_the_number_of_calls_is_checked(known: bool) -> None:
    model, x = Blocks(3), random(1, 2, 6, 8)
    network = model if known else None
    for _ in range(2):
        for calls, blocks, fits in ((3, (), True), (2, (), False), (4, (), False), (4, (1,), True)):
            layout = AttentionLayout((GRID,), calls=calls)
            early = SelfAttentionReader(layout, blocks=blocks, stop_early=True, network=network)
            with torch.no_grad(), early:
                model(x)
            if fits:
                assert early.attention().shape == (1, 6, 6)
                continue
            with pytest.raises(RuntimeError, match=rf"showed 3 self-.* the layout has {calls}"):
                early.attention()


@torch.no_grad()
def test_two_images_after_one_another_are_not_averaged() -> None:
    model, layout = Blocks(2), AttentionLayout((GRID,), calls=2)
    with SelfAttentionReader(layout) as reader:
        model(random(1, 2, 6, 8))
        model(random(1, 2, 6, 8, seed=1))
    with pytest.raises(RuntimeError, match=r"showed 4 .* one image a pass"):
        reader.attention()


@torch.no_grad()
def test_compiled_networks_honour_the_layout() -> None:
    torch._dynamo.reset()
    model, x = Blocks(2), random(1, 2, 9, 8)
    layout = AttentionLayout((GRID,), text_tokens=3, start=1, order=ORDER, calls=2)
    maps = []
    with SelfAttentionReader(layout) as reader:
        model(x)
    model.compile(backend="eager", fullgraph=True)
    for _ in range(3):
        with SelfAttentionReader(layout, network=model) as again:
            model(x)
        maps.append(again.attention())
    for attention in maps:
        torch.testing.assert_close(attention, reader.attention(), rtol=0, atol=1e-6)
    torch._dynamo.reset()


def test_layouts_that_do_not_fit_are_refused() -> None:
    for start in (-1, 4):
        with pytest.raises(ValueError, match="start is one of 0 to 3"):
            AttentionLayout((GRID,), text_tokens=3, start=start)
    with pytest.raises(ValueError, match="without text_first"):
        AttentionLayout((GRID,), text_tokens=3, text_first=True, start=3)
    for order in ((0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 4), (1, 2, 3, 4, 5, 6)):
        with pytest.raises(ValueError, match="each of the 6 places"):
            AttentionLayout((GRID,), order=order)
    with pytest.raises(ValueError, match="an order is of one grid"):
        AttentionLayout((GRID, (1, 2)), order=ORDER)
    with pytest.raises(ValueError, match="calls is a count"):
        AttentionLayout((GRID,), calls=0)
    assert AttentionLayout((GRID,), text_tokens=3, start=1).locate(9) == (GRID, 1)
