"""Kernels of maps and their gradients against softmax and autograd in float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trace_d2.attention import AttentionLayout, SelfAttentionReader
from trace_d2.attention.operators import accumulate_mean_softmax, mean_softmax

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@dataclass(frozen=True)
class Case:
    """Queries and keys of image tokens: a part of a joint sequence, as diffusers lays it out."""

    tokens: int
    features: int
    dtype: torch.dtype
    heads: int = 2
    text: int = 0
    text_first: bool = False
    batch: int = 1
    sharpness: float = 1.0

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(B, H, N, d) views."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, self.tokens + self.text, self.heads, self.features)
        first = self.text if self.text_first else 0
        query, key = (
            torch.randn(shape, generator=generator)
            .mul(strength)
            .to(device, self.dtype)
            .transpose(1, 2)[:, :, first : first + self.tokens]
            for strength in (self.sharpness, 1.0)
        )
        return query, key


CASES = [
    Case(96, 64, FP32, text=13),
    Case(70, 40, FP32, heads=3, batch=2, sharpness=8),
    Case(128, 64, BF16, heads=3, text=20, text_first=True),
    Case(150, 64, BF16, text=7, text_first=True, batch=2),
    Case(130, 72, BF16, sharpness=4),
    Case(67, 80, FP16, batch=2),
    Case(64, 96, FP16, text=1),
    Case(65, 128, BF16, text=5, text_first=True, sharpness=4),
    Case(33, 160, FP16),
    Case(1, 8, FP32),
]


def exact(query: Tensor, key: Tensor, scale: float) -> Tensor:
    scores = query.double() @ key.double().transpose(2, 3) * scale
    return scores.softmax(-1).mean(1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_map(case: Case, device: torch.device) -> None:
    query, key = case.inputs(device)
    scale = case.features**-0.5
    before = torch.rand(case.batch, case.tokens, case.tokens).to(device)
    out = before.clone()
    accumulate_mean_softmax(query, key, out, scale=scale, kernels="triton")
    expected = exact(query, key, scale)
    torch.testing.assert_close(out.double() - before.double(), expected, rtol=0, atol=3e-6)
    made = mean_softmax(query, key, scale=scale, kernels="triton")
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.double(), expected, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[3]], ids=str)
def test_column_weights(case: Case, device: torch.device) -> None:
    query, key = case.inputs(device)
    weights = torch.arange(case.tokens, device=device) % 5.0 + 1
    out = torch.zeros(case.batch, case.tokens, case.tokens, device=device)
    for _ in range(2):
        accumulate_mean_softmax(
            query, key, out, scale=0.2, column_weights=weights, kernels="triton"
        )
    expected = exact(query, key, 0.2)
    expected = expected / (expected @ weights.double()).unsqueeze(-1)
    torch.testing.assert_close(out.double(), 2 * expected, rtol=2e-5, atol=1e-8)


def test_any_strides(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    # Features lie apart, heads are shared: nothing is contiguous.
    query = torch.randn(2, 24, 3, 50, generator=generator).to(device).permute(0, 2, 3, 1)
    key = torch.randn(1, 1, 100, 26, generator=generator).to(device)[:, :, ::2, 1:25]
    key = key.expand(2, 3, 50, 24)
    made = mean_softmax(query, key, scale=0.3, kernels="triton")
    torch.testing.assert_close(made.double(), exact(query, key, 0.3), rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("offset", [-1e2, 1e2])
def test_scores_far_from_zero(offset: float, device: torch.device) -> None:
    query, key = Case(40, 16, FP32).inputs(device)
    # Exponentials of the scores, and of what lies beyond the last key, are 0 or infinite.
    query = torch.cat((query, torch.full_like(query[..., :1], 10.0)), -1).requires_grad_()
    key = torch.cat((key, torch.full_like(key[..., :1], offset)), -1).requires_grad_()
    made = mean_softmax(query, key, scale=0.5, kernels="triton")
    doubles = query.detach().double().requires_grad_(), key.detach().double().requires_grad_()
    expected = exact(*doubles, 0.5)
    torch.testing.assert_close(made.double(), expected, rtol=2e-4, atol=1e-8)
    found = torch.autograd.grad(made.square().sum(), (query, key))
    wanted = torch.autograd.grad(expected.square().sum(), doubles)
    for ours, theirs in zip(found, wanted, strict=True):
        ours, theirs = ours[..., :-1].double(), theirs[..., :-1]
        bound = 1e-3 * float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=bound)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case: Case, device: torch.device) -> None:
    inputs = [tensor.detach().requires_grad_() for tensor in case.inputs(device)]
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    scale = case.features**-0.5
    generator = torch.Generator().manual_seed(1)
    shape = (case.batch, case.tokens, case.tokens)
    grad = (torch.randn(shape, generator=generator) + 3).to(device)
    made = mean_softmax(*inputs, scale=scale, kernels="triton")
    found = torch.autograd.grad(made, inputs, grad)
    wanted = torch.autograd.grad(exact(*doubles, scale), doubles, grad.double())
    # Tensor cores take bfloat16; float16 has no room for numbers that small.
    tolerance = 2e-5 if case.dtype == FP32 else 1e-2
    for ours, theirs, tensor in zip(found, wanted, inputs, strict=True):
        assert ours.dtype == tensor.dtype
        bound = tolerance * float(theirs.abs().max()) + 1e-12
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=bound)


def test_gradient_of_a_sum_is_none(device: torch.device) -> None:
    query, key = (tensor.requires_grad_() for tensor in Case(40, 16, FP32).inputs(device))
    mean_softmax(query, key, scale=0.25, kernels="triton").sum().backward()
    assert float(query.grad.abs().max()) < 1e-6  # rows sum to 1 whatever the inputs


@pytest.mark.parametrize("differentiable", [False, True])
def test_reader(differentiable: bool, device: torch.device) -> None:
    layout = AttentionLayout(((6, 8), (3, 4), (3, 5)), text_tokens=4, text_first=True)
    generator = torch.Generator().manual_seed(0)
    calls = [torch.randn(2, 2, n, 16, generator=generator) for n in (52, 16, 19, 48)]
    made = {}
    for kernels in ("plain", "triton"):
        inputs = [call.to(device).requires_grad_(differentiable) for call in calls]
        reader = SelfAttentionReader(layout, differentiable=differentiable, kernels=kernels)
        with reader:
            for query in inputs:
                functional.scaled_dot_product_attention(query, query.roll(1, -1), query)
        attention = reader.attention()
        made[kernels] = [attention.detach()]
        if differentiable:
            made[kernels] += torch.autograd.grad(attention.square().sum(), inputs)
    torch.testing.assert_close(made["triton"], made["plain"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("differentiable", [False, True])
def test_reader_of_another_order_behind_a_mask(differentiable: bool, device: torch.device) -> None:
    order = tuple(torch.randperm(48, generator=torch.Generator().manual_seed(2)).tolist())
    layout = AttentionLayout(
        ((6, 8),), text_tokens=5, start=2, order=order, calls=1, ignore_masks=True
    )
    query = torch.randn(2, 2, 53, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(53, 53, dtype=torch.bool).tril().to(device)
    made = {}
    for kernels in ("plain", "triton"):
        given = query.to(device).requires_grad_(differentiable)
        reader = SelfAttentionReader(layout, differentiable=differentiable, kernels=kernels)
        with reader:
            functional.scaled_dot_product_attention(given, given.roll(1, -1), given, attn_mask=mask)
        attention = reader.attention()
        made[kernels] = [attention.detach()]
        if differentiable:
            made[kernels] += torch.autograd.grad(attention.square().sum(), given)
    torch.testing.assert_close(made["triton"], made["plain"], rtol=1e-4, atol=1e-6)
    image = query[:, :, 2:50][:, :, list(order)]
    expected = exact(image, image.roll(1, -1), 0.25)
    torch.testing.assert_close(made["triton"][0].cpu().double(), expected, rtol=0, atol=3e-6)


@pytest.mark.gpu
def test_more_than_2_to_the_31_elements(device: torch.device) -> None:
    if device.type != "cuda" or torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs a GPU with 12 GiB free")
    query, key = Case(16384, 64, BF16, batch=9, heads=1).inputs(device)
    out = torch.zeros(9, 16384, 16384, device=device)
    accumulate_mean_softmax(query, key, out, scale=0.125, kernels="triton")
    rows = exact(query[8:, :, -70:], key[8:], 0.125)
    torch.testing.assert_close(out[8:, -70:].double(), rows, rtol=1e-4, atol=1e-8)
