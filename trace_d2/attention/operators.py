"""Head-averaged softmax maps as PyTorch operators: how everything else has them made.

Operators have a fake implementation and, where they are differentiable, a derivative, so that
``torch.compile``, meta tensors and CUDA graphs pass through them as through PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import mean_softmax as plain
from .divergences import mean_divergence_tensor

__all__ = ["KERNELS", "accumulate_mean_softmax", "mean_divergence_tensor", "mean_softmax"]

KERNELS = ("auto", "triton", "plain")
"""Values of ``MODEL.TRACE.ATTENTION.KERNELS``."""


_Function = Callable[..., Any]


def _operator(schema: str) -> Callable[[_Function], _Function]:
    """Registers a function for every device, and gives the operator of that schema.

    ``torch.library.custom_op`` does the same and costs 40 us a call where this costs 6.
    """
    name = f"trace_d2::{schema.partition('(')[0]}"

    def register(function: _Function) -> _Function:
        torch.library.define(name, schema[schema.index("(") :])
        torch.library.impl(name, "default", function)
        return getattr(torch.ops.trace_d2, name.partition("::")[2]).default

    return register


def accumulate_mean_softmax(
    query: Tensor,
    key: Tensor,
    out: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    scratch_bytes: int = 2**24,
    column_weights: Tensor | None = None,
    kernels: str = "auto",
) -> None:
    """Add mean_heads(softmax(scale * query key^T + mask)) to ``out`` in place; no gradient.

    Args:
        query, key: (B, H, N, d) of any floating type and any strides.
        out: (B, N, N) of ``accumulation_dtype``.
        mask: (B, H, N, N), bool (True is kept) or added to the scores; expanded views are fine.
        scratch_bytes: size of the plain way's scratch buffers.
        column_weights: (N,) of the type of ``out``; before a row of the mean is added, it is
            divided by its sum weighted so.
        kernels: one of ``KERNELS``.
    """
    _accumulate(query, key, out, scale, mask, scratch_bytes, column_weights, kernels)


def mean_softmax(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    scratch_bytes: int = 2**24,
    kernels: str = "auto",
) -> Tensor:
    """mean_heads(softmax(scale * query key^T + mask)), (B, N, N), with its first derivatives.

    Only query and key are kept for the backward pass, which makes the softmax again. Arguments as
    in ``accumulate_mean_softmax``; a mask has no gradient.
    """
    made: Tensor = _mean_softmax(query, key, scale, mask, scratch_bytes, kernels)
    return made


@_operator(
    "accumulate_mean_softmax(Tensor query, Tensor key, Tensor(a!) out, float scale, Tensor? mask, "
    "int scratch_bytes, Tensor? column_weights, str kernels) -> ()"
)
def _accumulate(
    query: Tensor,
    key: Tensor,
    out: Tensor,
    scale: float,
    mask: Tensor | None,
    scratch_bytes: int,
    column_weights: Tensor | None,
    kernels: str,
) -> None:
    plain.accumulate_mean_softmax(
        query,
        key,
        out,
        scale=scale,
        mask=mask,
        scratch_bytes=scratch_bytes,
        column_weights=column_weights,
    )


@torch.library.register_fake("trace_d2::accumulate_mean_softmax")
def _(*arguments: Any) -> None:
    """Nothing is made."""


@_operator(
    "mean_softmax(Tensor query, Tensor key, float scale, Tensor? mask, int scratch_bytes, "
    "str kernels) -> Tensor"
)
def _mean_softmax(
    query: Tensor,
    key: Tensor,
    scale: float,
    mask: Tensor | None,
    scratch_bytes: int,
    kernels: str,
) -> Tensor:
    out = _empty_map(query).zero_()
    _accumulate(query, key, out, scale, mask, scratch_bytes, None, kernels)
    return out


@torch.library.register_fake("trace_d2::mean_softmax")
def _empty_map(query: Tensor, *others: Any) -> Tensor:
    batch, _, tokens, _ = query.shape
    return query.new_empty(batch, tokens, tokens, dtype=plain.accumulation_dtype(query.dtype))


@_operator(
    "mean_softmax_gradients(Tensor query, Tensor key, Tensor grad, float scale, Tensor? mask, "
    "int scratch_bytes, str kernels) -> (Tensor, Tensor)"
)
def _mean_softmax_gradients(
    query: Tensor,
    key: Tensor,
    grad: Tensor,
    scale: float,
    mask: Tensor | None,
    scratch_bytes: int,
    kernels: str,
) -> tuple[Tensor, Tensor]:
    return plain.mean_softmax_gradients(query, key, grad, scale, mask, scratch_bytes)


@torch.library.register_fake("trace_d2::mean_softmax_gradients")
def _(query: Tensor, key: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, key, scale, mask, *rest = inputs
    ctx.save_for_backward(query, key, mask)
    ctx.scale, ctx.rest = scale, rest


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    query, key, mask = ctx.saved_tensors
    grads = _mean_softmax_gradients(query, key, grad, ctx.scale, mask, *ctx.rest)
    return (*grads, None, None, None, None)


torch.library.register_autograd("trace_d2::mean_softmax", _backward, setup_context=_save)
