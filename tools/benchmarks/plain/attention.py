"""Attention accumulation and divergences by the book: everything materialised, in one go."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def mean_softmax_attention(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale * Q K^T) of all heads at once, then their mean.

    Args:
        query, key: (B, H, N, d).
        scale: 1 / sqrt(d) if None.

    Returns:
        (B, N, N) of the type of ``query``.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-1, -2) * scale
    return torch.nn.functional.softmax(scores, dim=-1).mean(dim=1)


def image_attention(query: Tensor, key: Tensor, image: slice, scale: float | None = None) -> Tensor:
    """Softmax over a whole joint sequence, text left out afterwards and rows renormalised.

    Args:
        query, key: (B, H, L, d), text and image tokens.
        image: where the N image tokens are.

    Returns:
        (B, N, N) float64.
    """
    query, key = query.double(), key.double()
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = torch.nn.functional.softmax(query @ key.transpose(-1, -2) * scale, dim=-1)
    weights = weights[..., image, image]
    return (weights / weights.sum(dim=-1, keepdim=True)).mean(dim=1)


def average_over_grids(
    maps: Sequence[Tensor], grids: Sequence[tuple[int, int]], target: tuple[int, int]
) -> Tensor:
    """1/K sum_k SA_k[i / delta_k, j / delta_k], the keys likewise, rows renormalised: loops.

    Args:
        maps: of each block (n, n), n = h w of its grid.
        grids: of each block.
        target: the grid (h, w) of the result.

    Returns:
        (N, N) float64.
    """
    tokens = [(i, j) for i in range(target[0]) for j in range(target[1])]
    total = np.zeros((len(tokens), len(tokens)))
    for attention, (height, width) in zip(maps, grids, strict=True):
        values = attention.double().numpy()
        source = [
            math.floor(i * height / target[0]) * width + math.floor(j * width / target[1])
            for i, j in tokens
        ]
        for row in range(len(tokens)):
            repeated = np.array([values[source[row], column] for column in source])
            total[row] += repeated / repeated.sum()
    return torch.from_numpy(total / len(maps))


def mean_kl_materialised(p: Tensor, q: Tensor, epsilon: float = 1e-12) -> float:
    """Mean over rows of KL(p | q), with the logarithms of both whole maps made first."""
    log_ratio = torch.log(p.clamp_min(epsilon)) - torch.log(q.clamp_min(epsilon))
    return float((p * log_ratio).sum(dim=-1).mean())


def divergence_by_loops(
    p: Sequence[float], q: Sequence[float], metric: str, epsilon: float = 1e-12
) -> float:
    """A divergence of one pair of rows, term by term in float64.

    Raises:
        KeyError: the metric is unknown.
    """
    pairs = [(float(a), float(b)) for a, b in zip(p, q, strict=True)]

    def kl(terms: Sequence[tuple[float, float]]) -> float:
        return math.fsum(a * math.log(max(a, epsilon) / max(b, epsilon)) for a, b in terms)

    def entropy(values: Sequence[float]) -> float:
        return -math.fsum(a * math.log(max(a, epsilon)) for a in values)

    def wasserstein() -> float:
        moved, carried = 0.0, 0.0
        for a, b in pairs:
            carried += a - b
            moved += abs(carried)
        return moved

    middle = [(a + b) / 2 for a, b in pairs]
    ways = {
        "kl": lambda: kl(pairs),
        "jsd": lambda: (
            (
                kl([(a, m) for (a, _), m in zip(pairs, middle, strict=True)])
                + kl([(b, m) for (_, b), m in zip(pairs, middle, strict=True)])
            )
            / 2
        ),
        "l1": lambda: math.fsum(abs(a - b) for a, b in pairs),
        "l2": lambda: math.sqrt(math.fsum((a - b) ** 2 for a, b in pairs)),
        "entropy": lambda: abs(entropy([a for a, _ in pairs]) - entropy([b for _, b in pairs])),
        "wasserstein": wasserstein,
    }
    return ways[metric]()
