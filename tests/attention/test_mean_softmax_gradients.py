"""Gradients through the accumulated map against finite differences, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trace_d2.attention import AttentionLayout, SelfAttentionReader
from trace_d2.attention.operators import mean_softmax


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def leaves(*shape: int) -> tuple[Tensor, Tensor]:
    return random(*shape, seed=0).requires_grad_(), random(*shape, seed=1).requires_grad_()


# One row of one head at a time, some rows, some heads, and all at once.
@pytest.mark.parametrize("scratch", [1, 2 * 8 * 5 * 2, 2 * 8 * 25 * 2, 2**20])
@pytest.mark.parametrize("mask", ["none", "added", "boolean", "shared"])
def test_gradcheck(scratch: int, mask: str) -> None:
    query, key = leaves(2, 3, 5, 4)
    bias = random(2, 3, 5, 5, seed=2)
    masks = {
        "none": None,
        "added": bias,
        "boolean": (bias > -0.5) | torch.eye(5, dtype=torch.bool),
        # An expanded view, as attention masks over all heads are.
        "shared": bias[:, :1, :1].expand(2, 3, 5, 5),
    }
    assert torch.autograd.gradcheck(
        lambda q, k: mean_softmax(q, k, scale=0.6, mask=masks[mask], scratch_bytes=scratch),
        (query, key),
    )


def test_one_input_alone_has_a_gradient() -> None:
    query, key = leaves(1, 2, 4, 3)
    for fixed in (0, 1):
        pair = [query, key]
        pair[fixed] = pair[fixed].detach()
        free = pair[1 - fixed]

        def attention(moved: Tensor, pair: list[Tensor] = pair, fixed: int = fixed) -> Tensor:
            inputs = [moved, pair[1]] if fixed else [pair[0], moved]
            return mean_softmax(*inputs, scale=0.6)

        assert torch.autograd.gradcheck(attention, (free,))


@pytest.mark.parametrize("text_first", [False, True])
def test_gradcheck_of_the_reader_over_grids_and_text(text_first: bool) -> None:
    layout = AttentionLayout(((4, 2), (2, 1)), text_tokens=3, text_first=text_first)
    large, small = random(1, 2, 11, 3, seed=0), random(1, 2, 5, 3, seed=1)

    def read(large: Tensor, small: Tensor) -> Tensor:
        with SelfAttentionReader(layout, differentiable=True, scratch_mb=1e-4) as reader:
            for query in (large, small, large.sin()):
                functional.scaled_dot_product_attention(query, query.roll(1, -1), query)
        assert reader.calls == 3
        return reader.attention()

    inputs = (large.requires_grad_(), small.requires_grad_())
    assert torch.autograd.gradcheck(read, inputs)
    # Rows sum to 1 whatever the inputs: the sum of a map has no gradient.
    zero = torch.autograd.grad(read(*inputs).sum(), inputs)
    assert max(float(gradient.abs().max()) for gradient in zero) < 1e-12
    # The prompt is left out: its tokens have no influence, the image's do.
    text = slice(0, 3) if text_first else slice(8, 11)
    (gradient,) = torch.autograd.grad(read(*inputs)[0, 0, 0], inputs[0])
    assert not gradient[:, :, text].any()
    assert gradient.any()
