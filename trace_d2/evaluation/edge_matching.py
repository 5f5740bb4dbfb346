"""One-to-one matching of edge pixels within a distance, as large as it can be.

The BSDS benchmark solves an assignment whose cost is distance, with a far larger cost for a pixel
that stays alone; the scores use no more of it than the number of pairs. That number is the size of
a maximum matching, which is found here without costs: a greedy start from the nearest pairs on,
then augmenting paths. Candidates are read off the map itself, so that no graph is ever built.
"""

from __future__ import annotations

import math

import numba
import numpy as np


def disc(radius: float) -> np.ndarray:
    """Offsets (K, 2) int64, (down, right), of all pixels at most ``radius`` pixels away.

    The nearest come first; the centre is one of them.

    Raises:
        ValueError: the radius is negative or not finite.
    """
    if not 0 <= radius < math.inf:
        raise ValueError(f"a distance in pixels is 0 or more, not {radius}")
    reach = math.floor(radius + 1e-9)
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    squares = down**2 + right**2
    # 0.0075 of a diagonal of 800 is 6, whichever way that is rounded.
    inside = squares <= (radius + 1e-9) ** 2
    order = np.argsort(squares[inside], kind="stable")
    return np.stack((down[inside], right[inside]), axis=1)[order]


def match_pixels(predicted: np.ndarray, truth: np.ndarray, radius: float) -> int:
    """How many pixels of two maps pair up at most, each with one at most ``radius`` away.

    Args:
        predicted, truth: (H, W) bool.
        radius: in pixels, Euclidean, itself included.

    Raises:
        ValueError: the maps differ in size, or the radius is negative.
    """
    if predicted.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"edge maps of different sizes: {predicted.shape} and {truth.shape}")
    offsets = disc(radius)
    margin = int(offsets.max())
    padded = [np.pad(mask.astype(np.uint8), margin) for mask in (predicted, truth)]
    flat = flat_offsets(offsets, padded[0].shape[1])
    pixels, truth_pixels = (np.flatnonzero(mask).astype(np.int32) for mask in padded)
    on, goal = (mask.reshape(-1) for mask in padded)
    return int(count_pairs(pixels, on, truth_pixels, goal, spread(goal, flat), flat))


def flat_offsets(offsets: np.ndarray, stride: int) -> np.ndarray:
    """``offsets`` (K, 2) as steps (K,) int32 in a flattened map with rows of ``stride``."""
    return (offsets[:, 0] * stride + offsets[:, 1]).astype(np.int32)


@numba.njit(nogil=True, cache=True)
def spread(on, offsets):  # type: ignore[no-untyped-def]
    """(S,) uint8: 1 where a pixel of ``on`` (S,) uint8 lies at one of ``offsets`` (symmetric)."""
    result = np.zeros(len(on), np.uint8)
    for p in range(len(on)):
        if on[p]:
            for offset in offsets:
                result[p + offset] = 1
    return result


@numba.njit(nogil=True, cache=True)
def count_pairs(pixels, on, truth_pixels, truth, near, offsets):  # type: ignore[no-untyped-def]
    """Size of a maximum matching between the predicted and the true pixels.

    Args:
        pixels: (P,) int32, flat positions of predicted pixels.
        on: (S,) uint8, the flattened map of them, with a margin as wide as the offsets reach.
        truth_pixels, truth: (T,) int32 and (S,) uint8, the same of true pixels.
        near: (S,) uint8, 1 where ``pixels`` have a candidate: ``spread(truth, offsets)``.
        offsets: (K,) int32, of candidates, the nearest first.
    """
    # By position of the pixel; 0, in the margin, is nobody.
    mate_of_truth, mate_of_pixel = np.zeros(len(on), np.int32), np.zeros(len(on), np.int32)
    waiting = np.empty(len(pixels), np.int32)
    alone = 0
    for p in pixels:
        if near[p]:
            waiting[alone] = p
            alone += 1
    candidates = alone
    for offset in offsets:
        left = 0
        for i in range(alone):
            p = waiting[i]
            t = p + offset
            if truth[t] and mate_of_truth[t] == 0:
                mate_of_truth[t] = p
                mate_of_pixel[p] = t
            else:
                waiting[left] = p
                left += 1
        alone = left
    unmatched = len(truth_pixels) - (candidates - alone)
    if alone <= unmatched:
        return candidates - _without_path(waiting[:alone], mate_of_truth, truth, offsets)
    # Of the two sides the one with fewer pixels left searches.
    missing = np.empty(unmatched, np.int32)
    count = 0
    for t in truth_pixels:
        if mate_of_truth[t] == 0:
            missing[count] = t
            count += 1
    return len(truth_pixels) - _without_path(missing, mate_of_pixel, on, offsets)


@numba.njit(nogil=True, cache=True)
def _without_path(waiting, mate, goal, offsets):  # type: ignore[no-untyped-def]
    """Extend ``mate`` by augmenting paths from ``waiting`` to free pixels of ``goal``.

    Breadth first, so that paths are the shortest. What a search without success has seen can be on
    no path later either (every candidate of it is taken within it), so it stays marked, and all
    failures together look at each candidate once.

    Args:
        waiting: (P,) int32, pixels of one side without a mate.
        mate: (S,) int32, the mate of each pixel of the other side; 0: none.
        goal: (S,) uint8, the map of the other side.
        offsets: (K,) int32, of candidates.

    Returns:
        how many of ``waiting`` had no path.
    """
    seen = np.zeros(len(goal), np.uint8)
    before = np.empty(len(goal), np.int32)  # the goal's pixel before, on the path; 0: none
    trail = np.empty(np.count_nonzero(goal) + 1, np.int32)  # what was reached, in its order
    failures = 0
    for start in waiting:
        p, t, end = start, 0, 0
        count, head = 0, 0
        while True:
            for offset in offsets:
                candidate = p + offset
                if goal[candidate] and not seen[candidate]:
                    seen[candidate] = 1
                    before[candidate] = t
                    trail[count] = candidate
                    count += 1
                    if mate[candidate] == 0:
                        end = candidate
                        break
            if end or head == count:
                break
            t = trail[head]
            p = mate[t]
            head += 1
        if not end:
            failures += 1
            continue
        for i in range(count):
            seen[trail[i]] = 0
        while before[end]:
            mate[end] = mate[before[end]]
            end = before[end]
        mate[end] = start
    return failures
