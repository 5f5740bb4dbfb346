"""MaskCut (Wang et al., CutLER, CVPR 2023): several objects, one cut after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from trace_d2.masks.eigen import Graph, second_eigenvectors
from trace_d2.masks.features import TokenFeatures
from trace_d2.masks.methods import Scored
from trace_d2.masks.settings import MaskCutSettings
from trace_d2.masks.token_cut import (
    binary_graph,
    component,
    oriented,
    scores_of,
    seed_of,
)


def mask_cut(features: TokenFeatures, settings: MaskCutSettings | None = None) -> Iterator[Scored]:
    """The masks of one image; see ``mask_cuts``."""
    yield from mask_cuts([features], settings)[0]


def mask_cuts(
    images: Sequence[TokenFeatures], settings: MaskCutSettings | None = None
) -> list[list[Scored]]:
    """Section 3.2 of the paper, of images of one grid at once.

    A round cuts as TokenCut does. Foreground is the side of the seed, but the other one where
    ``corners`` of the grid's corners lie on the seed's; the seed is then the farthest token of that
    side. Tokens of a round's mask have zero features in later rounds. From the second round on
    there is no mask if its IoU with that of the round before is above ``max_iou``, or if it has no
    more than ``min_area`` of the tokens. What earlier masks have is taken away from it.

    An eigenvector has no sign, but under one of the two the rule of the corners would never do
    anything: its largest entry is taken as positive.

    Returns:
        Masks an image in the order in which they were found, which do not overlap; none where no
        cut is better than another (one colour, one token). The score is 1 - the normalised cut of
        the mask and the rest of the image, at least 0.

    Raises:
        ValueError: as ``token_cuts``.
    """
    settings = settings or MaskCutSettings()
    graph = binary_graph(images, settings.tau, settings.epsilon)
    rounds = [_Rounds(image.grid, settings) for image in images]
    found: list[list[Scored]] = [[] for _ in images]
    for _ in range(settings.masks):
        _look(graph, rounds)
        masks = [own.cut() for own in rounds]
        for own, mask, score in zip(found, masks, scores_of(graph, masks), strict=True):
            if mask.any():
                own.append((mask, score))
    return found


class _Rounds:
    """What the rounds of one image leave to the next.

    Attributes:
        covered: bool (h, w), tokens of the masks so far.
        changed: whether that has grown since ``y`` was found.
        y: (h, w) eigenvector of the tokens that are left; None where there is none.
    """

    def __init__(self, grid: tuple[int, int], settings: MaskCutSettings) -> None:
        self._settings = settings
        self._before: np.ndarray | None = None
        self.covered = np.zeros(grid, bool)
        self.changed = True
        self.y: np.ndarray | None = None

    def cut(self) -> np.ndarray:
        """The mask of one more round without what earlier ones have; empty where there is none."""
        empty = np.zeros_like(self.covered)
        if self.y is None:
            return empty
        mask = foreground(self.y, self._settings.corners)
        if self._before is not None and self._is_left_out(mask, self._before):
            # The next round finds the same and compares it with nothing, as it is defined.
            self._before = empty
            return empty
        new = mask & ~self.covered
        self._before, self.covered, self.changed = mask, self.covered | mask, True
        return new

    def _is_left_out(self, mask: np.ndarray, before: np.ndarray) -> bool:
        iou = (mask & before).sum() / (mask | before).sum()
        share = mask.sum() / mask.size
        return bool(iou > self._settings.max_iou or share <= self._settings.min_area)


def foreground(y: np.ndarray, corners: int) -> np.ndarray:
    """Bool (h, w) foreground of an eigenvector (h, w) whose largest entry is positive."""
    side = y > y.mean()
    if side[[0, 0, -1, -1], [0, -1, 0, -1]].sum() >= corners:
        y, side = -y, ~side
    return component(side, seed_of(y))


def _look(graph: Graph, rounds: Sequence[_Rounds]) -> None:
    """Find the eigenvectors of those images of which more is covered than before."""
    changed = [k for k, own in enumerate(rounds) if own.changed]
    if not changed:
        return
    left = np.stack([~rounds[k].covered.ravel() for k in changed])
    weights = graph.weights if len(changed) == len(rounds) else graph.weights[changed]
    active = torch.from_numpy(left).to(weights.device, torch.float64)
    part = replace(graph, weights=weights, active=active)
    for k, found in zip(changed, second_eigenvectors(part), strict=True):
        own = rounds[k]
        own.y = None if found is None else oriented(found).reshape(own.covered.shape)
        own.changed = False
