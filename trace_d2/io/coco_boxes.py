"""Whether the annotations of a COCO file lie in their images, each of them once.

No annotation is wrong by itself here: boxes of amodal truth and of detectors reach beyond images,
and two objects may be of one place. So most is told by a warning that counts it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .json_files import shown

logger = logging.getLogger(__name__)

_SLACK = 1.0  # pixels by which rounding puts a box beyond its image
_ROUNDING = 1e-6
_SURE = 10  # boxes far beyond their images that are no chance
_FAR = 0.1  # of the sides of an image


def check_places(
    rows: Sequence[Mapping[str, Any]],
    images: Mapping[Any, Mapping[str, Any]],
    name: str,
    boxes: bool = True,
) -> None:
    """Warn of boxes and polygons that reach beyond their images.

    Args:
        rows: annotations ``{image_id, segmentation and/or bbox}`` of ``images``.
        images: by id, with ``height`` and ``width`` in pixels.
        name: the file, for messages.
        boxes: look at boxes, and at polygons of what has none; else at polygons alone.

    Raises:
        ValueError: most boxes without masks do by far, and all would lie inside if they were two
            corners; or all of a file without masks are shares of the image.
    """
    placed = [(row, box) for row in rows if (box := _box(row, boxes)) is not None]
    if not placed:
        return
    sizes = [images[row["image_id"]] for row, _ in placed]
    limits = np.array([(size["width"], size["height"]) for size in sizes], np.float64)
    corners, sides = np.split(np.array([box for _, box in placed], np.float64), 2, axis=1)
    alone = np.array(["segmentation" not in row for row, _ in placed])  # no mask says where it is
    if boxes:
        if alone.all():
            _check_pixels(corners, sides, name)
        _check_sides(corners[alone], sides[alone], limits[alone], name)
    beyond = ((corners < -_SLACK) | (corners + sides > limits + _SLACK)).any(1)
    count = int(beyond.sum())
    if count:
        first = int(beyond.argmax())
        (row, box), size = placed[first], sizes[first]
        logger.warning(
            "%s: %d of %d boxes or polygons reach beyond their images: are they of these images, "
            "in pixels, boxes as [x, y, width, height]? First: %s in image %s of %d x %d",
            name, count, len(placed), [round(float(side), 2) for side in box],
            shown(row["image_id"]), size["width"], size["height"],
        )  # fmt: skip


def _check_pixels(corners: np.ndarray, sides: np.ndarray, name: str) -> None:
    """Raise a ValueError if boxes of ``corners`` and ``sides`` (N, 2) are shares of the image."""
    ends = corners + sides
    if corners.min() >= 0 and ends.max() <= 1 + _ROUNDING and (ends % 1).any():
        raise ValueError(
            f"{name}: all boxes lie within 0..1 and look normalised; multiply x and width by the "
            "width of the image and y and height by its height, as COCO has pixels"
        )


def _check_sides(corners: np.ndarray, sides: np.ndarray, limits: np.ndarray, name: str) -> None:
    """Raise a ValueError if ``sides`` (N, 2) are corners as well, in images of ``limits`` (N, 2).

    Of corners about two thirds reach far beyond as sides. Boxes of detectors and amodal truth do so
    by little, or seldom, or on the left and above, too.
    """
    far = int((corners + sides > limits * (1 + _FAR)).any(1).sum())
    inside = (corners >= -_SLACK) & (sides > corners) & (sides <= limits + _SLACK)
    if far >= max(_SURE, len(corners) / 2) and inside.all():
        raise ValueError(
            f"{name}: {far} of {len(corners)} boxes reach far beyond their images, and all lie "
            "inside if read as [x1, y1, x2, y2]: write [x, y, width, height], as COCO has them"
        )


def warn_of_repeats(rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Warn of annotations that have image, mask, box and score of an earlier one."""
    first: dict[Any, Mapping[str, Any]] = {}
    repeated = []
    for row in rows:
        place = tuple(row["bbox"]) if "bbox" in row else repr(row["segmentation"])
        earlier = first.setdefault((row["image_id"], place, row.get("score")), row)
        if earlier is not row and earlier.get("segmentation") == row.get("segmentation"):
            repeated.append(row)
    if repeated:
        logger.warning(
            "%s: %d annotations are there twice or more, and each of them counts; first: in image "
            "%s",
            name, len(repeated), shown(repeated[0]["image_id"]),
        )  # fmt: skip


def _box(row: Mapping[str, Any], boxes: bool) -> Sequence[float] | None:
    """Left, top, width and height of ``row``; None of RLE alone, which is of its image's size."""
    if boxes and "bbox" in row:
        box: Sequence[float] = row["bbox"]
        return box
    polygons = row.get("segmentation")
    if not isinstance(polygons, list):
        return None
    x = [place for polygon in polygons for place in polygon[::2]]
    y = [place for polygon in polygons for place in polygon[1::2]]
    return min(x), min(y), max(x) - min(x), max(y) - min(y)
