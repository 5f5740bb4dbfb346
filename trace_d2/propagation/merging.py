"""Merging of masks that overlap (BGP, third step)."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class PropagatedInstances:
    """What becomes of the masks of one image.

    Attributes:
        masks: (N, H, W) bool, ordered by the first of the given masks that went into each; no two
            have an IoU above the merging threshold.
        scores: (N,) float32, the highest score of the masks that went into each.
        sources: (N,) int64, the first of the given masks that went into each.
    """

    masks: np.ndarray
    scores: np.ndarray
    sources: np.ndarray


def merge_masks(
    masks: np.ndarray, scores: np.ndarray | None = None, *, iou_threshold: float = 0.5
) -> PropagatedInstances:
    """Merge the two masks of the highest IoU until no IoU exceeds ``iou_threshold``.

    Equal IoUs are taken in the order of the masks. Without such ties the unions do not depend on
    the order, and merging the result again changes nothing. An empty mask merges with none.

    Args:
        masks: (K, H, W) bool.
        scores: (K,) confidences; 1 for all when left out.
        iou_threshold: in [0, 1].
    """
    masks, scores = check_masks(masks, scores)
    members = [np.flatnonzero(mask) for mask in masks]
    groups = merge_groups(members, masks[:1].size, iou_threshold)
    return unite(members, groups, scores, np.arange(len(masks)), masks.shape[1:])


def merge_groups(members: Sequence[np.ndarray], pixels: int, iou_threshold: float) -> np.ndarray:
    """`merge_masks` for masks given by sorted flat indices, in an image of so many ``pixels``.

    Returns:
        (K,) int64 group of each mask, groups counted from 0 in the order of their first masks.
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must lie in 0..1, not {iou_threshold}")
    alive = dict(enumerate(members))
    overlaps = _overlaps(members, pixels)
    version = [0] * len(members)
    parent = list(range(len(members)))
    queue: list[tuple[float, int, int, int, int]] = []

    def offer(one: int, other: int) -> None:
        first, second = sorted((one, other))
        shared = overlaps[first][second]
        iou = shared / (len(alive[first]) + len(alive[second]) - shared)
        if iou > iou_threshold:
            heapq.heappush(queue, (-iou, first, second, version[first], version[second]))

    for first, neighbours in enumerate(overlaps):
        for second in neighbours:
            if first < second:
                offer(first, second)
    while queue:
        _, first, second, *versions = heapq.heappop(queue)
        if versions != [version[first], version[second]]:
            continue  # One of the two has grown or gone since.
        alive[first] = np.union1d(alive[first], alive.pop(second))
        parent[second] = first
        version[first] += 1
        version[second] = -1
        _join_overlaps(overlaps, alive, first, second, pixels)
        for other in overlaps[first]:
            offer(first, other)
    return _consecutive(parent)


def unite(
    members: Sequence[np.ndarray],
    groups: np.ndarray,
    scores: Sequence[np.ndarray] | np.ndarray,
    sources: Sequence[int] | np.ndarray,
    shape: tuple[int, ...],
) -> PropagatedInstances:
    """The unions of masks given by their pixels, with the score and the source of each."""
    count = int(groups.max(initial=-1)) + 1
    masks = np.zeros((count, *shape), bool)
    best = np.full(count, -np.inf, np.float32)
    first = np.full(count, np.iinfo(np.int64).max)
    for pixels, group, score, source in zip(members, groups, scores, sources, strict=True):
        masks[group].ravel()[pixels] = True
        best[group] = max(best[group], score)
        first[group] = min(first[group], source)
    return PropagatedInstances(masks, best, first)


def check_masks(masks: np.ndarray, scores: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Masks and float32 scores as they came, or ValueError saying what is wrong with them."""
    if masks.ndim != 3 or masks.dtype != np.bool_:
        raise ValueError(f"masks must be (K, H, W) bool, not {masks.shape} {masks.dtype}")
    if scores is None:
        return masks, np.ones(len(masks), np.float32)
    scores = np.asarray(scores, np.float32)
    if scores.shape != (len(masks),) or not np.isfinite(scores).all():
        raise ValueError(f"scores must be {len(masks)} finite numbers, not shape {scores.shape}")
    return masks, scores


def _overlaps(members: Sequence[np.ndarray], pixels: int) -> list[dict[int, int]]:
    """Shared pixels of each mask with every other that it meets: one sparse product."""
    starts = np.cumsum([0, *(len(part) for part in members)])
    columns = np.concatenate(members) if len(members) else np.zeros(0, np.int64)
    matrix = sparse.csr_array(
        (np.ones(len(columns), np.int32), columns, starts), shape=(len(members), pixels)
    )
    product = (matrix @ matrix.T).tocsr()
    product.sort_indices()
    return [
        {
            int(other): int(shared)
            for other, shared in zip(
                product.indices[begin:end], product.data[begin:end], strict=True
            )
            if other != row
        }
        for row, (begin, end) in enumerate(pairwise(product.indptr))
    ]


def _join_overlaps(
    overlaps: list[dict[int, int]],
    alive: dict[int, np.ndarray],
    first: int,
    second: int,
    pixels: int,
) -> None:
    """Count the overlaps of ``first`` anew after it took in ``second``, which is struck out."""
    inside = np.zeros(pixels, bool)
    inside[alive[first]] = True
    neighbours = sorted((overlaps[first].keys() | overlaps[second].keys()) - {first, second})
    overlaps[second] = {}
    overlaps[first] = {}
    for other in neighbours:
        overlaps[other].pop(second, None)
        shared = int(np.count_nonzero(inside[alive[other]]))
        overlaps[first][other] = overlaps[other][first] = shared


def _consecutive(parent: list[int]) -> np.ndarray:
    """Roots renumbered from 0; a root stands before all that merged into it."""
    roots = parent.copy()
    for child, above in enumerate(parent):
        roots[child] = roots[above]
    return np.unique(np.array(roots, np.int64), return_inverse=True)[1]
