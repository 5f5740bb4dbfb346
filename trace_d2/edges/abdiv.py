"""Attention Boundary Divergence (Algorithm 2), and pseudo edges made of it."""

from __future__ import annotations

import torch
from torch import Tensor

from trace_d2.attention.divergences import EPSILON

# Steps (down, right) from the centre to one neighbour; the other lies opposite.
_DIRECTIONS = {
    4: ((1, 0), (0, 1)),
    8: ((1, 0), (0, 1), (1, 1), (1, -1)),
}
# A spread below this share of the mean is rounding: such a map holds no edge.
_CONSTANT = 1e-5


@torch.no_grad()
def attention_boundary_divergence(
    attention: Tensor, grid: tuple[int, int], neighbourhood: int = 4
) -> Tensor:
    """How much the attention rows of opposite neighbours differ around each token.

    ABDiv(i, j) = KL(SA[i+1, j] | SA[i-1, j]) + KL(SA[i, j+1] | SA[i, j-1]); a neighbourhood of 8
    adds the diagonals KL(SA[i+1, j+1] | SA[i-1, j-1]) + KL(SA[i+1, j-1] | SA[i-1, j+1]). At the
    border of the grid a neighbour outside it is the nearest token inside: the difference is
    one-sided there, and 0 along an axis of one token. Zeros: as in ``attention.divergences``.

    Logarithms are taken once a token and three grid rows are held at a time, so that nothing of
    the map's own size is made.

    Args:
        attention: (N, N) float32 or float64, rows sum to 1, N = h w in row-major order.
        grid: (h, w).
        neighbourhood: 4 or 8.

    Returns:
        (h, w) of the type of ``attention``, in nats.

    Raises:
        ValueError: the map does not fit the grid, or the neighbourhood is neither 4 nor 8.
    """
    height, width = grid
    if attention.shape != (height * width, height * width):
        raise ValueError(f"a map of shape {tuple(attention.shape)} is none of a grid {grid}")
    if neighbourhood not in _DIRECTIONS:
        raise ValueError(f"a neighbourhood is 4 or 8, not {neighbourhood}")
    rows = attention.reshape(height, width, height * width)
    logs = torch.empty_like(rows[:1].expand(3, -1, -1), memory_format=torch.contiguous_format)
    scratch = torch.empty_like(rows[0])
    result = attention.new_zeros(height, width)
    _write_log(rows[0], logs[0])
    for i in range(height):
        above, below = max(i - 1, 0), min(i + 1, height - 1)
        if below > i:
            _write_log(rows[below], logs[below % 3])
        for down, right in _DIRECTIONS[neighbourhood]:
            p, q = (below, above) if down else (i, i)
            _add_row(result[i], rows[p], logs[p % 3], logs[q % 3], right, scratch)
    return result


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


def pseudo_edges(abdiv: Tensor, mode: str = "mean_std") -> Tensor:
    """Ternary pseudo edges: 1 edge, 0 none, -1 ignored.

    Args:
        abdiv: (h, w) float.
        mode: "mean_std": edge where ABDiv > mu + sigma, none where ABDiv < mu - sigma, ignored
            between. "mean": edge where ABDiv > mu, else none. mu and sigma are the mean and the
            (population) standard deviation over the image.

    Returns:
        (h, w) int8. A constant map has no edge: all ignored ("mean_std") or none ("mean").

    Raises:
        ValueError: the mode is unknown.
    """
    _check_mode(mode)
    mean, deviation = _mean_and_deviation(abdiv)
    if mode == "mean":
        return ((abdiv > mean) & (deviation > 0)).to(torch.int8)
    labels = torch.full_like(abdiv, -1, dtype=torch.int8)
    if deviation == 0:
        return labels
    labels[abdiv > mean + deviation] = 1
    labels[abdiv < mean - deviation] = 0
    return labels


def normalise_edges(abdiv: Tensor, mode: str = "mean_std") -> Tensor:
    """Edge strength in 0..1 on which the threshold of ``pseudo_edges`` falls on 0.5.

    clip(ABDiv / (2 threshold), 0, 1), over the last two axes of (h, w); float32. The threshold is
    mu + sigma ("mean_std") or mu ("mean"). A map that is constant (up to rounding), of one token
    say, holds no edge and gives zeros.

    Raises:
        ValueError: the mode is unknown.
    """
    _check_mode(mode)
    mean, deviation = _mean_and_deviation(abdiv)
    if deviation == 0:
        return torch.zeros_like(abdiv, dtype=torch.float32)
    threshold = mean + deviation if mode == "mean_std" else mean
    return (abdiv / (2 * threshold)).clamp(0, 1).float()


def _check_mode(mode: str) -> None:
    if mode not in ("mean_std", "mean"):
        raise ValueError(f"the threshold is mean_std or mean, not {mode!r}")


def _mean_and_deviation(abdiv: Tensor) -> tuple[float, float]:
    """Mean and population standard deviation; the latter 0 where it is rounding alone."""
    values = abdiv.double()
    mean = float(values.mean())
    deviation = float(values.std(correction=0))
    return mean, deviation if deviation > _CONSTANT * abs(mean) else 0.0
