"""Softmax attention averaged over heads, a few rows at a time.

The obvious way holds heads x N x N scores several times over. Here a scratch buffer of a fixed
size holds some rows of one head (all rows of some heads where N is small), so that scores are
made, normalised and averaged while they are in the processor's cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of a block of scores. On a processor with 32 MiB of shared cache, 4 to 16 MiB were equally fast;
# the larger the blocks, the less often threads wait for each other.
_CACHE_BYTES = 2**24


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for every narrower type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def accumulate_mean_softmax(
    query: Tensor,
    key: Tensor,
    out: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    scratch_bytes: int = 2**24,
    column_weights: Tensor | None = None,
) -> None:
    """The plain way of ``operators.accumulate_mean_softmax``, with its arguments.

    The scratch buffers of ``scratch_bytes`` hold at least one row of one head.
    """
    batch, heads, tokens, _ = query.shape
    # A mean that is divided before it is added needs a place of its own.
    block_bytes = scratch_bytes if column_weights is None else scratch_bytes // 2
    head_step, row_step = chunk_sizes(heads, tokens, block_bytes, out)
    scores = out.new_empty(head_step * row_step * tokens)
    mean = out.new_empty(0 if column_weights is None else row_step * tokens)
    for b in range(batch):
        for start in range(0, tokens, row_step):
            rows = slice(start, min(start + row_step, tokens))
            target = out[b, rows]
            if column_weights is not None:
                target = mean[: target.numel()].view_as(target).zero_()
            for first in range(0, heads, head_step):
                part = slice(first, min(first + head_step, heads))
                shape = (part.stop - part.start, *target.shape)
                block = scores[: shape[0] * target.numel()].view(shape)
                block_mask = None if mask is None else mask[b, part, rows]
                softmax_block(query[b, part, rows], key[b, part], scale, block_mask, block)
                for head in block:
                    target.add_(head, alpha=1 / heads)
            if column_weights is not None:
                target /= (target @ column_weights).unsqueeze(1)
                out[b, rows] += target


def chunk_sizes(heads: int, tokens: int, block_bytes: int, like: Tensor) -> tuple[int, int]:
    """Heads and rows of a block of scores of the type of ``like``, at most ``block_bytes``.

    Rows of one head come first: a matrix product is fastest with many rows. On a CPU the block
    is kept to what the cache holds, since a larger one is slower.
    """
    if like.device.type == "cpu":
        block_bytes = min(block_bytes, _CACHE_BYTES)
    elements = block_bytes // like.element_size()
    rows = max(1, min(tokens, elements // tokens))
    return max(1, min(heads, elements // (rows * tokens))), rows


def softmax_block(
    query: Tensor, key: Tensor, scale: float, mask: Tensor | None, out: Tensor
) -> None:
    """Write softmax(scale * query key^T + mask) of (h, r, d) and (h, N, d) to ``out`` (h, r, N)."""
    query, key = query.to(out.dtype), key.to(out.dtype)
    torch.baddbmm(out, query, key.transpose(1, 2), beta=0, alpha=scale, out=out)
    if mask is not None and mask.dtype == torch.bool:
        out.masked_fill_(~mask, float("-inf"))
    elif mask is not None:
        out += mask
    torch.softmax(out, dim=-1, out=out)


def mean_softmax_gradients(
    query: Tensor, key: Tensor, grad: Tensor, scale: float, mask: Tensor | None, scratch_bytes: int
) -> tuple[Tensor, Tensor]:
    """What ``grad`` (B, N, N), by the mean softmax, is by ``query`` and by ``key``.

    Makes the softmax again, block by block. Arguments as in ``accumulate_mean_softmax``.
    """
    batch, heads, tokens, _ = query.shape
    grad_query = torch.empty(query.shape, dtype=grad.dtype, device=grad.device)
    grad_key = torch.zeros(key.shape, dtype=grad.dtype, device=grad.device)
    # Two blocks live at a time: the softmax and the gradient of the scores.
    head_step, row_step = chunk_sizes(heads, tokens, scratch_bytes // 2, grad)
    for b in range(batch):
        for row in range(0, tokens, row_step):
            for head in range(0, heads, head_step):
                part, rows = slice(head, head + head_step), slice(row, row + row_step)
                q, k = query[b, part, rows].to(grad.dtype), key[b, part].to(grad.dtype)
                p = torch.empty(*q.shape[:2], tokens, dtype=grad.dtype, device=grad.device)
                block_mask = None if mask is None else mask[b, part, rows]
                softmax_block(q, k, scale, block_mask, p)
                weighted = p * grad[b, rows]
                inner = weighted.sum(dim=-1, keepdim=True)
                scores = weighted.addcmul_(p, inner, value=-1).mul_(scale / heads)
                grad_query[b, part, rows] = scores @ k
                grad_key[b, part] += scores.transpose(1, 2) @ q
    return grad_query.to(query.dtype), grad_key.to(key.dtype)
