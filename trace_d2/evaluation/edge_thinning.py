"""Thinning of binary maps to lines one pixel wide: what bwmorph's and scikit-image's "thin" do."""

from __future__ import annotations

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

    Raises:
        ValueError: ``mask`` is not (H, W).
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask to thin is (H, W), not {mask.shape}")
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

    Returns:
        (Q,) int32.
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
