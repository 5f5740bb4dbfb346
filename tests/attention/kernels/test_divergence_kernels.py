"""Kernels of boundary divergence, its gradient, and steps' KL against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trace_d2.attention.divergences import mean_divergence_tensor
from trace_d2.attention.kernels import maps as maps_module
from trace_d2.edges.abdiv import attention_boundary_divergence, batched_boundary_divergence

GRIDS = [(3, 4), (5, 3), (1, 5), (4, 1), (1, 1), (2, 2)]


def maps(grid: tuple[int, int], batch: int = 2, spread: float = 3, seed: int = 0) -> Tensor:
    """(B, N, N) float32; some entries are 0."""
    tokens = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(seed)
    attention = (spread * torch.randn(batch, tokens, tokens, generator=generator)).softmax(-1)
    attention[attention < 1e-6] = 0
    return attention


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the small maps here take several blocks, as those of real ones do."""
    monkeypatch.setattr(maps_module, "_BLOCK", 8)


@pytest.mark.parametrize("neighbourhood", [4, 8])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_boundary_divergence(
    grid: tuple[int, int], neighbourhood: int, device: torch.device
) -> None:
    attention = maps(grid)
    expected = attention_boundary_divergence(attention.double(), grid, neighbourhood)
    attention = attention.to(device)
    found = attention_boundary_divergence(attention, grid, neighbourhood, kernels="triton")
    assert found.shape == (len(attention), *grid)
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-5, atol=1e-5)
    one = attention_boundary_divergence(attention[0], grid, neighbourhood, kernels="triton")
    assert torch.equal(one, found[0])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_gradient(grid: tuple[int, int], device: torch.device) -> None:
    attention = maps(grid, spread=1.5)
    weights = torch.randn(2, *grid, generator=torch.Generator().manual_seed(1))
    exact = attention.double().requires_grad_()
    expected = torch.zeros_like(exact)
    if grid != (1, 1):
        divergence = batched_boundary_divergence(exact, grid)
        (expected,) = torch.autograd.grad(divergence, exact, weights)
    attention = attention.to(device).requires_grad_()
    made = batched_boundary_divergence(attention, grid, kernels="triton")
    (found,) = torch.autograd.grad(made, attention, weights.to(device))
    # Where rows agree the divergence is 0 up to rounding, and its derivative there is either's.
    scale = float(expected.abs().max()) + 1e-12
    torch.testing.assert_close(found.cpu().double() / scale, expected / scale, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        made.detach().cpu().double(),
        batched_boundary_divergence(exact, grid).detach(),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("shape", [(13, 13), (3, 10, 21)])
def test_kl(shape: tuple[int, ...], device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = ((3 * torch.randn(shape, generator=generator)).softmax(-1) for _ in "pq")
    p[..., 0] = 0
    found = mean_divergence_tensor(p.to(device), q.to(device), kernels="triton")
    assert found.dtype == torch.float64
    assert found.shape == ()
    assert float(found) == pytest.approx(
        float(mean_divergence_tensor(p.double(), q.double())), rel=2e-7
    )


def test_other_metrics_have_no_kernel(device: torch.device) -> None:
    p, q = maps((3, 4))
    for metric in ("jsd", "wasserstein"):
        found = mean_divergence_tensor(p.to(device), q.to(device), metric, kernels="triton")
        assert float(found) == pytest.approx(float(mean_divergence_tensor(p, q, metric)), rel=1e-6)


def test_what_is_no_number_stays_none(device):
    whole = maps((3, 4))[0]
    broken = torch.full_like(whole, float("nan"))
    for p, q in ((whole, broken), (broken, whole)):
        found = mean_divergence_tensor(p.to(device), q.to(device), "kl", kernels="triton")
        assert found.isnan()
    partly = whole.clone()
    partly[5] = float("nan")
    found = attention_boundary_divergence(partly.to(device), (3, 4), kernels="triton")
    plain = attention_boundary_divergence(partly, (3, 4), kernels="plain")
    assert torch.equal(found.isnan().cpu(), plain.isnan())
    assert plain.isnan().any()
