"""Head-averaged softmax maps as operators of PyTorch: how everything else has them made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import mean_softmax as plain
from .kernels.choice import takes_triton
from .registration import operator
from .settings import KERNELS

__all__ = ["KERNELS", "accumulate_mean_softmax", "mean_softmax"]


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

    Raises:
        ValueError: ``kernels`` is "triton", and Triton's kernels cannot make this map.
        RuntimeError: a kernel does not run on this GPU.
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

    Only query, key and the logarithms of the rows' sums are kept for the backward pass, which makes
    the softmax again. Arguments and errors as in ``accumulate_mean_softmax``; a mask has no
    gradient.
    """
    made: Tensor = _mean_softmax(query, key, scale, mask, scratch_bytes, kernels)[0]
    return made


def _can(query: Tensor, key: Tensor, scale: float, mask: Tensor | None, kernels: str) -> bool:
    """Whether kernels make this map and its gradient."""
    tokens, features = query.shape[2:]
    obstacle = ""
    if mask is not None:
        obstacle = "they take no attention mask"
    elif features > 256:
        obstacle = f"they take heads of at most 256 features, not {features}"
    elif scale <= 0:
        obstacle = f"they take scales above 0, not {scale}"
    elif query.dtype != key.dtype:
        obstacle = f"they take queries and keys of one type, not {query.dtype} and {key.dtype}"
    elif max(query.stride(2), key.stride(2)) * tokens >= 2**31:
        obstacle = "the tokens of a head lie further apart than 2^31 elements"
    return takes_triton(kernels, query, obstacle)


@operator(
    "accumulate_mean_softmax(Tensor query, Tensor key, Tensor(a!) out, float scale, Tensor? mask, "
    "int scratch_bytes, Tensor? column_weights, str kernels) -> ()",
    fake=lambda *arguments: None,
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
    if not _can(query, key, scale, mask, kernels):
        plain.accumulate_mean_softmax(
            query,
            key,
            out,
            scale=scale,
            mask=mask,
            scratch_bytes=scratch_bytes,
            column_weights=column_weights,
        )
        return
    from .kernels.mean_softmax import map_launches

    log_sums = query.new_empty(query.shape[:3], dtype=torch.float32)
    for launch in map_launches(query, key, out, scale, log_sums, column_weights=column_weights):
        launch.run()


def _empty_map(query: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """The map, and the logarithms of the rows' sums, which the plain way leaves empty."""
    batch, heads, tokens, _ = query.shape
    dtype = plain.accumulation_dtype(query.dtype)
    out = query.new_empty(batch, tokens, tokens, dtype=dtype)
    return out, query.new_empty(batch, heads, tokens, dtype=torch.float32)


@operator(
    "mean_softmax(Tensor query, Tensor key, float scale, Tensor? mask, int scratch_bytes, "
    "str kernels) -> (Tensor, Tensor)",
    fake=_empty_map,
)
def _mean_softmax(
    query: Tensor,
    key: Tensor,
    scale: float,
    mask: Tensor | None,
    scratch_bytes: int,
    kernels: str,
) -> tuple[Tensor, Tensor]:
    out, log_sums = _empty_map(query)
    if _can(query, key, scale, mask, kernels):
        from .kernels.mean_softmax import map_launches

        for launch in map_launches(query, key, out, scale, log_sums, add=False):
            launch.run()
    else:
        plain.accumulate_mean_softmax(
            query, key, out.zero_(), scale=scale, mask=mask, scratch_bytes=scratch_bytes
        )
        log_sums.zero_()
    return out, log_sums


@operator(
    "mean_softmax_gradients(Tensor query, Tensor key, Tensor log_sums, Tensor grad, float scale, "
    "Tensor? mask, int scratch_bytes, str kernels) -> (Tensor, Tensor)",
    fake=lambda query, key, *others: (query.new_empty(query.shape), key.new_empty(key.shape)),
)
def _mean_softmax_gradients(
    query: Tensor,
    key: Tensor,
    log_sums: Tensor,
    grad: Tensor,
    scale: float,
    mask: Tensor | None,
    scratch_bytes: int,
    kernels: str,
) -> tuple[Tensor, Tensor]:
    if not _can(query, key, scale, mask, kernels):
        return plain.mean_softmax_gradients(query, key, grad, scale, mask, scratch_bytes)
    from .kernels.mean_softmax import gradient_launches

    grads = query.new_empty(query.shape), key.new_empty(key.shape)
    for launch in gradient_launches(query, key, grad.contiguous(), scale, log_sums, *grads):
        launch.run()
    return grads


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, ctx.scale, mask, *ctx.rest = inputs
    ctx.save_for_backward(query, key, mask, output[1])
    ctx.mark_non_differentiable(output[1])


@torch.autograd.function.once_differentiable
def _backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:
    query, key, mask, log_sums = ctx.saved_tensors
    grads = _mean_softmax_gradients(query, key, log_sums, grad, ctx.scale, mask, *ctx.rest)
    return (*grads, None, None, None, None)


torch.library.register_autograd("trace_d2::mean_softmax", _backward, setup_context=_save)
