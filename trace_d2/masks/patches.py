"""Masks of an image, each kept as its box and what lies in it: few bytes in a large image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

Box = tuple[slice, slice]


@dataclass(frozen=True)
class Patch:
    """One mask.

    Attributes:
        box: rows and columns of the tight box.
        mask: bool (h, w), what lies in it; not empty.
    """

    box: Box
    mask: np.ndarray

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.mask))

    def cut_out(self, box: Box) -> np.ndarray:
        """What of the mask lies in ``box``: bool of its size."""
        found = np.zeros((box[0].stop - box[0].start, box[1].stop - box[1].start), bool)
        shared = common(self.box, box)
        if shared is not None:
            found[relative(shared, box)] = self.mask[relative(shared, self.box)]
        return found


def patch_of(mask: np.ndarray) -> Patch | None:
    """The patch of ``mask``, bool (H, W); None if it is empty."""
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    box = slice(top, top + height), slice(left, left + width)
    return Patch(box, mask[box]) if width else None


def patches_of_regions(numbers: np.ndarray) -> dict[int, Patch]:
    """A patch for each number above 0 of a map, integer (H, W), by rising number."""
    boxes = ndimage.find_objects(numbers)
    return {
        number: Patch(box, numbers[box] == number)
        for number, box in enumerate(boxes, start=1)
        if box is not None
    }


def common(one: Box, other: Box) -> Box | None:
    """What two boxes share; None if that is nothing."""
    rows, columns = (
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def relative(box: Box, origin: Box) -> Box:
    """``box`` as seen from the corner of ``origin``."""
    rows, columns = (
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, origin, strict=True)
    )
    return rows, columns


def moved(box: Box, origin: Box) -> Box:
    """A box that is seen from the corner of ``origin``, as seen from the image's."""
    rows, columns = (
        slice(a.start + b.start, a.stop + b.start) for a, b in zip(box, origin, strict=True)
    )
    return rows, columns


def grown(box: Box, margins: Sequence[int], shape: Sequence[int]) -> Box:
    """``box`` with so many more rows and columns on each side, within an image of ``shape``."""
    rows, columns = (
        slice(max(0, side.start - margin), min(size, side.stop + margin))
        for side, margin, size in zip(box, margins, shape, strict=True)
    )
    return rows, columns


def iou(one: Patch, other: Patch) -> float:
    """Intersection over union of two masks, in 0..1."""
    shared = common(one.box, other.box)
    if shared is None:
        return 0.0
    both = one.mask[relative(shared, one.box)] & other.mask[relative(shared, other.box)]
    inside = int(np.count_nonzero(both))
    return inside / (one.area + other.area - inside)
