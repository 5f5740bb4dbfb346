"""Softmax averaged over heads: the sums of rows first, then the map, a tile of all heads at a time.

Scores never leave the registers. Exponentials are to base 2, which is what GPUs have, with the
scale in one multiplication and addition; a row's sum is kept as its logarithm L, so that
2^(score - L) is the softmax. (Flash attention's logarithms count the prompt's keys too. To take
them out again loses all digits where the prompt holds nearly all of the attention.)
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch
from .tiles import Tiles, gradient_tiles, map_tiles

# Triton's interpreter multiplies the raw bits of bfloat16: there, and there only, operands are
# widened first. Products of bfloat16 are exact in float32, so that results are those of a GPU up
# to the order of additions.
WIDEN = os.environ.get("TRITON_INTERPRET") == "1"
_LOG2_E = math.log2(math.e)
_GROUP = 8  # rows of tiles that are walked together, so that keys come from the L2 cache


@triton.jit
def _load(start, tokens, token_stride, feature_stride, N,
          UNIT: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
          EVEN: tl.constexpr, WIDEN: tl.constexpr):  # fmt: skip
    """Queries or keys (tokens, DP) of one head; 0 beyond the last token and the last feature."""
    features = tl.arange(0, DP)
    at = start + tokens[:, None] * (token_stride * UNIT) + features[None, :] * feature_stride
    if EVEN:
        tile = tl.load(at) if D == DP else tl.load(at, mask=features[None, :] < D, other=0.0)
    else:
        tile = tl.load(at, mask=(tokens[:, None] < N) & (features[None, :] < D), other=0.0)
    if WIDEN:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def row_sums(Q, K, LOG_SUMS, WEIGHTS, SHARES,
             q_batch, q_head, q_token, q_feature, k_batch, k_head, k_token, k_feature,
             N, H, scale,
             UNIT: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
             ROWS: tl.constexpr, KEYS: tl.constexpr,
             WEIGHTED: tl.constexpr, EVEN: tl.constexpr, WIDEN: tl.constexpr):  # fmt: skip
    """log2 of sum_keys 2^(scale q k) of each row, and the softmax's sum weighted by WEIGHTS."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    b, h = (tl.program_id(1) // H).to(tl.int64), (tl.program_id(1) % H).to(tl.int64)
    q_at = Q + b * (q_batch * UNIT) + h * (q_head * UNIT)
    q = _load(q_at, rows, q_token, q_feature, N, UNIT, D, DP, EVEN, WIDEN)
    keys_at = K + b * (k_batch * UNIT) + h * (k_head * UNIT)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    weighted = tl.zeros((ROWS,), tl.float32)
    for first in range(0, N, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = _load(keys_at, keys, k_token, k_feature, N, UNIT, D, DP, EVEN, WIDEN)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if not EVEN:
            scores = tl.where(keys[None, :] < N, scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        shrunk = tl.exp2((largest - larger) * scale)
        powers = tl.exp2(scores * scale - (larger * scale)[:, None])
        total = total * shrunk + tl.sum(powers, 1)
        if WEIGHTED:
            weights = tl.load(WEIGHTS + keys, mask=keys < N, other=0.0)
            weighted = weighted * shrunk + tl.sum(powers * weights[None, :], 1)
        largest = larger
    at = tl.program_id(1).to(tl.int64) * N + rows
    tl.store(LOG_SUMS + at, largest * scale + tl.log2(total), mask=rows < N)
    if WEIGHTED:
        tl.store(SHARES + at, weighted / total, mask=rows < N)


@triton.jit
def mean_map(Q, K, LOG_SUMS, SHARES, OUT,
             q_batch, q_head, q_token, q_feature, k_batch, k_head, k_token, k_feature,
             N, H, scale,
             UNIT: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
             ROWS: tl.constexpr, KEYS: tl.constexpr,
             GROUP: tl.constexpr, WEIGHTED: tl.constexpr, ADD: tl.constexpr,
             EVEN: tl.constexpr, WIDEN: tl.constexpr):  # fmt: skip
    """A tile of OUT (+)= sum_heads 2^(scale q k - log sum), over H or over the sum of SHARES."""
    program, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    across = tl.cdiv(N, KEYS)
    group = program // (GROUP * across)
    height = min(tl.cdiv(N, ROWS) - group * GROUP, GROUP)
    place = program % (GROUP * across)
    rows = (group * GROUP + place % height) * ROWS + tl.arange(0, ROWS)
    keys = place // height * KEYS + tl.arange(0, KEYS)
    total = tl.zeros((ROWS, KEYS), tl.float32)
    divisor = tl.zeros((ROWS,), tl.float32)
    q_at, k_at, sums_at = Q + b * (q_batch * UNIT), K + b * (k_batch * UNIT), b * H * N + rows
    for _ in range(0, H):
        q = _load(q_at, rows, q_token, q_feature, N, UNIT, D, DP, EVEN, WIDEN)
        k = _load(k_at, keys, k_token, k_feature, N, UNIT, D, DP, EVEN, WIDEN)
        log_sums = tl.load(LOG_SUMS + sums_at, mask=rows < N, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        total += tl.exp2(scores * scale - log_sums[:, None])
        if WEIGHTED:
            divisor += tl.load(SHARES + sums_at, mask=rows < N, other=1.0)
        q_at += q_head * UNIT
        k_at += k_head * UNIT
        sums_at += N
    mean = total / divisor[:, None] if WEIGHTED else total / H
    at = OUT + b * N * N + rows.to(tl.int64)[:, None] * N + keys[None, :]
    if EVEN:
        tl.store(at, tl.load(at) + mean if ADD else mean)
    else:
        inside = (rows[:, None] < N) & (keys[None, :] < N)
        tl.store(at, tl.load(at, mask=inside) + mean if ADD else mean, mask=inside)


@triton.jit
def query_gradient(Q, K, LOG_SUMS, GRAD, INNER, OUT,
                   q_batch, q_head, q_token, q_feature, k_batch, k_head, k_token, k_feature,
                   N, H, scale, out_scale,
                   UNIT: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
                   ROWS: tl.constexpr, KEYS: tl.constexpr,
                   EVEN: tl.constexpr, WIDEN: tl.constexpr):  # fmt: skip
    """OUT = dS K with dS = P (GRAD - INNER), INNER = sum_keys P GRAD, which is stored as well.

    Two sweeps over the keys. One that took (P GRAD) K - INNER (P K) would lose a digit, since it
    subtracts after rounding to bfloat16.
    """
    # Heads run fastest: all of them read a tile of GRAD from the L2 cache.
    h, b = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    q_at = Q + b * (q_batch * UNIT) + h * (q_head * UNIT)
    q = _load(q_at, rows, q_token, q_feature, N, UNIT, D, DP, EVEN, WIDEN)
    at = (b * H + h) * N + rows
    log_sums = tl.load(LOG_SUMS + at, mask=rows < N, other=0.0)
    grad_at = GRAD + b * N * N + rows.to(tl.int64)[:, None] * N
    keys_at = K + b * (k_batch * UNIT) + h * (k_head * UNIT)
    inner = tl.zeros((ROWS,), tl.float32)
    for first in range(0, N, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = _load(keys_at, keys, k_token, k_feature, N, UNIT, D, DP, EVEN, WIDEN)
        grad = tl.load(
            grad_at + keys[None, :], mask=(rows[:, None] < N) & (keys[None, :] < N), other=0.0
        )
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if not EVEN:  # else exponentials overflow beyond the last key
            scores = tl.where(keys[None, :] < N, scores, float("-inf"))
        inner += tl.sum(tl.exp2(scores * scale - log_sums[:, None]) * grad, 1)
    result = tl.zeros((ROWS, DP), tl.float32)
    for first in range(0, N, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = _load(keys_at, keys, k_token, k_feature, N, UNIT, D, DP, EVEN, WIDEN)
        grad = tl.load(
            grad_at + keys[None, :], mask=(rows[:, None] < N) & (keys[None, :] < N), other=0.0
        )
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if not EVEN:
            scores = tl.where(keys[None, :] < N, scores, float("-inf"))
        ds = tl.exp2(scores * scale - log_sums[:, None]) * (grad - inner[:, None])
        result += _product(ds, k)
    tl.store(INNER + at, inner, mask=rows < N)
    features = tl.arange(0, DP)
    tl.store(
        OUT + at[:, None] * D + features[None, :],
        result * out_scale,
        mask=(rows[:, None] < N) & (features[None, :] < D),
    )


@triton.jit
def key_gradient(Q, K, LOG_SUMS, GRAD, INNER, OUT,
                 q_batch, q_head, q_token, q_feature, k_batch, k_head, k_token, k_feature,
                 N, H, scale, out_scale,
                 UNIT: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
                 ROWS: tl.constexpr, KEYS: tl.constexpr,
                 EVEN: tl.constexpr, WIDEN: tl.constexpr):  # fmt: skip
    """OUT = dS^T Q, with dS and INNER of ``query_gradient``."""
    h, b = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    keys = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    k_at = K + b * (k_batch * UNIT) + h * (k_head * UNIT)
    k = _load(k_at, keys, k_token, k_feature, N, UNIT, D, DP, EVEN, WIDEN)
    queries_at, head = Q + b * (q_batch * UNIT) + h * (q_head * UNIT), (b * H + h) * N
    grad_at = GRAD + b * N * N + keys[None, :]
    result = tl.zeros((KEYS, DP), tl.float32)
    for first in range(0, N, ROWS):
        rows = first + tl.arange(0, ROWS)
        q = _load(queries_at, rows, q_token, q_feature, N, UNIT, D, DP, EVEN, WIDEN)
        log_sums = tl.load(LOG_SUMS + head + rows, mask=rows < N, other=0.0)
        inner = tl.load(INNER + head + rows, mask=rows < N, other=0.0)
        grad = tl.load(
            grad_at + rows.to(tl.int64)[:, None] * N,
            mask=(rows[:, None] < N) & (keys[None, :] < N),
            other=0.0,
        )
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if not EVEN:
            scores = tl.where(keys[None, :] < N, scores, float("-inf"))
        ds = tl.exp2(scores * scale - log_sums[:, None]) * (grad - inner[:, None])
        result += _product(tl.trans(ds), q)
    features = tl.arange(0, DP)
    tl.store(
        OUT + (head + keys)[:, None] * D + features[None, :],
        result * out_scale,
        mask=(keys[:, None] < N) & (features[None, :] < D),
    )


@triton.jit
def _product(ds, tokens):
    """ds times queries or keys. Tensor cores take bfloat16: ds would underflow in float16."""
    if tokens.dtype != tl.float32:
        ds = ds.to(tl.bfloat16)
        tokens = tokens.to(tl.bfloat16)
    return tl.dot(ds, tokens, input_precision="ieee")


def map_launches(
    query: Tensor,
    key: Tensor,
    out: Tensor,
    scale: float,
    log_sums: Tensor,
    *,
    column_weights: Tensor | None = None,
    add: bool = True,
) -> list[Launch]:
    """The two launches that add a map to ``out`` or write it there.

    Args:
        query, key: (B, H, N, d), any strides.
        out: (B, N, N) float32, contiguous.
        log_sums: (B, H, N) float32, contiguous: receives log2 of the rows' sums.
        column_weights: (N,) float32; the rows of the mean are divided by their sums weighted so.
    """
    weighted = column_weights is not None
    shares = torch.empty_like(log_sums) if weighted else None
    tiles = map_tiles(query.dtype, _width(query))
    common = _common(query, key, tiles, scale) | {"LOG_SUMS": log_sums, "SHARES": shares}
    batch, heads, tokens, _ = query.shape
    down, across = triton.cdiv(tokens, tiles.rows), triton.cdiv(tokens, tiles.keys)
    sums = {**common, "WEIGHTS": column_weights, "WEIGHTED": weighted}
    means = {**common, "OUT": out, "GROUP": _GROUP, "WEIGHTED": weighted, "ADD": add}
    return [
        Launch(row_sums, (down, batch * heads), sums, tiles.warps, tiles.stages),
        Launch(mean_map, (down * across, batch), means, tiles.warps, tiles.stages),
    ]


def gradient_launches(
    query: Tensor,
    key: Tensor,
    grad: Tensor,
    scale: float,
    log_sums: Tensor,
    grad_query: Tensor,
    grad_key: Tensor,
) -> list[Launch]:
    """The two launches that write what ``grad`` is by query and by key.

    Args:
        query, key, log_sums: of ``map_launches``.
        grad: (B, N, N) float32, contiguous.
        grad_query, grad_key: (B, H, N, d) of the types of query and key, contiguous.
    """
    tiles = gradient_tiles(query.dtype, _width(query))
    batch, heads, tokens, _ = query.shape
    common = _common(query, key, tiles, scale) | {
        "LOG_SUMS": log_sums,
        "GRAD": grad,
        "INNER": torch.empty_like(log_sums),
        "out_scale": scale / heads,
    }
    down, across = triton.cdiv(tokens, tiles.rows), triton.cdiv(tokens, tiles.keys)
    return [
        Launch(kernel, (heads, count, batch), common | {"OUT": out}, tiles.warps, tiles.stages)
        for kernel, count, out in (
            (query_gradient, down, grad_query),
            (key_gradient, across, grad_key),
        )
    ]


def _width(query: Tensor) -> int:
    """Features of a tile: tensor cores take powers of 2 from 16."""
    return max(16, int(triton.next_power_of_2(query.shape[-1])))


def _common(query: Tensor, key: Tensor, tiles: Tiles, scale: float) -> dict[str, Any]:
    """Arguments that all kernels have."""
    tokens = query.shape[2]
    strides = {
        f"{name}_{axis}": stride
        for name, tensor in (("q", query), ("k", key))
        for axis, stride in zip(("batch", "head", "token"), tensor.stride(), strict=False)
    }
    # Loads of 16 bytes need strides that are seen to be whole multiples of 8; Triton sees 16 alone.
    unit = math.gcd(16, *strides.values())
    return {
        "Q": query,
        "K": key,
        **{name: stride // unit for name, stride in strides.items()},
        "q_feature": query.stride(3),
        "k_feature": key.stride(3),
        "UNIT": unit,
        "N": tokens,
        "H": query.shape[1],
        "scale": scale * _LOG2_E,
        "D": query.shape[3],
        "DP": _width(query),
        "ROWS": tiles.rows,
        "KEYS": tiles.keys,
        "EVEN": tokens % tiles.rows == 0 and tokens % tiles.keys == 0,
        "WIDEN": WIDEN,
    }
