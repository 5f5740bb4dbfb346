"""Divergences between rows of maps: boundary divergence with its derivative, and steps' KL.

Zeros as in ``attention.divergences``: inside logarithms, values below EPSILON are EPSILON.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch

_BLOCK = 1024  # columns at a time


@triton.jit
def row_kl(P, Q, OUT, N, EPSILON: tl.constexpr, BLOCK: tl.constexpr):
    """OUT[row] = KL(P[row] | Q[row])."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, N, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        p = tl.load(P + row * N + columns, mask=columns < N, other=0.0)
        q = tl.load(Q + row * N + columns, mask=columns < N, other=0.0)
        # What is no number stays none, so that broken attention is found out.
        other = tl.maximum(q, EPSILON, propagate_nan=tl.PropagateNan.ALL)
        total += p * tl.log(tl.maximum(p, EPSILON) / other)
    tl.store(OUT + row, tl.sum(total, 0))


@triton.jit
def _neighbour(row, column, down, right, height, width):
    """The token a step from (row, column); nearest inside the grid where that is outside."""
    row = tl.minimum(tl.maximum(row + down, 0), height - 1)
    return (row * width + tl.minimum(tl.maximum(column + right, 0), width - 1)).to(tl.int64)


@triton.jit
def boundary_divergence(A, OUT, height, width, AXES: tl.constexpr, EPSILON: tl.constexpr,
                        BLOCK: tl.constexpr):  # fmt: skip
    """OUT[token] = sum_axes KL(A[token + axis] | A[token - axis]), one program a token.

    Axes: down, right, and of four the diagonals down right and down left.
    """
    token, N = tl.program_id(0), height * width
    row, column = token // width, token % width
    A += tl.program_id(1).to(tl.int64) * N * N
    total = tl.zeros((BLOCK,), tl.float32)
    for axis in tl.static_range(AXES):
        down = 0 if axis == 1 else 1
        right = 0 if axis == 0 else (-1 if axis == 3 else 1)
        ahead = A + _neighbour(row, column, down, right, height, width) * N
        behind = A + _neighbour(row, column, -down, -right, height, width) * N
        for first in range(0, N, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            p = tl.load(ahead + columns, mask=columns < N, other=0.0)
            q = tl.load(behind + columns, mask=columns < N, other=0.0)
            # What is no number stays none, so that broken attention is found out.
            other = tl.maximum(q, EPSILON, propagate_nan=tl.PropagateNan.ALL)
            total += p * tl.log(tl.maximum(p, EPSILON) / other)
    tl.store(OUT + tl.program_id(1).to(tl.int64) * N + token, tl.sum(total, 0))


@triton.jit
def boundary_gradient(A, GRAD, OUT, height, width, EPSILON: tl.constexpr,
                      BLOCK: tl.constexpr):  # fmt: skip
    """What GRAD, by the boundary divergence of two axes, is by the row A[token].

    Along an axis the row is p of KL(p | q) for the token before it, and for itself at the end of
    the grid; it is q for the token after it, and for itself at the beginning.
    """
    token, N = tl.program_id(0), height * width
    row, column = token // width, token % width
    map_at = tl.program_id(1).to(tl.int64) * N * N
    GRAD += tl.program_id(1).to(tl.int64) * N
    for first in range(0, N, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        own = tl.load(A + map_at + token.to(tl.int64) * N + columns, mask=columns < N, other=1.0)
        floored = tl.maximum(own, EPSILON)
        total = tl.zeros((BLOCK,), tl.float32)
        for axis in tl.static_range(2):
            down = 1 - axis
            place, last = (row, height - 1) if axis == 0 else (column, width - 1)
            for use in tl.static_range(4):
                # As p of the token before and, at the end, of itself; as q of the token after
                # and, at the beginning, of itself: where that token is, and the row compared with.
                user = -1 if use == 0 else (1 if use == 2 else 0)
                other = -2 if use == 0 else (-1 if use == 1 else (2 if use == 2 else 1))
                taken = (place > 0 if use == 0 else (place == last if use == 1 else (
                    place < last if use == 2 else place == 0))) & (last > 0)  # fmt: skip
                user_at = _neighbour(row, column, user * down, user * axis, height, width)
                other_at = _neighbour(row, column, other * down, other * axis, height, width) * N
                end = tl.where(taken, N, 0)
                grad = tl.load(GRAD + user_at, mask=taken, other=0.0)
                compared = tl.load(A + map_at + other_at + columns, mask=columns < end, other=1.0)
                if use < 2:
                    slope = tl.log(floored / tl.maximum(compared, EPSILON))
                    slope += tl.where(own >= EPSILON, 1.0, 0.0)
                else:
                    slope = tl.where(own >= EPSILON, -compared / floored, 0.0)
                total += grad * slope
        tl.store(OUT + map_at + token.to(tl.int64) * N + columns, total, mask=columns < N)


def kl_launch(p: Tensor, q: Tensor, out: Tensor, epsilon: float) -> Launch:
    """The launch that writes KL(p | q) of each row to ``out``.

    Args:
        p, q: (rows, N) float32, contiguous.
        out: (rows,) float32.
    """
    rows, columns = p.shape
    arguments = {"P": p, "Q": q, "OUT": out, "N": columns, **_constants(columns, epsilon)}
    return Launch(row_kl, (rows,), arguments)


def divergence_launch(
    attention: Tensor, grid: tuple[int, int], neighbourhood: int, out: Tensor, epsilon: float
) -> Launch:
    """The launch that writes the boundary divergence of maps.

    Args:
        attention: (B, N, N) float32, contiguous; N = h w of ``grid``.
        neighbourhood: 4 or 8.
        out: (B, h, w) float32, contiguous.
    """
    arguments = {"A": attention, "OUT": out, "AXES": neighbourhood // 2}
    return _over_tokens(boundary_divergence, attention, grid, arguments, epsilon)


def divergence_gradient_launch(
    attention: Tensor, grad: Tensor, out: Tensor, epsilon: float
) -> Launch:
    """The launch that writes what ``grad`` (B, h, w) is by the maps, 4-neighbourhood.

    Args:
        attention, out: (B, N, N) float32, contiguous.
        grad: float32, contiguous.
    """
    arguments = {"A": attention, "GRAD": grad, "OUT": out}
    height, width = grad.shape[1:]
    return _over_tokens(boundary_gradient, attention, (height, width), arguments, epsilon)


def _over_tokens(
    kernel: Any, attention: Tensor, grid: tuple[int, int], arguments: dict[str, Any], epsilon: float
) -> Launch:
    batch, tokens, _ = attention.shape
    sizes = {"height": grid[0], "width": grid[1]}
    return Launch(kernel, (tokens, batch), arguments | sizes | _constants(tokens, epsilon))


def _constants(columns: int, epsilon: float) -> dict[str, Any]:
    return {"EPSILON": epsilon, "BLOCK": min(_BLOCK, int(triton.next_power_of_2(columns)))}
