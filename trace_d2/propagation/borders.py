"""Regions of one mask and the borders between them: measure borders, merge across weak ones."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Borders:
    """The borders of a region map, one entry for every pair of regions that touch.

    Attributes:
        pairs: int64 (P, 2) labels, the smaller first, in rising order.
        length: float64 (P,) pixel pairs that face each other across the border (4-connected).
        strength: float64 (P,) sum over those pairs of the stronger of the two edge strengths.
        height: float64 (P,) the greatest height at which the two regions meet.
    """

    pairs: np.ndarray
    length: np.ndarray
    strength: np.ndarray
    height: np.ndarray


def measure_borders(regions: np.ndarray, edges: np.ndarray, height: np.ndarray) -> Borders:
    """Measure the borders between regions that touch.

    Args:
        regions: int32 (H, W) labels, 0 = outside.
        edges: float32 (H, W) edge strength in 0..1.
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
        strengths.append(np.maximum(edges[first][facing], edges[second][facing]))
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
    """Union-find over 0..count-1."""

    def __init__(self, count: int) -> None:
        self.parent = list(range(count))

    def find(self, item: int) -> int:
        """The representative of the set of ``item``."""
        parent = self.parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, keep: int, gone: int) -> None:
        """Put the set of ``gone`` under ``keep``; both are representatives."""
        self.parent[gone] = keep

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
            sets.join(one, other)
    return sets.representatives()


class BorderMerger:
    """Merges the regions of a mask across borders that stand out too little.

    The evidence of a border between regions i and j is

        mean strength along it - the greater of the mean strengths in i and in j
        - evidence / length,

    so a border inside a texture, no stronger than the texture, parts nothing, and a short border
    must be clearer than a long one. The border of least evidence goes first, and what it joins
    is measured anew; it ends when every border left has an evidence of at least ``contrast``.
    """

    def __init__(
        self, borders: Borders, area: np.ndarray, strength: np.ndarray, evidence: float
    ) -> None:
        """Take the regions to merge.

        Args:
            borders: of the regions.
            area: float64 (R + 1,) pixels of each region.
            strength: float64 (R + 1,) sum of the edge strength over each region.
            evidence: in border pixels.
        """
        self.evidence = evidence
        self.sets = DisjointSets(len(area))
        self.area = area.tolist()
        self.strength = strength.tolist()
        self.version = [0] * len(self.area)
        self.neighbours: list[dict[int, tuple[float, float]]] = [{} for _ in self.area]
        for (one, other), length, total in zip(
            borders.pairs.tolist(), borders.length.tolist(), borders.strength.tolist(), strict=True
        ):
            self.neighbours[one][other] = self.neighbours[other][one] = (length, total)

    def merge(self, contrast: float) -> np.ndarray:
        """int32 (R + 1,): the label that each label becomes."""
        heap = [
            self._entry(one, other)
            for one, neighbours in enumerate(self.neighbours)
            for other in neighbours
            if one < other
        ]
        heapq.heapify(heap)
        while heap and heap[0][0] < contrast:
            _, one, other, version, other_version = heapq.heappop(heap)
            # An entry made before either region last grew describes a border that is no more.
            if self.version[one] != version or self.version[other] != other_version:
                continue
            keep = self._join(one, other)
            for neighbour in self.neighbours[keep]:
                heapq.heappush(heap, self._entry(keep, neighbour))
        return self.sets.representatives()

    def _entry(self, one: int, other: int) -> tuple[float, int, int, int, int]:
        length, total = self.neighbours[one][other]
        interior = max(self.strength[one] / self.area[one], self.strength[other] / self.area[other])
        score = (total - self.evidence) / length - interior
        one, other = min(one, other), max(one, other)
        return score, one, other, self.version[one], self.version[other]

    def _join(self, one: int, other: int) -> int:
        """Join two regions that touch; returns the label of both."""
        keep, gone = one, other
        if len(self.neighbours[keep]) < len(self.neighbours[gone]):
            keep, gone = gone, keep
        self.sets.join(keep, gone)
        self.area[keep] += self.area[gone]
        self.strength[keep] += self.strength[gone]
        self.version[keep] += 1
        self.version[gone] += 1
        del self.neighbours[keep][gone]
        for neighbour, (length, total) in self.neighbours[gone].items():
            if neighbour == keep:
                continue
            old_length, old_total = self.neighbours[keep].get(neighbour, (0.0, 0.0))
            grown = (old_length + length, old_total + total)
            self.neighbours[keep][neighbour] = self.neighbours[neighbour][keep] = grown
            del self.neighbours[neighbour][gone]
        self.neighbours[gone] = {}
        return keep
