"""Attention Boundary Divergence (Algorithm 2), and pseudo edges made of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trace_d2.attention.divergences import EPSILON, divergence
from trace_d2.attention.kernels.choice import takes_triton
from trace_d2.attention.native import full_precision
from trace_d2.attention.registration import operator

from .settings import THRESHOLDS

# Steps (down, right) from the centre to one neighbour; the other lies opposite.
_DIRECTIONS = {
    4: ((1, 0), (0, 1)),
    8: ((1, 0), (0, 1), (1, 1), (1, -1)),
}
# A spread below this share of the mean is rounding: such a map holds no edge.
_CONSTANT = 1e-5


@torch.no_grad()
def attention_boundary_divergence(
    attention: Tensor,
    grid: tuple[int, int],
    neighbourhood: int = 4,
    metric: str = "kl",
    *,
    kernels: str = "auto",
) -> Tensor:
    """How much the attention rows of opposite neighbours differ around each token.

    ABDiv(i, j) = KL(SA[i+1, j] | SA[i-1, j]) + KL(SA[i, j+1] | SA[i, j-1]); a neighbourhood of 8
    adds the diagonals KL(SA[i+1, j+1] | SA[i-1, j-1]) + KL(SA[i+1, j-1] | SA[i-1, j+1]). At the
    border of the grid a neighbour outside it is the nearest token inside: the difference is
    one-sided there, and 0 along an axis of one token. Zeros: as in ``attention.divergences``.

    Logarithms are taken once a token and three grid rows are held at a time, so that nothing of
    the map's own size is made.

    Args:
        attention: (N, N) or (B, N, N), float32 or float64, rows sum to 1, N = h w in row-major
            order.
        grid: (h, w).
        neighbourhood: 4 or 8.
        metric: the divergence in the place of KL, a name in ``attention.divergences``.
        kernels: see ``attention.operators.KERNELS``; there is one for "kl".

    Returns:
        (h, w) or (B, h, w) of the type of ``attention``, for "kl" in nats.

    Raises:
        ValueError: the map does not fit the grid, or the neighbourhood is neither 4 nor 8.
    """
    height, width = grid
    if attention.shape[-2:] != (height * width, height * width):
        raise ValueError(f"a map of shape {tuple(attention.shape)} is none of a grid {grid}")
    if neighbourhood not in _DIRECTIONS:
        raise ValueError(f"a neighbourhood is 4 or 8, not {neighbourhood}")
    maps = attention if attention.ndim == 3 else attention.unsqueeze(0)
    result: Tensor
    if metric == "kl":
        result = _boundary_divergence(maps, height, width, neighbourhood, kernels)
    else:
        rows = maps.unflatten(1, grid)
        result = torch.stack([_other_divergence(one, neighbourhood, metric) for one in rows])
    return result if attention.ndim == 3 else result.squeeze(0)


def _other_divergence(rows: Tensor, neighbourhood: int, metric: str) -> Tensor:
    """Boundary divergence (h, w) of the rows (h, w, N) of a map."""
    height, width = rows.shape[:2]
    columns = torch.arange(width, device=rows.device)
    result = rows.new_zeros(height, width)
    for i in range(height):  # a grid row at a time stays in the cache
        for down, right in _DIRECTIONS[neighbourhood]:
            p, q = (
                rows[min(max(i + y, 0), height - 1), (columns + x).clamp(0, width - 1)]
                for y, x in ((down, right), (-down, -right))
            )
            result[i] += divergence(p, q, metric)
    return result


@operator(
    "boundary_divergence(Tensor attention, int height, int width, int neighbourhood, str kernels) "
    "-> Tensor",
    fake=lambda attention, height, width, *others: attention.new_empty(
        len(attention), height, width
    ),
)
def _boundary_divergence(
    attention: Tensor, height: int, width: int, neighbourhood: int, kernels: str
) -> Tensor:
    result = attention.new_zeros(len(attention), height, width)
    if takes_triton(kernels, attention):
        from trace_d2.attention.kernels.maps import divergence_launch

        grid, maps = (height, width), attention.contiguous()
        divergence_launch(maps, grid, neighbourhood, result, EPSILON).run()
    else:
        for one, out in zip(attention, result, strict=True):
            _write_divergence(one, neighbourhood, out)
    return result


def _write_divergence(attention: Tensor, neighbourhood: int, result: Tensor) -> None:
    """Add the boundary divergence of a map (N, N) to ``result`` (h, w)."""
    height, width = result.shape
    rows = attention.reshape(height, width, height * width)
    logs = torch.empty_like(rows[:1].expand(3, -1, -1), memory_format=torch.contiguous_format)
    scratch = torch.empty_like(rows[0])
    _write_log(rows[0], logs[0])
    for i in range(height):
        above, below = max(i - 1, 0), min(i + 1, height - 1)
        if below > i:
            _write_log(rows[below], logs[below % 3])
        for down, right in _DIRECTIONS[neighbourhood]:
            p, q = (below, above) if down else (i, i)
            _add_row(result[i], rows[p], logs[p % 3], logs[q % 3], right, scratch)


def _write_log(row: Tensor, out: Tensor) -> None:
    torch.clamp_min(row, EPSILON, out=out).log_()


def _add_row(
    result: Tensor, p: Tensor, log_p: Tensor, log_q: Tensor, right: int, scratch: Tensor
) -> None:
    """Add KL(p[j + right] | q[j - right]) for every column j, columns clamped to the grid."""
    width = p.shape[0]
    if right == 0 or width == 1:
        spans = [(0, width, 0, 0)]
    else:
        first, last = (1, 0) if right > 0 else (0, 1)
        spans = [(0, 1, first, last), (width - 1, width, width - 2 + first, width - 2 + last)]
        if width > 2:
            spans.append((1, width - 1, 1 + right, 1 - right))
    for start, stop, p_start, q_start in spans:
        count = stop - start
        difference = scratch[:count]
        torch.sub(
            log_p[p_start : p_start + count], log_q[q_start : q_start + count], out=difference
        )
        p_part = p[p_start : p_start + count]
        result[start:stop] += torch.bmm(p_part.unsqueeze(1), difference.unsqueeze(2)).flatten()


def batched_boundary_divergence(
    attention: Tensor, grid: tuple[int, int], *, kernels: str = "auto"
) -> Tensor:
    """``attention_boundary_divergence`` of several maps, 4-neighbourhood, with gradient.

    From (B, N, N) to (B, h, w), at least 0. KL(p | q) = sum p log p - sum p log q: the graph holds
    the maps and their logarithms (with ``kernels`` the maps alone), and nothing else of their size.
    """
    if takes_triton(kernels, attention):
        divergence: Tensor = _boundary_divergence(attention, *grid, 4, "triton")
        return divergence.clamp_min(0)
    total = attention.new_zeros(len(attention), *grid)
    # Mixed precision would round what the difference of two large sums is made of.
    with full_precision(attention.device):
        rows = attention.unflatten(1, grid)
        logs = rows.clamp_min(EPSILON).log()
        negentropy = torch.einsum("bhwn,bhwn->bhw", rows, logs)
        for axis in (1, 2):
            last = grid[axis - 1] - 1
            if last == 0:
                continue
            # (first token of p, of q, how many): one-sided at the two ends.
            spans = ((1, 0, 1), (2, 0, last - 1), (last, last - 1, 1))
            parts = [
                negentropy.narrow(axis, p, count)
                - torch.einsum(
                    "bhwn,bhwn->bhw", rows.narrow(axis, p, count), logs.narrow(axis, q, count)
                )
                for p, q, count in spans
            ]
            total = total + torch.cat(parts, dim=axis)
    return total.clamp_min(0)


@operator(
    "boundary_divergence_gradient(Tensor attention, Tensor grad) -> Tensor",
    fake=lambda attention, grad: attention.new_empty(attention.shape),
)
def _boundary_gradient(attention: Tensor, grad: Tensor) -> Tensor:
    """By Triton alone: the plain way's graph is PyTorch's own."""
    from trace_d2.attention.kernels.maps import divergence_gradient_launch

    result = attention.new_empty(attention.shape)
    maps = attention.contiguous()
    divergence_gradient_launch(maps, grad.contiguous(), result, EPSILON).run()
    return result


@torch.autograd.function.once_differentiable
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _boundary_gradient(*ctx.saved_tensors, grad), None, None, None, None


torch.library.register_autograd(
    "trace_d2::boundary_divergence",
    _backward,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


def pseudo_edges(
    abdiv: Tensor, mode: str = "mean_std", size: tuple[int, int] | None = None
) -> Tensor:
    """Ternary pseudo edges: 1 edge, 0 none, -1 ignored.

    mu and sigma are the mean and the (population) standard deviation over the map:

    - "mean_std", the paper's: edge above mu + sigma, none below mu - sigma, ignored between.
    - "upper_band": edge above mu + sigma, none below mu, ignored between. For a heavy-tailed ABDiv,
      of which next to nothing lies below mu - sigma: a student without negatives answers "edge"
      everywhere.
    - "mean": edge above mu, else none.

    Args:
        abdiv: (h, w) float.
        mode: one of ``THRESHOLDS``.
        size: (H, W) to which the map is upsampled before the thresholds of the map as it was are
            applied; None keeps (h, w).

    Returns:
        (H, W) int8. A constant map has no edge: all none ("mean") or ignored.

    Raises:
        ValueError: the mode is unknown.
    """
    mean, deviation, threshold = _statistics(abdiv, mode)
    fine = abdiv if size is None else upsample_edges(abdiv, size)
    if deviation == 0:
        return torch.full_like(fine, 0 if mode == "mean" else -1, dtype=torch.int8)
    low = mean - deviation if mode == "mean_std" else mean
    labels = torch.full_like(fine, -1, dtype=torch.int8)
    labels[fine <= low if mode == "mean" else fine < low] = 0
    labels[fine > threshold] = 1
    return labels


def ternary_edges(abdiv: np.ndarray, size: tuple[int, int], mode: str = "mean_std") -> np.ndarray:
    """``pseudo_edges`` from an array (h, w) float to one (H, W) int8."""
    if abdiv.ndim != 2 or abdiv.size == 0:
        raise ValueError(f"ABDiv is a map (h, w), not of shape {abdiv.shape}")
    return pseudo_edges(torch.from_numpy(np.ascontiguousarray(abdiv)), mode, size).numpy()


def normalise_edges(abdiv: Tensor, mode: str = "mean_std") -> Tensor:
    """Edge strength in 0..1 on which the edge threshold of ``pseudo_edges`` falls on 0.5.

    clip(ABDiv / (2 threshold), 0, 1), over the last two axes of (h, w); float32. A map that is
    constant (up to rounding), of one token say, holds no edge and gives zeros.
    """
    _, deviation, threshold = _statistics(abdiv, mode)
    edges = (abdiv / (2 * threshold)).clamp(0, 1).float()
    return torch.where(deviation == 0, 0, edges)


def upsample_edges(edges: Tensor, size: tuple[int, int]) -> Tensor:
    """Edges (h, w) at ``size`` (H, W), bilinear between cell centres; averaged where H < h."""
    shrinks = size[0] < edges.shape[0] or size[1] < edges.shape[1]
    return functional.interpolate(
        edges[None, None], size=size, mode="bilinear", align_corners=False, antialias=shrinks
    )[0, 0]


def _statistics(abdiv: Tensor, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, population standard deviation (0 where it is rounding alone), threshold of an edge.

    Float64 scalars where ``abdiv`` is, which nothing waits for.
    """
    if mode not in THRESHOLDS:
        raise ValueError(f"the threshold is one of {', '.join(THRESHOLDS)}, not {mode!r}")
    values = abdiv.double()
    mean, spread = values.mean(), values.std(correction=0)
    deviation = torch.where(spread <= _CONSTANT * mean.abs(), 0, spread)
    return mean, deviation, mean if mode == "mean" else mean + deviation
