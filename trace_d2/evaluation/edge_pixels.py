"""Pixels of edge maps: thinned to lines, and matched one to one within a distance.

Thinning is what bwmorph and scikit-image call "thin".

The BSDS benchmark matches by an assignment whose cost is distance, with a far larger cost for a
pixel that stays alone; the scores use no more of it than the number of pairs. That number is the
size of a maximum matching, which is found here without costs: a greedy start from the nearest pairs
on, then augmenting paths. Candidates are read off the map itself, so that no graph is ever built.
"""

from __future__ import annotations

import math

import numba
import numpy as np

# Neighbour b of a pixel, b = 0 .. 7, as (down, right): east, then counter-clockwise.
_AROUND = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def _deletable(second: bool) -> np.ndarray:
    """(256,) bool: whether a pixel with these neighbours (bit b: neighbour b is on) goes.

    The conditions G1, G2, and G3 (first subiteration) or G3' (second) of Guo and Hall, as Lam, Lee
    and Suen ("Thinning methodologies", 1992) give them.
    """
    table = np.zeros(256, bool)
    for code in range(256):
        x = [bool(code >> b & 1) for b in range(8)]
        crossings = sum(not x[i] and (x[i + 1] or x[(i + 2) % 8]) for i in (0, 2, 4, 6))
        first_pairs = sum(x[i] or x[i + 1] for i in (0, 2, 4, 6))
        second_pairs = sum(x[i + 1] or x[(i + 2) % 8] for i in (0, 2, 4, 6))
        if second:
            blocked = (x[5] or x[6] or not x[3]) and x[4]
        else:
            blocked = (x[1] or x[2] or not x[7]) and x[0]
        table[code] = crossings == 1 and 2 <= min(first_pairs, second_pairs) <= 3 and not blocked
    return table


DELETABLE = np.stack((_deletable(False), _deletable(True)))
"""(2, 256) bool: which neighbourhoods lose their centre in the two subiterations."""


def thin(mask: np.ndarray) -> np.ndarray:
    """``mask`` (H, W) bool thinned until nothing changes: (H, W) bool.

    Equal to ``skimage.morphology.thin``, but a pixel is looked at again only where a neighbour
    went since.
    """
    padded = np.pad(mask.astype(np.uint8), 1)
    pixels = np.flatnonzero(padded).astype(np.int32)
    thin_pixels(padded.reshape(-1), pixels, padded.shape[1], DELETABLE)
    return padded[1:-1, 1:-1].astype(bool)


@numba.njit(nogil=True, cache=True)
def thin_pixels(on, pixels, stride, deletable):  # type: ignore[no-untyped-def]
    """Thin a flattened map in place; returns the pixels that stay, in their order.

    Args:
        on: (S,) uint8, 1 in the mask; its outer rows and columns are 0.
        pixels: (P,) int32, where ``on`` is 1.
        stride: length of a row.
        deletable: ``DELETABLE``.
    """
    around = (1, 1 - stride, -stride, -stride - 1, -1, stride - 1, stride, stride + 1)
    code = np.zeros(len(on), np.uint8)
    # Of all pixels, row by row, as the compiler makes vector operations of that.
    for start in range(stride, len(on) - stride, stride):
        row = code[start + 1 : start + stride - 1]
        for b in range(8):
            shifted = on[start + 1 + around[b] : start + stride - 1 + around[b]]
            bit = np.uint8(1 << b)
            for p in range(len(row)):
                row[p] |= shifted[p] * bit
    asked = np.zeros(len(on), np.int32)
    gone = np.empty(len(pixels), np.int32)
    # gone[earlier:end] went in the two subiterations before this one: as the two kinds take turns,
    # any other pixel was tried with these neighbours already. The first two try all.
    earlier, last, end = 0, 0, 0
    step = 0
    while step < 2 or end > earlier:
        table = deletable[step % 2]
        found = end
        if step < 2:
            for p in pixels:
                if on[p] and table[code[p]]:
                    gone[found] = p
                    found += 1
        else:
            for i in range(earlier, end):
                for b in range(8):
                    q = gone[i] + around[b]
                    if on[q] and asked[q] != step:
                        asked[q] = step
                        if table[code[q]]:
                            gone[found] = q
                            found += 1
        for i in range(end, found):
            p = gone[i]
            on[p] = 0
            for b in range(8):
                q = p + around[b]
                if on[q]:
                    code[q] &= ~(1 << ((b + 4) & 7))
        earlier, last, end = last, end, found
        step += 1
    stay = np.empty(len(pixels) - end, np.int32)
    count = 0
    for p in pixels:
        if on[p]:
            stay[count] = p
            count += 1
    return stay


def disc(radius: float) -> np.ndarray:
    """Offsets (K, 2) int64, (down, right), of all pixels at most ``radius`` pixels away.

    The nearest come first; the centre is one of them.
    """
    reach = math.floor(radius + 1e-9)
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    squares = down**2 + right**2
    # 0.0075 of a diagonal of 800 is 6, whichever way that is rounded.
    inside = squares <= (radius + 1e-9) ** 2
    order = np.argsort(squares[inside], kind="stable")
    return np.stack((down[inside], right[inside]), axis=1)[order]


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

    ``mate`` (S,) int32 and ``goal`` (S,) uint8 are of the other side than ``waiting`` (P,) int32.
    Returns how many of ``waiting`` had no path.
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


@numba.njit(nogil=True, cache=True)
def count_levels(levels, truth, offsets, wide, stride, deletable, steps):  # type: ignore[no-untyped-def]
    """Counts of one image at each of ``steps`` thresholds, of flattened maps with a margin.

    Args:
        levels: (S,) int32, how many thresholds each pixel's strength reaches.
        truth: (S,) uint8.
        offsets, wide: (K,) int32, of candidates and of the tolerance of clDice.
        stride, deletable: see ``thin_pixels``.

    Returns:
        (4, steps) int64: the arrays of ``EdgeCounts`` in their order.
    """
    counts = np.zeros((4, steps), np.int64)
    near, widened = spread(truth, offsets), spread(truth, wide)
    occurs = np.zeros(steps + 1, np.bool_)
    for level in levels:
        occurs[level] = True
    truth_pixels = np.flatnonzero(truth).astype(np.int32)
    for p in truth_pixels:
        highest = 0
        for offset in wide:
            highest = max(highest, levels[p + offset])
        counts[3, :highest] += 1
    on = np.empty(len(levels), np.uint8)
    pixels = np.empty(len(levels), np.int32)
    for k in range(steps - 1, -1, -1):
        if not occurs[k + 1]:  # no pixel more than at the threshold above
            if k + 1 < steps:
                counts[:3, k] = counts[:3, k + 1]
            continue
        count = 0
        for p in range(len(levels)):
            on[p] = levels[p] > k
            if on[p]:
                pixels[count] = p
                count += 1
        skeleton = thin_pixels(on, pixels[:count], stride, deletable)
        counts[0, k] = count_pairs(skeleton, on, truth_pixels, truth, near, offsets)
        counts[1, k] = len(skeleton)
        for p in skeleton:
            counts[2, k] += widened[p]
    return counts
