"""Masks straight from edges: the nodes of a hierarchy of watershed basins.

Edges are the relief of a landscape that is flooded. The basins of its smoothed form, less those
too shallow to count (h-minima), are the leaves; then the two neighbours whose border is weakest
on average are joined, until one region is left. Every region on that way is an object to someone,
and how long it lasts says how much of one it is: from the strength at which it is whole, that of
its strongest inner border, to that of the border it is lost across. No network is asked. The ground
rises towards edges, so that a gap in one is a pass: it weakens a border without opening it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage
from skimage.morphology import local_minima
from skimage.segmentation import watershed

from trace_d2.propagation.borders import (
    Agglomeration,
    Borders,
    measure_borders,
    merge_shallow,
    relabel,
)
from trace_d2.propagation.grid import check_edges

from .settings import EdgeHierarchySettings

_DEFAULTS = EdgeHierarchySettings()
# Strengths from which on edges raise the ground around them, each as high as itself.
_LEVELS = (0.2, 0.4, 0.6, 0.8)


def edge_masks(
    edges: np.ndarray, settings: EdgeHierarchySettings = _DEFAULTS
) -> Iterator[tuple[np.ndarray, float]]:
    """Masks of the objects that edges part, from the highest score to the lowest.

    A mask's score is its lifetime in the hierarchy; times the part that it leaves free of the
    border line of the image that it covers most, as where a photograph ends no edge says that an
    object does; times a small power of its share of the image, as of two masks that last as long
    the smaller is more likely a part.

    Args:
        edges: float (H, W) edge strength in 0..1.
        settings: what is smoothed, ignored and left out.

    Yields:
        bool (H, W), and its score in 0..1. Of edges that are the same everywhere nothing.

    Raises:
        ValueError: edges of another shape, type or range, or NaN among them.
    """
    check_edges(edges)
    tree = EdgeHierarchy.of(edges, settings.sigma, settings.depth, settings.gap_radius)
    covered = tree.border_shares()
    share = tree.area / tree.leaf.size
    score = tree.lifetime * (1 - covered.max(axis=1)) * share**settings.area_power
    crossed = np.count_nonzero(covered >= settings.border_share, axis=1)
    kept = (
        (tree.area >= settings.min_area)
        & (share <= settings.max_share)
        & (crossed <= settings.max_borders)
        & (score > settings.min_score)
    )
    nodes = np.flatnonzero(kept)
    nodes = nodes[np.argsort(-score[nodes], kind="stable")]
    if not settings.nested:
        nodes = tree.apart(nodes)
    for node in nodes.tolist():
        yield tree.mask(node), float(score[node])


@dataclass(frozen=True)
class EdgeHierarchy:
    """A binary tree of regions; nodes 0 to L - 1 are its leaves, each later one joins two before.

    Leaves are numbered so that those of every node follow on each other.

    Attributes:
        leaf: int32 (H, W), the leaf of each pixel.
        first, stop: int64 (K,), the leaves of node k are ``first[k]`` to ``stop[k]`` - 1.
        birth: float64 (K,), of a leaf its least height, of others the mean height of the border
            across which they were joined.
        death: float64 (K,), the mean height of the border across which a node joins another.
            The last node is the whole image, which ends at its birth.
    """

    leaf: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    birth: np.ndarray
    death: np.ndarray

    @classmethod
    def of(
        cls, edges: np.ndarray, sigma: float, depth: float, gap_radius: float = 0.0
    ) -> EdgeHierarchy:
        """The hierarchy of ``edges`` float (H, W), smoothed and with basins of some depth.

        Args:
            sigma: pixels of the Gaussian, 0: none.
            depth: difference of heights by which a basin must part from a deeper one.
            gap_radius: pixels over which the ground rises towards edges; 0: it does not.
        """
        strengths = edges.astype(np.float32)
        relief = cv2.GaussianBlur(strengths, (0, 0), sigma) if sigma else strengths
        if gap_radius:
            relief = (relief + nearness(strengths, gap_radius)) / 2
        basins = _basins(relief, depth)
        lowest = ndimage.minimum(relief, basins, np.arange(1, basins.max() + 1))
        return cls._joined(basins, measure_borders(basins, relief, relief), lowest)

    @classmethod
    def _joined(cls, basins: np.ndarray, borders: Borders, lowest: np.ndarray) -> EdgeHierarchy:
        """The tree over ``basins`` int32 (H, W), labelled from 1, of their ``lowest`` strengths."""
        leaves = len(lowest)
        node = np.arange(-1, leaves).tolist()  # of each label that is not yet gone
        members = [[label] for label in range(leaves + 1)]
        labels = [(label, 1) for label in range(1, leaves + 1)]  # of each node: first leaf, number
        birth, death = lowest.tolist(), [0.0] * (2 * leaves - 1)
        for strength, keep, gone in _WeakestFirst(borders, leaves + 1).join_below(math.inf):
            death[node[keep]] = death[node[gone]] = strength
            node[keep] = len(birth)
            birth.append(strength)
            members[keep] += members[gone]
            labels.append((members[keep][0], len(members[keep])))
        death[-1] = birth[-1]
        order = max(members, key=len)
        number = np.zeros(leaves + 1, np.int32)
        number[order] = np.arange(leaves)
        first_label, count = np.array(labels).T
        first = number[first_label].astype(np.int64)
        return cls(number[basins], first, first + count, np.array(birth), np.array(death))

    @property
    def lifetime(self) -> np.ndarray:
        """float64 (K,): from birth to death, 0..1."""
        return np.clip(self.death - self.birth, 0, 1)

    @property
    def area(self) -> np.ndarray:
        """int64 (K,) pixels."""
        return self._pixels(self.leaf)

    def border_shares(self) -> np.ndarray:
        """float64 (K, 4): the share of the top, bottom, left and right line that a node covers."""
        lines = (self.leaf[0], self.leaf[-1], self.leaf[:, 0], self.leaf[:, -1])
        return np.stack([self._pixels(line) / line.size for line in lines], axis=1)

    def mask(self, node: int) -> np.ndarray:
        """bool (H, W): the pixels of a node."""
        return (self.leaf >= self.first[node]) & (self.leaf < self.stop[node])

    def apart(self, nodes: np.ndarray) -> np.ndarray:
        """Those of ``nodes`` that hold no pixel of one before them."""
        taken = np.zeros(int(self.stop[-1]), bool)
        kept = []
        for node in nodes:
            own = slice(self.first[node], self.stop[node])
            if not taken[own].any():
                taken[own] = True
                kept.append(node)
        return np.array(kept, np.int64)

    def _pixels(self, leaves: np.ndarray) -> np.ndarray:
        """int64 (K,): how many of some pixels, given by their leaf, each node has."""
        before = np.zeros(int(self.stop[-1]) + 1, np.int64)
        np.cumsum(np.bincount(leaves.ravel(), minlength=len(before) - 1), out=before[1:])
        return before[self.stop] - before[self.first]


def nearness(edges: np.ndarray, radius: float) -> np.ndarray:
    """How near and how strong the edges around each pixel are: float32 (H, W) in 0..1.

    That is the most of l exp(-d / radius) over four levels l, with d the distance in pixels to the
    nearest edge of strength l or more. In flat ground it makes one basin of each room between
    edges, which a smoothed map alone would join through every gap.
    """
    raised = np.zeros(edges.shape, np.float32)
    for level in _LEVELS:
        below = edges < level
        if not below.all():
            away = cv2.distanceTransform(below.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
            np.maximum(raised, level * np.exp(away / -radius), out=raised)
    return raised


class _WeakestFirst(Agglomeration):
    """Average linkage: the border of the least mean strength goes first."""

    def cost(self, one: int, other: int) -> float:
        length, strength, _ = self.neighbours[one][other]
        return strength / length


def _basins(relief: np.ndarray, depth: float) -> np.ndarray:
    """int32 (H, W): watershed basins from 1, joined where less than ``depth`` parts them."""
    minima = local_minima(relief, connectivity=1)
    seeds = ndimage.label(minima)[0]
    if not minima.any():  # flat
        return np.ones(relief.shape, np.int32)
    basins = watershed(relief, seeds, connectivity=1).astype(np.int32, copy=False)
    height = 1 - relief
    borders = measure_borders(basins, relief, height)
    peaks = np.zeros(int(basins.max()) + 1, np.float32)
    peaks[1:] = ndimage.maximum(height, basins, np.arange(1, len(peaks)))
    return relabel(basins, merge_shallow(borders, peaks, depth))
