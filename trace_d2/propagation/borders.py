"""Borders between regions of a label map, and merging regions across them.

``Agglomeration`` joins two regions at a time, always across the border of the least cost, and
keeps what is known of borders as regions grow; what a border costs is its subclass's matter.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Border = tuple[float, float, float]
"""Length, sum of evidence, height of the pass: what ``Borders`` has of a pair."""


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
    """The borders of ``regions`` int32 (H, W), by float32 (H, W) evidence for an edge and height.

    A border is as high as its highest pass, and a pass as high as the lower of its two pixels.
    """
    count = int(regions.max(initial=0)) + 1
    codes, strengths, heights = [], [], []
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
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


def _find(parent: list[int], item: int) -> int:
    """The root that stands for the set of ``item``; a root is its own parent."""
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


def roots(parent: list[int]) -> np.ndarray:
    """int32 (R,): the region that stands for each."""
    return np.array([_find(parent, item) for item in range(len(parent))], np.int32)


def merge_shallow(borders: Borders, peaks: np.ndarray, depth: float) -> np.ndarray:
    """Join regions that no dip of at least ``depth`` parts (an h-maxima filter on the regions).

    Borders are visited from the highest pass down; two regions are one if the lower of their
    ``peaks``, float (R + 1,), rises less than ``depth`` above the pass. Passes at height 0 join
    nothing.

    Returns:
        int32 (R + 1,): the label that each label becomes.
    """
    parent = list(range(len(peaks)))
    top = peaks.tolist()
    for index in np.argsort(-borders.height, kind="stable"):
        height = float(borders.height[index])
        if height <= 0:
            break
        one, other = (_find(parent, label) for label in borders.pairs[index].tolist())
        if top[one] < top[other]:
            one, other = other, one
        if one != other and top[other] - height < depth:
            parent[other] = one
    return roots(parent)


def relabel(regions: np.ndarray, becomes: np.ndarray) -> np.ndarray:
    """Apply a map of labels and close the ranks: labels 1, 2, ... and 0."""
    table = np.zeros(len(becomes), np.int32)
    table[1:] = np.unique(becomes[1:], return_inverse=True)[1] + 1
    return table[regions]


class Agglomeration(ABC):
    """Regions that are joined pair by pair, neighbours across the border of least cost first.

    Attributes:
        neighbours: of each region, its borders by the region on the other side. Of joined
            regions one goes on and has the borders of both; lengths and evidence add up, and the
            higher pass counts.
        parent: of each region, one that it was joined to, or itself.
    """

    def __init__(self, borders: Borders, count: int) -> None:
        """Take the ``borders`` of regions 0 to ``count`` - 1."""
        self.parent = list(range(count))
        self._version = [0] * count
        self.neighbours: list[dict[int, Border]] = [{} for _ in range(count)]
        rows = np.stack((borders.length, borders.strength, borders.height), axis=1).tolist()
        for (one, other), border in zip(borders.pairs.tolist(), rows, strict=True):
            self.neighbours[one][other] = self.neighbours[other][one] = tuple(border)

    @abstractmethod
    def cost(self, one: int, other: int) -> float:
        """Of joining two regions that touch."""

    def join_below(self, limit: float) -> Iterator[tuple[float, int, int]]:
        """Join until all borders left cost ``limit`` or more.

        Yields:
            the cost, the region that goes on as both, and the region that is gone, before the
            borders of both are weighed anew: what ``cost`` knows of regions is brought up to date
            by who iterates.
        """
        heap = [
            self._entry(one, other)
            for one, neighbours in enumerate(self.neighbours)
            for other in neighbours
            if one < other
        ]
        heapq.heapify(heap)
        while heap and heap[0][0] < limit:
            cost, one, other, version, other_version = heapq.heappop(heap)
            # An entry made before either region last grew describes a border that is no more.
            if self._version[one] != version or self._version[other] != other_version:
                continue
            keep, gone = self._join(one, other)
            yield cost, keep, gone
            for neighbour in self.neighbours[keep]:
                heapq.heappush(heap, self._entry(keep, neighbour))

    def _entry(self, one: int, other: int) -> tuple[float, int, int, int, int]:
        one, other = min(one, other), max(one, other)
        return self.cost(one, other), one, other, self._version[one], self._version[other]

    def _join(self, one: int, other: int) -> tuple[int, int]:
        """Join two regions that touch; returns which goes on and which is gone."""
        keep, gone = sorted((one, other), key=lambda label: -len(self.neighbours[label]))
        self.parent[gone] = keep
        self._version[keep] += 1
        self._version[gone] += 1
        del self.neighbours[keep][gone], self.neighbours[gone][keep]
        for neighbour, border in self.neighbours[gone].items():
            old = self.neighbours[keep].get(neighbour, (0.0, 0.0, 0.0))
            grown = (old[0] + border[0], old[1] + border[1], max(old[2], border[2]))
            self.neighbours[keep][neighbour] = self.neighbours[neighbour][keep] = grown
            del self.neighbours[neighbour][gone]
        self.neighbours[gone] = {}
        return keep, gone
