"""Regions of one mask and the borders between them: measure them, merge across the unlikely."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

# Coefficients of BorderMerger: constant, evidence, neck, shortness, length, texture.
_UNTRUSTED = (3.4, 0.1, -7.3, 0.3, 0.4, -27.0)
_TRUSTED = (2.6, 1.3, -3.0, 0.0, 0.85, -9.3)
_FULL_TRUST = 0.7  # from which on edges are trusted fully
# Pixels that say nothing, as if every border and every region had so many more.
_SHRINK_BORDER, _SHRINK_REGION = 2.0, 5.0

_Border = tuple[float, float, float]  # length, sum of evidence, height of the pass


@dataclass(frozen=True)
class Borders:
    """The borders of a region map, one entry for every pair of regions that touch.

    Attributes:
        pairs: int64 (P, 2) labels, the smaller first, in rising order.
        length: float64 (P,) pixel pairs that face each other across the border (4-connected).
        strength: float64 (P,) sum over those pairs of the greater of the two pixels' evidence.
        height: float64 (P,) the greatest height at which the two regions meet.
    """

    pairs: np.ndarray
    length: np.ndarray
    strength: np.ndarray
    height: np.ndarray


def measure_borders(regions: np.ndarray, evidence: np.ndarray, height: np.ndarray) -> Borders:
    """Measure the borders between regions that touch.

    Args:
        regions: int32 (H, W) labels, 0 = outside.
        evidence: float32 (H, W) for an edge, see ``EdgeCalibration``.
        height: float32 (H, W); a border is as high as its highest pass, and a pass as high as
            the lower of its two pixels.
    """
    count = int(regions.max(initial=0)) + 1
    codes, strengths, heights = [], [], []
    for first, second in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
    ):
        one, other = regions[first], regions[second]
        facing = np.nonzero((one != other) & (one > 0) & (other > 0))
        one, other = one[facing].astype(np.int64), other[facing].astype(np.int64)
        codes.append(np.minimum(one, other) * count + np.maximum(one, other))
        strengths.append(np.maximum(evidence[first][facing], evidence[second][facing]))
        heights.append(np.minimum(height[first][facing], height[second][facing]))
    code, index = np.unique(np.concatenate(codes), return_inverse=True)
    top = np.zeros(len(code))
    np.maximum.at(top, index, np.concatenate(heights))
    return Borders(
        pairs=np.stack([code // count, code % count], axis=1),
        length=np.bincount(index, minlength=len(code)).astype(np.float64),
        strength=np.bincount(index, np.concatenate(strengths), minlength=len(code)),
        height=top,
    )


class DisjointSets:
    """Union-find over 0..count-1: a set is joined to another where its root gets a parent."""

    def __init__(self, count: int) -> None:
        self.parent = list(range(count))

    def find(self, item: int) -> int:
        """The representative of the set of ``item``."""
        parent = self.parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def representatives(self) -> np.ndarray:
        """int32 (count,): the representative of every item."""
        return np.array([self.find(item) for item in range(len(self.parent))], np.int32)


def merge_shallow(borders: Borders, peaks: np.ndarray, depth: float) -> np.ndarray:
    """Join regions that no dip of at least ``depth`` parts (an h-maxima filter on the regions).

    Borders are visited from the highest pass down; two regions are one if the lower of their
    peaks rises less than ``depth`` above the pass. Passes at height 0 join nothing.

    Args:
        borders: of the regions.
        peaks: float (R + 1,) the greatest height in each region; entry 0 is the outside.
        depth: in the unit of the heights.

    Returns:
        int32 (R + 1,): the label that each label becomes.
    """
    sets = DisjointSets(len(peaks))
    top = peaks.tolist()
    for index in np.argsort(-borders.height, kind="stable"):
        height = float(borders.height[index])
        if height <= 0:
            break
        one, other = (sets.find(label) for label in borders.pairs[index].tolist())
        if top[one] < top[other]:
            one, other = other, one
        if one != other and top[other] - height < depth:
            sets.parent[other] = one
    return sets.representatives()


class BorderMerger:
    """Merges the regions of a mask across borders that are more likely inside one object.

    The log-odds that a border parts two objects are linear in what is known of it::

        constant + evidence * E + neck * N + shortness * log(L / sqrt(a)) + length * log(10 L / s)
        + texture * P

    with L its length, E the mean calibrated evidence along it (shrunk as if two pixels more said
    nothing), N how open the way across is (the height of the pass over the lower of the two
    peaks), a the smaller area, s the square root of the image's area and P the greater mean
    probability of an edge inside the two regions. The border of the lowest log-odds goes first,
    and what it joins is measured anew; it ends when all borders left have positive ones.

    The coefficients lie between two sets, for edges that cannot be trusted and for those that
    can. They were fitted by logistic regression on borders of 50 photographs (with the regions
    that merging by the fit itself comes to) and edges of nine kinds, from perfect to useless;
    docs/results.md says how well they carry over.
    """

    def __init__(
        self, borders: Borders, area: np.ndarray, peak: np.ndarray, edges: np.ndarray,
        trust: float, scale: float, prior: float = 0.0,
    ) -> None:  # fmt: skip
        """Take the regions to merge.

        Args:
            borders: of the regions; ``strength`` is the sum of the calibrated evidence.
            area: float64 (R + 1,) pixels of each region.
            peak: float (R + 1,) the greatest height in each region.
            edges: float64 (R + 1,) sum of the probability of an edge over each region.
            trust: 0..1, how far the edges are to be trusted.
            scale: s, in pixels.
            prior: log-odds that borders have on top, as far as the edges are trusted.
        """
        share = min(1.0, trust / _FULL_TRUST)
        self.weights = [u + share * (t - u) for u, t in zip(_UNTRUSTED, _TRUSTED, strict=True)]
        self.weights[0] += share * prior
        self.scale = scale
        self.sets = DisjointSets(len(area))
        self.area = area.tolist()
        self.peak = peak.tolist()
        self.edges = edges.tolist()
        self.version = [0] * len(self.area)
        self.neighbours: list[dict[int, _Border]] = [{} for _ in self.area]
        rows = (borders.length, borders.strength, borders.height)
        for (one, other), *border in zip(
            borders.pairs.tolist(), *(row.tolist() for row in rows), strict=True
        ):
            self.neighbours[one][other] = self.neighbours[other][one] = tuple(border)

    def merge(self) -> np.ndarray:
        """int32 (R + 1,): the label that each label becomes."""
        heap = [
            self._entry(one, other)
            for one, neighbours in enumerate(self.neighbours)
            for other in neighbours
            if one < other
        ]
        heapq.heapify(heap)
        while heap and heap[0][0] < 0:
            _, one, other, version, other_version = heapq.heappop(heap)
            # An entry made before either region last grew describes a border that is no more.
            if self.version[one] != version or self.version[other] != other_version:
                continue
            keep = self._join(one, other)
            for neighbour in self.neighbours[keep]:
                heapq.heappush(heap, self._entry(keep, neighbour))
        return self.sets.representatives()

    def log_odds(self, one: int, other: int) -> float:
        """That the border between two regions that touch parts two objects."""
        length, evidence, height = self.neighbours[one][other]
        smaller = min(self.area[one], self.area[other])
        texture = max(self.edges[i] / (self.area[i] + _SHRINK_REGION) for i in (one, other))
        known = (
            1.0,
            evidence / (length + _SHRINK_BORDER),
            height / max(min(self.peak[one], self.peak[other]), 1e-3),
            math.log(length / math.sqrt(smaller)),
            math.log(10.0 * length / self.scale),
            texture,
        )
        return sum(weight * value for weight, value in zip(self.weights, known, strict=True))

    def _entry(self, one: int, other: int) -> tuple[float, int, int, int, int]:
        one, other = min(one, other), max(one, other)
        return self.log_odds(one, other), one, other, self.version[one], self.version[other]

    def _join(self, one: int, other: int) -> int:
        """Join two regions that touch; returns the label of both."""
        keep, gone = one, other
        if len(self.neighbours[keep]) < len(self.neighbours[gone]):
            keep, gone = gone, keep
        self.sets.parent[gone] = keep
        self.area[keep] += self.area[gone]
        self.edges[keep] += self.edges[gone]
        self.peak[keep] = max(self.peak[keep], self.peak[gone])
        self.version[keep] += 1
        self.version[gone] += 1
        del self.neighbours[keep][gone]
        for neighbour, border in self.neighbours[gone].items():
            if neighbour == keep:
                continue
            old = self.neighbours[keep].get(neighbour, (0.0, 0.0, 0.0))
            grown = (old[0] + border[0], old[1] + border[1], max(old[2], border[2]))
            self.neighbours[keep][neighbour] = self.neighbours[neighbour][keep] = grown
            del self.neighbours[neighbour][gone]
        self.neighbours[gone] = {}
        return keep
