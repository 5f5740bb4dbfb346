"""What a promptable network is asked by, for a mask that is there already: box and points.

The paper takes masks after BGP "as seeds for SAM" (section 1) and leaves their form open. Here a
seed is the tight box of the mask, points in its depth, and points in the depth of the masks that
touch it, which are to be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .patches import Box, Patch, common, grown, relative

_LEAST_DEPTH = 0.5  # of the depth of the deepest point: there may be no object in thin limbs
_AROUND = 0.5  # of the box's height and width, on each side: where neighbours get their points


@dataclass(frozen=True)
class Seed:
    """What is asked of one object. Coordinates count from the centre of the first pixel.

    Attributes:
        box: (4,) float32 x, y of the first and x, y of the last pixel of the tight box.
        points: (P, 2) float32 x, y; those inside come first.
        inside: (P,) bool, whether a point is of the object.
    """

    box: np.ndarray
    points: np.ndarray
    inside: np.ndarray


def make_seeds(
    masks: Sequence[Patch],
    shape: tuple[int, int],
    points: int = 3,
    negatives: int = 2,
    wanted: Sequence[int] | None = None,
) -> list[Seed]:
    """A seed for each of the masks of one image, which may overlap, or for those ``wanted``.

    Args:
        masks: of the image.
        shape: (H, W) of the image.
        points: inside a mask at most; there is always one.
        negatives: outside at most: one in each of the masks that touch most of the outline.
        wanted: ranks of masks.
    """
    corners = np.array([(*_ends(mask.box[0]), *_ends(mask.box[1])) for mask in masks])
    seeds = []
    for rank in range(len(masks)) if wanted is None else wanted:
        own = masks[rank]
        around = grown(own.box, (1, 1), shape)
        (top, bottom), (left, right) = map(_ends, around)
        meets = (corners[:, 0] < bottom) & (corners[:, 1] > top)
        meets &= (corners[:, 2] < right) & (corners[:, 3] > left)
        near = [masks[other] for other in np.flatnonzero(meets).tolist() if other != rank]
        seeds.append(_seed(own, _touching(own, near, around), shape, points, negatives))
    return seeds


def interior_points(mask: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Row and column of the deepest pixels of ``mask``, bool (h, w), at most ``count``.

    Depth is the distance to the nearest pixel outside; beyond the array all is outside. Each point
    is the deepest one whose disc, of its depth, meets no disc of a point before, and is at least
    half as deep as the first. Equal depths are taken in reading order. Nothing of an empty mask.
    """
    padded = np.pad(mask.view(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1].copy()
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    found: list[tuple[int, int]] = []
    least = 0.0
    while len(found) < count:
        row, column = (int(i) for i in np.unravel_index(int(depth.argmax()), depth.shape))
        own = float(depth[row, column])
        if own <= 0 or own < least:
            break
        found.append((row, column))
        least = least or _LEAST_DEPTH * own
        meets = (rows - row) ** 2 + (columns - column) ** 2 < (depth + own) ** 2
        depth[meets] = 0
    return found


def _ends(side: slice) -> tuple[int, int]:
    return side.start, side.stop


def _seed(
    own: Patch, touching: Sequence[Patch], shape: tuple[int, int], points: int, negatives: int
) -> Seed:
    rows, columns = own.box
    inside = [(row + rows.start, x + columns.start) for row, x in interior_points(own.mask, points)]
    outside: list[tuple[int, int]] = []
    for neighbour in touching:
        if len(outside) == negatives:
            break
        outside += _point_beside(own, neighbour, shape)
    places = np.array([*inside, *outside], np.float32)
    return Seed(
        np.array([columns.start, rows.start, columns.stop - 1, rows.stop - 1], np.float32),
        places[:, ::-1].copy(),
        np.arange(len(places)) < len(inside),
    )


def _touching(own: Patch, others: Sequence[Patch], around: Box) -> list[Patch]:
    """The masks on the outer outline of one, those that hold most of it first.

    Args:
        own: the one.
        others: that may touch it.
        around: its box with a margin of one pixel, within the image.
    """
    mask = own.cut_out(around).view(np.uint8)
    outline = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))) > mask
    held = []
    for rank, patch in enumerate(others):
        shared = common(patch.box, around)
        if shared is not None:
            facing = patch.mask[relative(shared, patch.box)] & outline[relative(shared, around)]
            if count := int(np.count_nonzero(facing)):
                held.append((-count, rank))
    return [others[rank] for _, rank in sorted(held)]


def _point_beside(own: Patch, neighbour: Patch, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """The deepest pixel of a neighbour near ``own`` and outside it, if there is one."""
    height, width = own.mask.shape
    window: Box = grown(own.box, (int(_AROUND * height) + 1, int(_AROUND * width) + 1), shape)
    free = neighbour.cut_out(window) & ~own.cut_out(window)
    rows, columns = window
    return [(row + rows.start, x + columns.start) for row, x in interior_points(free, 1)]
