"""Operators of PyTorch: what torch.compile and meta tensors need of them, and who makes maps."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from trace_d2.attention import operators
from trace_d2.attention.divergences import mean_divergence_tensor
from trace_d2.attention.kernels import choice
from trace_d2.attention.operators import accumulate_mean_softmax, mean_softmax
from trace_d2.edges.abdiv import attention_boundary_divergence


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ways() -> list[str]:
    """Values of KERNELS that can be tried on the CPU here."""
    return ["plain"] if choice._obstacle_of(torch.device("cpu")) else ["plain", "triton"]


@pytest.mark.parametrize("kernels", ways())
def test_opcheck(kernels: str) -> None:
    query, key = random(1, 2, 6, 4).requires_grad_(), random(1, 2, 6, 4, seed=1).requires_grad_()
    ops, rest = torch.ops.trace_d2, (None, 2**20, kernels)
    attention = random(2, 6, 6).softmax(-1)
    out, grad, weights = torch.zeros(1, 6, 6), random(1, 6, 6, seed=2), torch.ones(6)
    fixed = query.detach(), key.detach()
    torch.library.opcheck(
        ops.accumulate_mean_softmax.default,
        (*fixed, out, 0.5, None, 2**20, weights, kernels),
    )
    torch.library.opcheck(ops.mean_softmax.default, (query, key, 0.5, *rest))
    log_sums = ops.mean_softmax.default(*fixed, 0.5, *rest)[1]
    torch.library.opcheck(ops.mean_softmax_gradients.default, (*fixed, log_sums, grad, 0.5, *rest))
    torch.library.opcheck(ops.mean_divergence.default, (*attention, "kl", kernels))
    torch.library.opcheck(ops.boundary_divergence.default, (attention, 2, 3, 4, kernels))
    if kernels == "triton":
        attention.requires_grad_()
        torch.library.opcheck(ops.boundary_divergence.default, (attention, 2, 3, 4, kernels))


def test_meta_tensors_pass_through() -> None:
    query = torch.empty(2, 38, 4096, 64, device="meta", dtype=torch.bfloat16)
    out = torch.empty(2, 4096, 4096, device="meta")
    accumulate_mean_softmax(query, query, out, scale=0.125)
    made = mean_softmax(query.requires_grad_(), query, scale=0.125)
    assert (made.shape, made.dtype) == (out.shape, torch.float32)
    (grad,) = torch.autograd.grad(made, query, out)
    assert (grad.shape, grad.dtype) == (query.shape, query.dtype)
    assert mean_divergence_tensor(out[0], out[1]).shape == ()
    assert attention_boundary_divergence(out, (64, 64)).shape == (2, 64, 64)


@pytest.mark.parametrize("kernels", ways())
def test_compiled_without_a_break(kernels: str) -> None:
    def run(query: Tensor, out: Tensor) -> Tensor:
        accumulate_mean_softmax(query * 2, query, out, scale=0.5, kernels=kernels)
        return mean_softmax(query, query, scale=0.5, kernels=kernels) + out

    query, out = random(1, 2, 6, 4), torch.zeros(1, 6, 6)
    expected = run(query, out.clone())
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query, out), expected)
    assert out.any()


def test_second_derivatives_are_refused() -> None:
    query = random(1, 2, 6, 4).requires_grad_()
    made = mean_softmax(query, query, scale=0.5).square().sum()
    (first,) = torch.autograd.grad(made, query, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.sum(), query)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run on every device."""
    monkeypatch.setattr(choice, "_obstacle_of", lambda device: "")


QUERY = random(1, 2, 6, 4)


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize(
    ("query", "options", "cause"),
    [
        (QUERY.double(), {}, "bfloat16, float16 and float32, not float64"),
        (random(1, 2, 6, 257), {}, "at most 256 features, not 257"),
        (QUERY, {"mask": torch.zeros(1, 2, 6, 6)}, "no attention mask"),
        (QUERY, {"scale": -0.5}, "scales above 0"),
        (QUERY, {"key": QUERY.half()}, "of one type"),
        (torch.empty_strided((1, 2, 6, 4), (0, 4, 2**30, 1), device="meta"), {}, "further apart"),
    ],
)
def test_what_kernels_cannot_make(query: Tensor, options: dict[str, Any], cause: str) -> None:
    call = {"key": query, "scale": 0.5, "mask": None, **options}
    with pytest.raises(ValueError, match=f"KERNELS triton cannot be: .*{cause}"):
        operators._can(query, **call, kernels="triton")
    assert not operators._can(query, **call, kernels="plain")
    assert operators._can(QUERY, QUERY, 0.5, None, "triton")


@pytest.mark.parametrize("kind", ["old", "missing", "other"])
def test_why_kernels_are_not_taken_is_told_once(kind, monkeypatch, caplog) -> None:
    class OnGpu:
        """Stands for a tensor."""

        device = torch.device("mps" if kind == "other" else "cuda:7")
        dtype = torch.bfloat16

    causes = {
        "old": "Some GPU has compute capability 7.5, below 8.0",
        "missing": "Triton is not here",
        "other": "they run on NVIDIA's and AMD's GPUs, not on 'mps'",
    }
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    if kind == "missing":
        monkeypatch.setitem(__import__("sys").modules, "triton", None)
    choice._obstacle_of.cache_clear()
    choice._tell_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not choice.takes_triton("auto", OnGpu())
        assert not choice.takes_triton("auto", OnGpu())
    choice._obstacle_of.cache_clear()
    (record,) = caplog.records
    assert causes[kind] in record.getMessage()
    with pytest.raises(ValueError, match="KERNELS triton cannot be"):
        choice.takes_triton("triton", OnGpu())
    choice._obstacle_of.cache_clear()
    assert not choice.takes_triton("plain", OnGpu())


@pytest.mark.skipif(ways() == ["plain"], reason="needs Triton's interpreter")
def test_a_kernel_that_does_not_run_says_what_to_do(monkeypatch) -> None:
    from trace_d2.attention.kernels import mean_softmax as kernels

    class Broken:
        __name__ = "mean_map"

        def __getitem__(self, grid: tuple[int, ...]) -> Broken:
            return self

        def __call__(self, **arguments: object) -> None:
            raise TypeError("no such instruction")

    monkeypatch.setattr(kernels, "mean_map", Broken())
    with pytest.raises(RuntimeError, match=r"mean_map.*no such instruction.*KERNELS plain"):
        mean_softmax(QUERY, QUERY, scale=0.5, kernels="triton")
