"""YOLO-seg: a text file an image, a line an object, as Ultralytics' programs read it.

A line is ``class x y x y ...``: the rank of the class, and one closed outline in shares of the
image's width and height. Those programs cut coordinates to whole pixels, draw the outline and fill
it by the even-odd rule (``cv2.fillPoly``). So the outline runs through the middles of the pixels at
the rim, and comes back as the same mask. One outline is all that a line has:

- holes are reached by a cut through the mask, which changes no pixel;
- parts that do not touch are joined by a line one pixel thin between their nearest pixels, as
  Ultralytics' converter of COCO joins them. Those pixels are added to the mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import cv2
import numpy as np
import yaml

from trace_d2.io.exports.shapes import Shape
from trace_d2.io.json_files import shown

IMAGE_ENDINGS = (
    ".avif", ".bmp", ".dng", ".heic", ".jp2", ".jpeg", ".jpg", ".mpo", ".pfm", ".png", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
"""Those of the images that Ultralytics' programs look at."""

_DIGITS = 6  # of a share; a pixel of a million is told from the next
_NUDGE = 0.25  # of a pixel: within it


def yolo_lines(
    shapes: Sequence[Shape], classes: Mapping[int, int], height: int, width: int
) -> tuple[list[str], Counter[str]]:
    """The lines of an image.

    Args:
        shapes: in any order; crowd regions are left out by the caller.
        classes: the rank of each category id.
        height, width: of the image in pixels.

    Returns:
        a line a shape, and what is lost: ``bridged`` shapes whose parts had to be joined, ``added``
        pixels by that, ``twins``: lines of a class and box that another line has, one of which
        Ultralytics' programs drop.
    """
    lines, lost = [], Counter[str]()
    boxes: set[tuple[int, ...]] = set()
    for shape in shapes:
        points = outline(shape.mask)
        added = int(np.count_nonzero(_filled(points, shape.mask.shape) != shape.mask))
        lost["bridged"] += added > 0
        lost["added"] += added
        box = (shape.category_id, shape.left, shape.top, *shape.mask.shape)
        lost["twins"] += box in boxes
        boxes.add(box)
        places = _middles(points) + np.array((shape.left, shape.top))
        shares = places / (width, height)
        numbers = [f"{share:.{_DIGITS}f}" for share in shares.ravel().tolist()]
        lines.append(" ".join((str(classes[shape.category_id]), *numbers)))
    return lines, lost


def data_yaml(names: Sequence[str], validated: bool) -> str:
    """The file that names the data set, beside ``train.txt`` and ``val.txt``."""
    val = "val: val.txt\n" if validated else "val: train.txt  # no image is kept apart to look at\n"
    listed = yaml.safe_dump(
        {"names": dict(enumerate(names))}, allow_unicode=True, sort_keys=False, width=1000
    )
    return f"# places are relative to this file\ntrain: train.txt\n{val}{listed}"


def check_image_name(name: str) -> None:
    """Raise a ValueError if Ultralytics' programs would not find the labels of this image.

    Args:
        name: its path below ``images/``.
    """
    path = PurePosixPath(name)
    if len(name.splitlines()) > 1:
        raise ValueError(
            f"{shown(name)} has a line break, and YOLO's lists have a name a line: rename it"
        )
    if "images" in path.parts[:-1]:
        raise ValueError(
            f"{shown(name)} lies in a sub-folder that is called images: YOLO looks for labels by "
            "the last folder of that name in the path; rename that folder"
        )
    if path.suffix.lower() not in IMAGE_ENDINGS:
        raise ValueError(
            f"{shown(name)} is of a kind that YOLO does not read: convert it, to PNG or JPEG say"
        )


def outline(mask: np.ndarray) -> np.ndarray:
    """One closed outline of all parts and holes of a mask.

    Args:
        mask: bool (h, w) with a pixel or more.

    Returns:
        int32 (N, 2): x and y of pixels at the rim, each the next one's neighbour in a straight
        line; ways to holes and other parts are gone to and fro.
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [ring[:, 0].astype(np.int32) for ring in found]
    return _without_straights(rings[0] if len(rings) == 1 else _joined(rings))


def _joined(rings: list[np.ndarray]) -> np.ndarray:
    """One closed way along all ``rings`` (N, 2), by the shortest ways between them.

    Each ring in turn is the one that is nearest to those that are joined already, so that the way
    to it crosses none of the others.
    """
    from scipy.spatial import cKDTree  # here, as few masks need it

    points = np.concatenate(rings)
    first = np.concatenate(([0], np.cumsum([len(ring) for ring in rings])))
    low, high = (np.array([edge(ring, 0) for ring in rings]) for edge in (np.min, np.max))
    distances = np.full(len(rings), np.inf)  # of each ring from those that are joined
    ways = np.zeros((len(rings), 2), np.int64)  # points there and here, by their numbers
    follower = np.arange(1, len(points) + 2 * len(rings) - 1)  # of each point, then of copies
    follower[first[1:] - 1] = first[:-1]
    copied: list[int] = []
    waiting = np.ones(len(rings), bool)
    ring = 0
    while True:
        waiting[ring] = False
        if not waiting.any():
            return points[_in_order(follower, copied, len(points))]
        gap = np.maximum(np.maximum(low - high[ring], low[ring] - high), 0)
        tree = cKDTree(rings[ring])
        for other in np.flatnonzero(waiting & (np.hypot(*gap.T) < distances)):
            near, which = tree.query(rings[other])
            own = int(np.argmin(near))
            if near[own] < distances[other]:
                distances[other] = near[own]
                ways[other] = which[own] + first[ring], own + first[other]
        ring = int(np.argmin(np.where(waiting, distances, np.inf)))
        there, here = ways[ring].tolist()
        before = here - 1 if here > first[ring] else int(first[ring + 1]) - 1
        back = len(points) + len(copied)  # of the two copies, which lead back
        copied += [here, there]
        follower[before], follower[back], follower[back + 1] = back, back + 1, follower[there]
        follower[there] = here


def _in_order(follower: np.ndarray, copied: list[int], count: int) -> np.ndarray:
    """The numbers of points as they follow each other from the first, copies as what they copy."""
    following, place, order = follower.tolist(), 0, []
    for _ in range(count + len(copied)):
        order.append(place)
        place = following[place]
    return np.concatenate((np.arange(count), np.array(copied, np.int64)))[order]


def _without_straights(points: np.ndarray) -> np.ndarray:
    """A closed way without the points at which it goes straight on."""
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    onward = (before * after).sum(1) > 0
    return points[(turn != 0) | ~onward]


def _middles(points: np.ndarray) -> np.ndarray:
    """Places float64 (N, 2) in pixels, three or more, whose whole parts draw what ``points`` do."""
    if len(points) > 2:
        return points + 0.5
    nudges = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * _NUDGE
    return points[[0, -1, -1, 0]] + 0.5 + nudges


def _filled(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask bool (h, w) that readers make of an outline."""
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [points], 1)
    return canvas.view(bool)
