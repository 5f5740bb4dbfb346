"""Group norm of few large groups, as a VAE's encoder has them, spread over the whole GPU.

PyTorch's gives each group to one multiprocessor: an image's 32 groups leave three of four of an
H100 idle. Here each group is cut into parts. The first kernel leaves the moments of every part, and
the second combines them (Chan, Golub and LeVeque, 1979) and normalises.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch

_BLOCK = 8192  # elements of a program
_WARPS = 8
_CHUNK = 1024  # parts whose moments are combined at a time


@triton.jit
def part_moments(X, MOMENTS, N, parts, BLOCK: tl.constexpr):
    """MOMENTS[group, :, part] = mean of a part of N elements, and its sum of (x - mean)^2."""
    group, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    at = part * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + group.to(tl.int64) * N + at, mask=at < N, other=0.0).to(tl.float32)
    mean = tl.sum(x, 0) / tl.minimum(N - part * BLOCK, BLOCK)
    apart = tl.where(at < N, x - mean, 0.0)
    MOMENTS += 2 * group.to(tl.int64) * parts + part
    tl.store(MOMENTS, mean)
    tl.store(MOMENTS + parts, tl.sum(apart * apart, 0))


@triton.jit
def _group_moments(MOMENTS, N, parts, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    """Mean and variance of a whole group."""
    total = tl.zeros((CHUNK,), tl.float32)
    for first in range(0, parts, CHUNK):
        at = first + tl.arange(0, CHUNK)
        count = tl.minimum(tl.maximum(N - at * BLOCK, 0), BLOCK)
        total += count * tl.load(MOMENTS + at, mask=at < parts, other=0.0)
    mean = tl.sum(total, 0) / N
    total = tl.zeros((CHUNK,), tl.float32)
    for first in range(0, parts, CHUNK):
        at = first + tl.arange(0, CHUNK)
        count = tl.minimum(tl.maximum(N - at * BLOCK, 0), BLOCK)
        away = tl.load(MOMENTS + at, mask=at < parts, other=0.0) - mean
        total += tl.load(MOMENTS + parts + at, mask=at < parts, other=0.0) + count * away * away
    return mean, tl.sum(total, 0) / N


@triton.jit
def normalise(X, OUT, WEIGHT, BIAS, MOMENTS, N, parts, M, blocks, channels, members, eps,
              SILU: tl.constexpr, PART: tl.constexpr, CHUNK: tl.constexpr,
              BLOCK: tl.constexpr):  # fmt: skip
    """OUT = (x - mean) / sqrt(variance + eps) WEIGHT + BIAS, of M elements a channel."""
    row, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    at = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(X + row.to(tl.int64) * M + at, mask=at < M, other=0.0).to(tl.float32)
    MOMENTS += 2 * (row // members).to(tl.int64) * parts
    mean, variance = _group_moments(MOMENTS, N, parts, PART, CHUNK)
    weight = tl.load(WEIGHT + row % channels).to(tl.float32)
    bias = tl.load(BIAS + row % channels).to(tl.float32)
    y = (x - mean) * (weight / tl.sqrt(variance + eps)) + bias
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    tl.store(OUT + row.to(tl.int64) * M + at, y.to(OUT.dtype.element_ty), mask=at < M)


def group_norm_launches(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    moments: Tensor,
    out: Tensor,
) -> tuple[Launch, Launch]:
    """The launches, one after the other, that write the group norm of ``x``.

    Args:
        x, out: (B, C, ...), contiguous.
        weight, bias: (C,).
        silu: whether y sigmoid(y) of what is normed is written.
        moments: float32 of ``moments_shape``, contiguous, for the first launch to fill.
    """
    rows, each = x.shape[0] * x.shape[1], x[0, 0].numel()
    count, _, parts = moments.shape
    size = rows // count * each
    shared = {"MOMENTS": moments, "N": size, "parts": parts}
    first = {"X": x, **shared, "BLOCK": _part(size)}
    second = {
        "X": x,
        "OUT": out,
        "WEIGHT": weight,
        "BIAS": bias,
        **shared,
        "M": each,
        "blocks": triton.cdiv(each, _part(each)),
        "channels": x.shape[1],
        "members": rows // count,
        "eps": eps,
        "SILU": silu,
        "PART": _part(size),
        "CHUNK": min(_CHUNK, int(triton.next_power_of_2(parts))),
        "BLOCK": _part(each),
    }
    return (
        Launch(part_moments, (count * parts,), first, warps=_WARPS),
        Launch(normalise, (rows * second["blocks"],), second, warps=_WARPS),
    )


def moments_shape(x: Tensor, groups: int) -> tuple[int, int, int]:
    """Of the moments of ``x`` (B, C, ...): groups of all images, 2, parts of a group."""
    size = x[0].numel() // groups
    return x.shape[0] * groups, 2, int(triton.cdiv(size, _part(size)))


def _part(size: int) -> int:
    """Elements of a program, a power of 2, where ``size`` belong together."""
    return min(_BLOCK, int(triton.next_power_of_2(size)))
