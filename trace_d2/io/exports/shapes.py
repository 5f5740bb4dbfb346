"""What is exported of one image: shapes, each of one category, that may overlap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trace_d2.io.json_files import FieldError, number
from trace_d2.io.panoptic_fields import VOID
from trace_d2.io.regions import region_statistics


@dataclass(frozen=True)
class Shape:
    """One object, or all of the stuff of one class.

    Attributes:
        category_id: the id of its category.
        left, top: where ``mask`` lies in the image, in pixels.
        mask: bool (h, w), no larger than it has to be.
        score: its confidence; None if it has none.
        crowd: whether it is a region of several objects.
    """

    category_id: int
    left: int
    top: int
    mask: np.ndarray
    score: float | None = None
    crowd: bool = False

    @property
    def area(self) -> int:
        """Its pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of ``mask`` in the image."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def shape_of(mask: np.ndarray, category_id: int, score: float | None = None) -> Shape | None:
    """The shape of a mask bool (H, W) of the whole image; None if it has no pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    cut = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    return Shape(category_id, left, top, np.ascontiguousarray(cut), score)


def panoptic_shapes(segment_ids: np.ndarray, segments: Iterable[Mapping[str, Any]]) -> list[Shape]:
    """The shapes of a panoptic label; listed segments without a pixel are left out.

    Args:
        segment_ids: (H, W) integers, 0 = void.
        segments: ``{id, category_id, iscrowd, score (where known)}`` each.
    """
    ids, _, boxes = region_statistics(segment_ids)
    places = dict(zip(ids.tolist(), boxes.tolist(), strict=True))
    shapes = []
    for segment in segments:
        if segment["id"] == VOID or segment["id"] not in places:
            continue
        left, top, width, height = places[segment["id"]]
        mask = segment_ids[top : top + height, left : left + width] == segment["id"]
        crowd = bool(segment.get("iscrowd"))
        shapes.append(
            Shape(segment["category_id"], left, top, mask, _score(segment.get("score")), crowd)
        )
    return shapes


def painting_order(shapes: Sequence[Shape], things: frozenset[int]) -> list[Shape]:
    """From what is painted first to what lies on top of it.

    Stuff lies below crowd regions, these below things; of two things the one of the higher score is
    on top, and of the same score the smaller one.

    Args:
        things: ids of the categories that are things.
    """

    def rank(shape: Shape) -> tuple[bool, bool, float, int]:
        score = shape.score if shape.score is not None else 0.0
        return shape.category_id in things, not shape.crowd, score, -shape.area

    return sorted(shapes, key=rank)


def _score(value: Any) -> float | None:
    try:
        return number(value)
    except FieldError:
        return None
