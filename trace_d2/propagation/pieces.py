"""Pieces of a thing class too small to stand for an object."""

from __future__ import annotations

import cv2
import numpy as np

TINY_PIECES = ("join", "void", "keep")
"""What may become of tiny pieces: join the nearest segment of the class, void, nothing."""


def settle_tiny_pieces(
    regions: np.ndarray, tiny_area: float, tiny_share: float, policy: str
) -> np.ndarray:
    """Join tiny regions of one class to the nearest other, or drop them.

    A region is tiny below ``tiny_area`` pixels or below ``tiny_share`` of the largest region of
    the class; the largest itself never is. Tiny pieces are mostly slivers that an edge left over
    and parts of an object that another one covers.

    Args:
        regions: int32 (H, W) labels 1..R of the regions of one class, 0 outside.
        tiny_area: pixels.
        tiny_share: of the area of the largest region, 0..1.
        policy: one of ``TINY_PIECES``. With ``void``, tiny regions that touch a larger one of the
            class still join it: nothing says that they are something else.

    Returns:
        int32 (H, W): labels 1, 2, ... and 0.
    """
    area = np.bincount(regions.ravel())
    area[0] = 0
    largest = area.max(initial=0)
    tiny = area < min(largest, max(tiny_area, tiny_share * largest))
    tiny[0] = False
    if policy == "keep" or not tiny.any():
        return regions
    becomes = np.where(tiny, 0, np.cumsum(~tiny) - 1).astype(np.int32)
    settled = becomes[regions]
    piece = np.nonzero(tiny[regions])
    gap, nearest = _nearest_segment(settled, piece)
    label = regions[piece]
    # The nearest pixel of a piece decides for all of it, the first in reading order among equals.
    order = np.lexsort((gap, label))
    first = order[np.unique(label[order], return_index=True)[1]]
    target = nearest[first]
    if policy == "void":
        target = np.where(gap[first] <= 1, target, 0)
    becomes[label[first]] = target
    settled[piece] = becomes[label]
    return settled


def _nearest_segment(
    labels: np.ndarray, where: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance in pixels to the nearest label that is not 0, and that label, at some pixels."""
    empty = (labels == 0).view(np.uint8)
    distance, source = cv2.distanceTransformWithLabels(
        empty, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    inside = labels > 0
    table = np.zeros(int(source.max()) + 1, np.int32)
    table[source[inside]] = labels[inside]
    return distance[where], table[source[where]]
