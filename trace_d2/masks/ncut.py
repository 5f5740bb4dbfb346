"""Masks of all sizes by recursive normalised cuts (Shi and Malik, 2000) that keep every node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .eigen import Graph, second_eigenvectors
from .features import TokenFeatures
from .methods import Scored
from .settings import NcutSettings

# The best normalised cut of a graph whose tokens are all alike, and what one counts as that is too
# small to be cut.
_ALIKE = 1.0


class Node(NamedTuple):
    """Tokens that a cut made.

    Attributes:
        tokens: (n,) int64, row-major, on the device of the features.
        made: normalised cut (0..2) between it and its sibling, within their parent.
        left: the best normalised cut within it; 1 where it is too small, or all tokens are alike.
    """

    tokens: Tensor
    made: float
    left: float

    @property
    def score(self) -> float:
        """1 - made / left, at least 0: how much harder it is to cut than it was to cut out."""
        return max(0.0, 1 - self.made / self.left) if self.left > 0 else 0.0


def recursive_cuts(
    features: TokenFeatures, settings: NcutSettings = NcutSettings()
) -> Iterator[Scored]:
    """The masks of one image, nested, from the highest score to the lowest.

    Tokens are tied by what their cosine has above ``tau``. The image is cut in two where the
    normalised cut is best along the second eigenvector, then each part, down to ``min_tokens``.
    Every part is kept, whatever is cut of it later, as the masks of its 4-connected parts: each has
    the score of the part (see ``Node``) times its share of the tokens.

    Yields:
        bool (h, w), no two alike, and the score in 0..1. Nothing where all tokens are alike.
    """
    best: dict[bytes, Scored] = {}
    for node in cut_nodes(features.features, settings):
        whole = np.zeros(features.grid, bool)
        whole.reshape(-1)[node.tokens.cpu().numpy()] = True
        labels, _ = ndimage.label(whole)
        sizes = np.bincount(labels.ravel())
        for number in range(1, len(sizes)):
            if sizes[number] < settings.min_tokens:
                continue
            mask, score = labels == number, node.score * float(sizes[number] / len(node.tokens))
            key = mask.tobytes()
            if key not in best or best[key][1] < score:
                best[key] = mask, score
    yield from sorted(best.values(), key=lambda one: -one[1])


def cut_nodes(features: Tensor, settings: NcutSettings = NcutSettings()) -> Iterator[Node]:
    """All parts of (N, D) features but the whole, each as soon as it is known how it can be cut."""
    weights = (features @ features.T).double().sub_(settings.tau).clamp_(min=0)
    every = torch.arange(len(features), device=features.device)
    left: list[tuple[Tensor, Tensor, float | None]] = [(weights, every, None)]
    while left:
        own, tokens, made = left.pop()
        cut = best_cut(own, settings.epsilon) if len(tokens) >= 2 * settings.min_tokens else None
        if made is not None:
            yield Node(tokens, made, _ALIKE if cut is None else cut[2])
        if cut is None or cut[2] > settings.max_cut:
            continue
        for part in cut[:2]:
            if len(part) >= settings.min_tokens:
                left.append((own[part][:, part], tokens[part], cut[2]))


def best_cut(weights: Tensor, floor: float) -> tuple[Tensor, Tensor, float] | None:
    """Where to cut a graph in two: of all cuts along the second eigenvector the best one.

    Args:
        weights: (n, n) float64, symmetric, not negative.
        floor: weight of every pair on top.

    Returns:
        ranks (int64) on one side, on the other, and the normalised cut; None where no cut is
        better than another.
    """
    found = second_eigenvectors(Graph(weights[None], floor))[0]
    if found is None:
        return None
    order = found.vector.to(weights.device).argsort(stable=True)
    ordered = weights[order][:, order] + floor
    volume = ordered.sum(1).cumsum(0)
    inside = (2 * ordered.tril(-1).sum(1) + ordered.diagonal()).cumsum(0)
    total, volume = volume[-1], volume[:-1]
    cuts = (volume - inside[:-1]).clamp_(min=0)
    cuts = cuts / volume + cuts / (total - volume)
    size = int(cuts.argmin()) + 1
    return order[:size], order[size:], float(cuts[size - 1])
