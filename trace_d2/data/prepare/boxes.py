"""Boxes that people drew, as COCO instances of one class without masks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from trace_d2.complaints import MANY, Complaints
from trace_d2.data.dataset_files import keep_present
from trace_d2.data.prepare.image_sizes import AS_STORED, tolerate_faults
from trace_d2.data.prepare.one_class import (
    ONE_CLASS,
    SLACK,
    cut_box,
    tolerate_empty,
    write_one_class,
)  # fmt: skip
from trace_d2.io.coco_panoptic import image_entry
from trace_d2.io.json_files import number
from trace_d2.io.listing import ids_of_stems
from trace_d2.io.paths import name_keys
from trace_d2.io.photographs import opened_image

logger = logging.getLogger(__name__)


class Box(NamedTuple):
    """A box of an annotation file.

    Attributes:
        corners: left, top, right and bottom in pixels from the image's corner, right and bottom
            beyond the last pixel; as shares of its sides where ``relative``.
        where: the file and the line of it, for messages.
        ignored: found or not, it counts neither way (COCO's ``iscrowd``).
        relative: see ``corners``.
        drawn_on: width and height of the image that it was drawn on, where that is told.
    """

    corners: tuple[float, float, float, float]
    where: str
    ignored: bool = False
    relative: bool = False
    drawn_on: tuple[int, int] | None = None


class _Told(NamedTuple):
    """Where boxes are that reach beyond their image, that were drawn at another size, and whose
    images EXIF turns; what is wrong with those that have no pixel; images drawn on as stored."""

    cut: list[str]
    resized: list[str]
    turned: list[str]
    empty: list[str]
    stored: list[tuple[str, str]]


class _Size(NamedTuple):
    """Width and height of an image in pixels as it is seen, and as it is stored."""

    seen: tuple[int, int]
    stored: tuple[int, int]
    is_turned: bool


class BoxedImage(NamedTuple):
    """An image, its path below the folder of images, and what is read of its boxes when asked."""

    file_name: str
    boxes: Iterable[Box]


def write_boxes(
    output: str | Path,
    folder: str | Path,
    images: Sequence[BoxedImage],
    description: str,
    progress: bool = True,
) -> tuple[int, int]:
    """Write the boxes of ``images`` below ``folder`` as a COCO file of one class, ``output``.

    Boxes are cut at the border of their image, whose size is the image file's own, as it is seen.
    Left out and told are boxes without a pixel of it, and images whose boxes were drawn on what is
    stored where EXIF turns it, if they are fewer than 1 %. Ids of images are their names if all are
    numbers, else ranks. Returns how many images and boxes were written.

    Raises:
        ValueError: boxes that are no numbers, images that cannot be read, or 1 % or more that would
            be left out; up to ten of them, with file and line.
        FileNotFoundError: 1 % of the images or more are missing; of fewer it is told.
    """
    records = [{"file_name": f"{folder}/{image.file_name}", "image": image} for image in images]
    kept = keep_present(records, "file_name", "images", "unpack them there")
    present: list[BoxedImage] = [record["image"] for record in kept]
    ids = ids_of_stems([name_keys(image.file_name)[1] for image in present])
    wrong, told = Complaints(), _Told([], [], [], [], [])
    entries, rows = [], []
    for image in tqdm(present, unit="image", disable=not progress):
        image_id = ids[name_keys(image.file_name)[1]]
        path = Path(folder) / image.file_name
        size = wrong.of(_size, path)
        boxes = None if size is None else wrong.of(_rows, image, image_id, size, told)
        if size is not None and boxes is not None:
            width, height = size.seen
            entries.append(image_entry(image_id, image.file_name, height, width))
            rows += boxes
        if len(wrong.lines) >= MANY:
            wrong.say(f"and maybe more: {MANY} are enough")
            break
    wrong.end()
    wrong.of(tolerate_faults, told.stored, len(present))
    wrong.of(tolerate_empty, told.empty, len(told.empty) + len(rows), str(output))
    wrong.end()
    for places, what in (
        (told.cut, "reach beyond it: cut"),
        (told.resized, "were drawn at another size"),
        (told.turned, "are of such as EXIF turns: taken to be drawn on what is seen"),
    ):
        if places:
            logger.warning("%d boxes of images %s; first: %s", len(places), what, places[0])
    return write_one_class(output, entries, rows, description)


def _size(path: Path) -> _Size:
    with opened_image(path) as opened:
        return _Size(opened.seen_size(), opened.size, opened.orientation() != 1)


def _rows(
    image: BoxedImage, image_id: int, size: _Size, told: _Told
) -> list[dict[str, object]] | None:
    """Annotations of one image; None where they were drawn on what is stored, not what is seen."""
    boxes = list(image.boxes)
    drawn = next((box for box in boxes if size.seen != size.stored == box.drawn_on), None)
    if drawn is not None:
        (width, height), (wide, high) = size.seen, size.stored
        fault = (
            f"{image.file_name} is {width}x{height} pixels ({wide}x{high} as stored, which EXIF "
            f"turns), but {drawn.where} was drawn on {wide}x{high}"
        )
        told.stored.append((fault, AS_STORED))
        return None
    told.turned.extend([image.file_name] * len(boxes) if size.is_turned else [])
    rows = [_row(box, image, image_id, size.seen, told) for box in boxes]
    return [row for row in rows if row is not None]


def _row(
    box: Box, image: BoxedImage, image_id: int, size: tuple[int, int], told: _Told
) -> dict[str, object] | None:
    """The annotation of a box, if it has a pixel."""
    width, height = size
    scales = (width, height) * 2 if box.relative else (1, 1, 1, 1)
    left, top, right, bottom = (c * s for c, s in zip(box.corners, scales, strict=True))
    found = cut_box(left, top, right, bottom, size)
    if found is None:
        told.empty.append(
            f"{box.where}: the box {left:g}, {top:g}, {right:g}, {bottom:g} (left, top, right, "
            f"bottom) has no pixel of {image.file_name}, which is {width}x{height}"
        )
        return None
    (x, y, end, below), beyond = found
    if beyond > SLACK:
        told.cut.append(box.where)
    if box.drawn_on not in (None, size):
        told.resized.append(box.where)
    wide, high = end - x, below - y
    return {
        "image_id": image_id,
        "category_id": ONE_CLASS[0].id,
        "iscrowd": int(box.ignored),
        "area": wide * high,
        "bbox": [x, y, wide, high],
    }


def numbers(texts: Sequence[str], where: str) -> tuple[float, float, float, float]:
    """Four numbers of a text file; raises a ValueError that begins with ``where``."""
    try:
        first, second, third, fourth = (number(float(text)) for text in texts)
    except ValueError as error:  # which FieldError is, too
        raise ValueError(
            f"{where}: {', '.join(texts)} are not the four numbers of a box: put the file there "
            "again"
        ) from error
    return first, second, third, fourth


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Place (file and line) and text of the lines of an annotation file that are not empty.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at {path}: unpack the data set again")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}): unpack the data set again") from error
    for rank, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{path}, line {rank}", line.strip()
