"""Divergences between attention maps, a row (a distribution over keys) at a time.

Zeros: a probability of 0 adds nothing to a sum p log(p / q), and inside logarithms values below
``EPSILON`` are taken as ``EPSILON``, so that every divergence is finite. Softmax underflows to 0
in float32 and an average over heads and blocks seldom does, so the value hardly matters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .kernels.choice import takes_triton
from .registration import operator

EPSILON = 1e-12

# Rows of a chunk are chosen so that a chunk of one map takes this many bytes: it stays in cache.
# On a GPU, where launches cost more, 64 times as many.
_CHUNK_BYTES = 2**20


def kullback_leibler(p: Tensor, q: Tensor) -> Tensor:
    """sum p log(p / q) in nats over the last axis; not symmetric."""
    # One logarithm of the ratio: half the work of two, and exact where p and q nearly agree.
    ratio = p.clamp_min(EPSILON).div_(q.clamp_min(EPSILON)).log_()
    return ratio.mul_(p).sum(dim=-1)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """(KL(p | m) + KL(q | m)) / 2 with m = (p + q) / 2, in nats: 0 to log 2."""
    middle = (p + q).mul_(0.5)
    return (kullback_leibler(p, middle) + kullback_leibler(q, middle)).mul_(0.5)


def l1(p: Tensor, q: Tensor) -> Tensor:
    """sum |p - q|: 0 to 2."""
    return (p - q).abs_().sum(dim=-1)


def l2(p: Tensor, q: Tensor) -> Tensor:
    """sqrt(sum (p - q)^2): 0 to sqrt 2."""
    return torch.linalg.vector_norm(p - q, dim=-1)


def entropy_difference(p: Tensor, q: Tensor) -> Tensor:
    """|H(p) - H(q)| in nats."""
    return (_entropy(p) - _entropy(q)).abs_()


def _entropy(p: Tensor) -> Tensor:
    return p.clamp_min(EPSILON).log_().mul_(p).sum(dim=-1).neg_()


def wasserstein(p: Tensor, q: Tensor) -> Tensor:
    """Earth mover's distance with ground distance |i - j| between the flat key indices i and j.

    On a line it is sum |CDF_p - CDF_q|; in tokens, 0 to N - 1. The paper does not state its
    ground distance. This one orders keys in reading order: a step down costs a whole row.
    """
    return (p - q).cumsum_(dim=-1).abs_().sum(dim=-1)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": kullback_leibler,
    "jsd": jensen_shannon,
    "l1": l1,
    "l2": l2,
    "entropy": entropy_difference,
    "wasserstein": wasserstein,
}


@torch.no_grad()
def divergence(p: Tensor, q: Tensor, metric: str = "kl") -> Tensor:
    """Divergence of each row.

    Args:
        p, q: (..., N), non-negative rows that sum to 1, float32 or float64.
        metric: a name in ``DIVERGENCES``.

    Returns:
        (...,) of the type of ``p``, without gradient.
    """
    if metric not in DIVERGENCES:
        raise ValueError(f"unknown divergence {metric!r}; known: {', '.join(DIVERGENCES)}")
    if p.shape != q.shape:
        raise ValueError(f"maps of different shapes: {tuple(p.shape)} and {tuple(q.shape)}")
    return DIVERGENCES[metric](p, q)


def mean_divergence(p: Tensor, q: Tensor, metric: str = "kl") -> float:
    """Mean over the rows of two maps (..., N); chunked, the mean in float64 (Algorithm 1)."""
    return float(mean_divergence_tensor(p, q, metric))


def mean_divergence_tensor(
    p: Tensor, q: Tensor, metric: str = "kl", *, kernels: str = "auto"
) -> Tensor:
    """``mean_divergence`` that stays on the device of the maps: a float64 scalar.

    Args:
        kernels: one of ``operators.KERNELS``; there is one for "kl".
    """
    if metric not in DIVERGENCES:
        raise ValueError(f"unknown divergence {metric!r}; known: {', '.join(DIVERGENCES)}")
    if p.shape != q.shape:
        raise ValueError(f"maps of different shapes: {tuple(p.shape)} and {tuple(q.shape)}")
    if p.numel() == 0:
        raise ValueError(f"no rows to average in maps of shape {tuple(p.shape)}")
    mean: Tensor = _mean_divergence(p.flatten(0, -2), q.flatten(0, -2), metric, kernels)
    return mean


@operator(
    "mean_divergence(Tensor p, Tensor q, str metric, str kernels) -> Tensor",
    fake=lambda p, *others: p.new_empty((), dtype=torch.float64),
)
def _mean_divergence(p: Tensor, q: Tensor, metric: str, kernels: str) -> Tensor:
    """Of two maps (rows, N)."""
    if metric == "kl" and takes_triton(kernels, p):
        from .kernels.maps import kl_launch

        each = p.new_empty(len(p))
        kl_launch(p.contiguous(), q.contiguous(), each, EPSILON).run()
        return each.mean(dtype=torch.float64)
    chunk = _CHUNK_BYTES if p.device.type == "cpu" else 64 * _CHUNK_BYTES
    step = max(1, chunk // (p.shape[-1] * p.element_size()))
    total = torch.zeros((), dtype=torch.float64, device=p.device)
    for rows in range(0, p.shape[0], step):
        part = divergence(p[rows : rows + step], q[rows : rows + step], metric)
        total += part.sum(dtype=torch.float64)
    return total / p.shape[0]
