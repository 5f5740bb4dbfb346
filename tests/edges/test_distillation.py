"""The losses of distillation against direct evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_d2.edges.distillation import dice_loss, reconstruction_loss


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    shares=st.sampled_from([(0.2, 0.3, 0.5), (0.0, 0.5, 0.5), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]),
    dtype=st.sampled_from([np.int8, np.int64, np.float32]),
)
def test_dice_equals_the_formula(seed, shape, shares, dtype) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, shape)
    pseudo = generator.choice([1, 0, -1], shape, p=shares)
    losses = []
    for z, e in zip(logits, pseudo, strict=True):
        w, found = e != -1, 1 / (1 + np.exp(-z))
        edge = (e == 1).astype(float)
        below = (w * edge**2).sum() + (w * found**2).sum()
        losses.append(1 - 2 * (w * edge * found).sum() / below if w.any() else 0.0)
    loss = dice_loss(torch.from_numpy(logits), torch.from_numpy(pseudo.astype(dtype)))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(np.mean(losses), abs=1e-5)
    assert 0 <= float(loss) <= 1


def test_dice_by_hand() -> None:
    # E^ = 0.5 at one edge, one non-edge and one ignored: 1 - 2 x 0.5 / (1 + 0.25 + 0.25).
    loss = dice_loss(torch.zeros(1, 1, 3), torch.tensor([[[1, 0, -1]]]))
    assert float(loss) == pytest.approx(1 / 3)
    perfect = dice_loss(torch.tensor([[[50.0, -50.0]]]), torch.tensor([[[1, 0]]]))
    assert float(perfect) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(torch.full((1, 2, 2), -200.0), torch.zeros(1, 2, 2))) == 1


def test_what_is_ignored_has_no_gradient() -> None:
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pseudo = torch.tensor([[1, 0, -1]] * 3).expand(2, 3, 3).clone()
    pseudo[1] = -1
    dice_loss(logits, pseudo).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, :, :2].all()
    assert not logits.grad[0, :, 2].any()
    assert not logits.grad[1].any()


@pytest.mark.filterwarnings("ignore:Input #0 requires gradient and is not a double")
def test_gradient_of_dice_equals_finite_differences() -> None:
    logits = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pseudo = torch.tensor([[[1, 0, -1], [0, 1, 1]], [[-1, -1, 0], [1, 0, 0]]])
    # The loss is float32 by contract, so steps are coarse.
    assert torch.autograd.gradcheck(
        lambda z: dice_loss(z, pseudo), (logits,), eps=1e-2, atol=1e-4, rtol=1e-2
    )


def test_narrow_logits_are_added_up_in_float32() -> None:
    # 100,000 terms of 0.25 would stop growing in float16.
    logits = torch.zeros(1, 400, 250, dtype=torch.float16)
    pseudo = torch.zeros(1, 400, 250, dtype=torch.int8)
    pseudo[:, :200] = 1
    # 1 - 2 x 50,000 x 0.5 / (50,000 + 25,000)
    assert float(dice_loss(logits, pseudo)) == pytest.approx(1 / 3, abs=1e-5)


def test_reconstruction_by_hand() -> None:
    image = torch.tensor([[[[1.0, 2.0]]]])
    made = torch.tensor([[[[0.0, 4.0]]]], dtype=torch.bfloat16)
    loss = reconstruction_loss(image, made)
    assert (loss.dtype, float(loss)) == (torch.float32, 2.5)
