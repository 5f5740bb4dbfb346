"""Class maps of open-vocabulary and semantic models, sharpened along edges (table 13 of the paper).

Such models see patches of 14 or 16 pixels, so outlines of their maps are off by up to a patch.
Every class of a map walks over a coarse grid as in BGP, all together, once with the edges and once
as if there were none. What the edges bring to a class, the ratio of the two walks, is evidence
that is added to how sure the map is itself:

    log p(c) + gain * trust * log( walk with edges of c / walk without edges of c )

Where there is no edge both walks are one and nothing moves. Cells on edges are decided last: the
classes around them flood them pixel by pixel, weak edges first, and meet on the crest of the edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from skimage import measure
from skimage.segmentation import watershed

from trace_d2.io.categories import UNKNOWN
from trace_d2.io.edge_maps import check_edges
from trace_d2.io.score_stacks import check_probabilities, check_scores, labels_of_scores
from trace_d2.labels.panoptic import check_semantic, of_one_strength
from trace_d2.propagation.calibration import EdgeCalibration, EdgeEvidence
from trace_d2.propagation.grid import grid_size, pool, pool_labels
from trace_d2.propagation.outlines import OutlineStatistics, at_outlines, grid_stride
from trace_d2.settings import NodeSettings, one_of, within

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from trace_d2.io.categories import Category
    from trace_d2.propagation.walk import RandomWalk

SCORES = ("logits", "probabilities")
"""What stacks of scores hold, ``MODEL.TRACE.SEMANTIC.SCORES``."""

_USELESS = 0.1  # of trust: such edges leave a map as it is
_BARRIER = 0.1  # probability from which a cell is on an edge
_SAID = 0.1  # log-odds from which edges say that a pixel is of another class
_FAINT = 0.02  # share of a class that is as good as none
_SURE = 0.9  # of what a map says is blurred, as outlines may be off
_BLUR = 0.35  # of the reach
_LOOKED_AT = 2000  # cells, for the temperature of logits
_ROWS = 32  # of cells, whose pixels are pooled at once


@dataclass(frozen=True)
class SemanticSettings(NodeSettings, node="MODEL.TRACE.SEMANTIC"):
    """How class maps are refined along edges; ``config`` says what the keys mean."""

    reach: float = within(1e-3, 0.5, default=0.036)
    unknown: str = one_of("keep", "fill", default="keep")
    scores: str = one_of(*SCORES, default="logits")
    confidence: float = within(0.0, 1.0, default=0.6)
    gain: float = within(0.0, default=2.0)
    radius: int = within(2, default=3)
    beta: float = within(1e-6, default=3.0)
    steps: int = within(0, default=16)


class SemanticRefiner:
    """Sharpens class maps along edges.

    A class that a map does not have is never there afterwards; edges of one strength everywhere,
    or of no trust, leave a map as it is, and so does the absence of edges wherever there is none.

    Args:
        categories: of the maps.
        settings: how; None: the defaults.
        calibration: what the strengths of the edges mean, of ``OutlineStatistics`` or, measured
            inside of masks, of ``EdgeStatistics``; None: measured anew on each map, which knows
            less than a data set.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        settings: SemanticSettings | None = None,
        calibration: EdgeCalibration | None = None,
    ) -> None:
        self.ids = tuple(category.id for category in categories)
        self.settings = settings or SemanticSettings()
        self.calibration = calibration

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        categories: Sequence[Category],
        calibration: EdgeCalibration | None = None,
    ) -> SemanticRefiner:
        """A refiner for ``categories`` with the settings of ``cfg.MODEL.TRACE.SEMANTIC``."""
        return cls(categories, SemanticSettings.from_config(cfg), calibration)

    def count(self, statistics: OutlineStatistics, semantic: np.ndarray, edges: np.ndarray) -> None:
        """Count a map and its edges for the calibration."""
        statistics.add(semantic, edges, self._reach(edges.shape))

    def __call__(
        self,
        semantic: np.ndarray,
        edges: np.ndarray | None,
        scores: np.ndarray | None = None,
    ) -> np.ndarray:
        """Refine the map of one image.

        Args:
            semantic: uint8 (H, W) category ids, 255 = unknown; or floating (C, H', W'), scores
                alone, whose greatest are the map.
            edges: float (H, W) edge strength in 0..1; None: nothing moves.
            scores: floating (C, H', W'), of any resolution and in the order of the categories: how
                sure the map is of its classes. None: its outlines may be off, all else is sure.

        Returns:
            uint8 (H, W); 255 where the map is unknown, unless unknown pixels are to be filled.

        Raises:
            ValueError: wrong dtype or shape, an id that the categories lack, edges or scores that
                are not finite, edges not in 0..1; scores alone without edges, which tell the size.
        """
        if semantic.ndim == 3:
            if edges is None:
                raise ValueError("scores alone have no size of an image: give edges, or a map")
            scores = check_scores(semantic, len(self.ids), "the stack of scores")
            semantic = labels_of_scores(scores, self.ids, edges.shape)
        check_semantic(semantic, self.ids)
        known = semantic != UNKNOWN
        if not known.any():
            return semantic.copy()
        refined = _filled(semantic, known)
        if edges is not None:
            edges = self._checked(edges, semantic.shape)
            calibration = self._calibration(semantic, edges)
            if calibration.trust >= _USELESS and not of_one_strength(edges):
                refined = self._refined(refined, known, calibration(edges), scores)
        if self.settings.unknown == "keep":
            refined[~known] = UNKNOWN
        return refined

    def _checked(self, edges: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        edges = check_edges(edges, "the edge map")
        if edges.shape != shape:
            raise ValueError(
                f"edges of shape {edges.shape} do not fit a semantic mask of {shape}: resize them "
                "to the image"
            )
        return edges

    def _reach(self, shape: tuple[int, ...]) -> float:
        return self.settings.reach * min(shape)

    def _calibration(self, semantic: np.ndarray, edges: np.ndarray) -> EdgeCalibration:
        calibration = self.calibration
        if calibration is None:
            statistics = OutlineStatistics()
            self.count(statistics, semantic, edges)
            calibration = statistics.calibrate()
        return at_outlines(calibration)

    def _refined(
        self,
        semantic: np.ndarray,
        known: np.ndarray,
        evidence: EdgeEvidence,
        scores: np.ndarray | None,
    ) -> np.ndarray:
        """The map uint8 (H, W), all of which has a class by now, along edges."""
        likely, stride = evidence.probability, grid_stride(semantic.shape)
        borders = pool(likely, stride)
        classes, ranks = _ranks(semantic)
        if scores is None:
            own = _shares(ranks, len(classes), stride)
            seen = own if known.all() else _shares(ranks, len(classes), stride, known)
            prior = _blurred(own, _BLUR * self._reach(semantic.shape) / stride)
        else:
            if self.settings.scores == "probabilities":
                check_probabilities(scores, "the stack of scores")
            present = [self.ids.index(identity) for identity in classes.tolist()]
            seen = prior = self._probabilities(scores[present], semantic.shape, stride)
        gain = np.float32(self.settings.gain * evidence.trust)
        brought = gain * self._brought(seen, borders)
        score = np.log(prior + np.float32(1e-6)) + brought
        before, after = (values.argmax(0).astype(np.uint8) for values in (prior, score))
        on_edge = borders > _BARRIER
        moved = np.where((before != after) & ~on_edge, after, np.uint8(UNKNOWN))
        moved = _pixels(moved, semantic.shape, stride)
        ranks = np.where(moved == UNKNOWN, ranks, moved)
        _join(ranks, after, brought, ~on_edge, stride)
        return classes[_flood(ranks, _pixels(on_edge, semantic.shape, stride), likely)]

    def _probabilities(self, scores: np.ndarray, shape: tuple[int, ...], stride: int) -> np.ndarray:
        """float32 (K, h, w): of the classes of ``scores`` (K, H', W') in each cell."""
        cells = _at_cells(scores, shape, stride)
        if self.settings.scores == "probabilities":
            return _normalised(np.maximum(cells, np.float32(1e-6)))
        return _softmax(cells, self.settings.confidence)

    def _brought(self, shares: np.ndarray, borders: np.ndarray) -> np.ndarray:
        """float32 (K, h, w): log-ratio of what classes have with the edges and without them."""
        own = self.settings
        # Numba is imported once a map is refined.
        from trace_d2.propagation.walk import RandomWalk

        walk = RandomWalk(borders, radius=own.radius, beta=own.beta, steps=own.steps)
        bare = _open_walk((borders.shape[0], borders.shape[1]), own.radius, own.steps)
        edged, free = (np.log(_normalised(one(shares)) + _FAINT) for one in (walk, bare))
        return edged - free


@lru_cache(maxsize=4)
def _open_walk(shape: tuple[int, int], radius: int, steps: int) -> RandomWalk:
    """The walk over a grid without edges."""
    from trace_d2.propagation.walk import RandomWalk

    return RandomWalk(np.zeros(shape, np.float32), radius=radius, steps=steps)


def _at_cells(scores: np.ndarray, shape: tuple[int, ...], stride: int) -> np.ndarray:
    """float32 (K, h, w): ``scores`` (K, H', W') at the centres of the cells of ``shape``."""
    size = grid_size((shape[0], shape[1]), stride)
    y, x = (
        ((np.arange(cells, dtype=np.float32) + 0.5) * stride * (given / whole) - 0.5).clip(0)
        for cells, given, whole in zip(size, scores.shape[1:], shape, strict=True)
    )
    across, down = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    cells = [
        cv2.remap(
            score.astype(np.float32), across, down, cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for score in scores
    ]  # fmt: skip
    return np.stack(cells)


def _softmax(logits: np.ndarray, confidence: float) -> np.ndarray:
    """float32 (K, h, w) at the temperature at which the greatest is ``confidence`` in the mean.

    Cosines lie within tenths, logits of a trained head within tens: this needs no scale.
    """
    below = logits - logits.max(0)
    some = below.reshape(len(below), -1)[:, :: max(1, below[0].size // _LOOKED_AT)]
    spread = float(-some.mean())
    if spread <= 0:  # one class, or none is more likely than another
        return np.full_like(below, 1 / len(below))
    low, high = math.log(1e-3), math.log(1e3)
    for _ in range(20):
        middle = (low + high) / 2
        odds = np.exp(some / np.float32(spread * math.exp(middle)))
        low, high = (low, middle) if (1 / odds.sum(0)).mean() < confidence else (middle, high)
    odds = np.exp(below / np.float32(spread * math.exp(low)))
    return _normalised(odds)


def _blurred(shares: np.ndarray, sigma: float) -> np.ndarray:
    """float32 (K, h, w): how sure a map is of its labels, whose outlines may be off."""
    prior = np.empty_like(shares)
    for own, share in zip(prior, shares, strict=True):
        blurred = cv2.GaussianBlur(share, (0, 0), max(sigma, 1e-3), borderType=cv2.BORDER_REPLICATE)
        own[:] = _SURE * blurred + (1 - _SURE) * share
    return prior


def _filled(semantic: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A copy in which unknown pixels have the class of the nearest known one."""
    if known.all():
        return semantic.copy()
    _, source = cv2.distanceTransformWithLabels(
        (~known).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(source.max()) + 1, np.uint8)
    table[source[known]] = semantic[known]
    return table[source]


def _ranks(semantic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes uint8 (K,) of a map, and the rank of each pixel's, uint8 (H, W)."""
    counts = cv2.calcHist([semantic], [0], None, [256], [0, 256]).ravel()
    classes = np.flatnonzero(counts).astype(np.uint8)
    table = np.zeros(256, np.uint8)
    table[classes] = np.arange(len(classes))
    return classes, table[semantic]


def _shares(
    ranks: np.ndarray, count: int, stride: int, known: np.ndarray | None = None
) -> np.ndarray:
    """float32 (K, h, w): share of each cell that has each class; a few rows of cells at once."""
    parts = []
    for start in range(0, len(ranks), _ROWS * stride):
        rows = slice(start, start + _ROWS * stride)
        labels = ranks[rows].astype(np.int32) + 1
        if known is not None:
            labels[~known[rows]] = 0
        parts.append(pool_labels(labels, count, stride))
    return np.concatenate(parts, axis=1)


def _normalised(walked: np.ndarray) -> np.ndarray:
    return walked / np.maximum(walked.sum(0), np.float32(1e-4))


def _pixels(cells: np.ndarray, shape: tuple[int, ...], stride: int) -> np.ndarray:
    """(h, w) cells as the (H, W) pixels that they cover."""
    return cells.repeat(stride, 0)[: shape[0]].repeat(stride, 1)[:, : shape[1]]


def _join(
    ranks: np.ndarray, after: np.ndarray, brought: np.ndarray, inside: np.ndarray, stride: int
) -> None:
    """Pixels of mixed cells join the class of the cell, where edges speak for it and not for them.

    An outline that is not on the grid cuts cells, whose majority is often right before anything
    moves. Their other pixels would be left as specks and spurs along the new outline.

    Args:
        ranks: uint8 (H, W), changed in place.
        after: uint8 (h, w), ranks that cells have with the edges.
        brought: float32 (K, h, w), log-odds that edges bring to each class.
        inside: bool (h, w), cells to look at: those on no edge.
        stride: pixels a side of a cell.
    """
    mixed = inside & (pool(ranks, stride) != ~pool(~ranks, stride))
    y, x = np.nonzero(_pixels(mixed, ranks.shape, stride))
    row, column = y // stride, x // stride
    joined = after[row, column]
    gained = brought[joined, row, column] - brought[ranks[y, x], row, column]
    ranks[y, x] = np.where(gained > _SAID, joined, ranks[y, x])


def _flood(ranks: np.ndarray, free: np.ndarray, relief: np.ndarray) -> np.ndarray:
    """Pixels that are ``free`` get the rank of those around them, low relief first.

    A component of the map that is wholly free, as one thinner than two cells, starts from its own
    pixels beside the edge; free pixels that nothing reaches stay.
    """
    if not free.any():
        return ranks
    whole = measure.label(ranks, connectivity=1, background=-1)
    held = np.bincount(whole[~free], minlength=int(whole.max()) + 1) > 0
    free = free & (held[whole] | (relief > _BARRIER))
    ring = cv2.dilate(free.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool)
    seeds = np.where(ring & ~free, ranks.astype(np.int32) + 1, 0)
    found = watershed(relief, seeds, mask=ring, connectivity=1)
    return np.where(found > 0, found - 1, ranks).astype(np.uint8)
