"""Boxes that people drew, as COCO instances of one class without masks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from trace_d2.complaints import MANY, Complaints
from trace_d2.data.dataset_files import keep_present
from trace_d2.data.prepare.one_class import ONE_CLASS, SLACK, cut_box, write_one_class
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
    images EXIF turns."""

    cut: list[str]
    resized: list[str]
    turned: list[str]


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
    Ids of images are their names if all are numbers, else ranks. Returns how many images and boxes
    were written.

    Raises:
        ValueError: boxes that are none or lie outside their image, images that cannot be read; up
            to ten of them, with file and line.
        FileNotFoundError: 1 % of the images or more are missing; of fewer it is told.
    """
    records = [{"file_name": f"{folder}/{image.file_name}", "image": image} for image in images]
    kept = keep_present(records, "file_name", "images", "unpack them there")
    present: list[BoxedImage] = [record["image"] for record in kept]
    ids = ids_of_stems([name_keys(image.file_name)[1] for image in present])
    wrong, told = Complaints(), _Told([], [], [])
    entries, rows = [], []
    for image in tqdm(present, unit="image", disable=not progress):
        image_id = ids[name_keys(image.file_name)[1]]
        found = wrong.of(_size, Path(folder) / image.file_name)
        if found is not None:
            size, is_turned = found
            entries.append(image_entry(image_id, image.file_name, size[1], size[0]))
            boxes = wrong.of(_rows, image, image_id, size, told) or []
            told.turned.extend([image.file_name] * len(boxes) if is_turned else [])
            rows += boxes
        if len(wrong.lines) >= MANY:
            wrong.say(f"and maybe more: {MANY} are enough")
            break
    wrong.end()
    for places, what in (
        (told.cut, "reach beyond it: cut"),
        (told.resized, "were drawn at another size"),
        (told.turned, "are of such as EXIF turns: taken to be drawn on what is seen"),
    ):
        if places:
            logger.warning("%d boxes of images %s; first: %s", len(places), what, places[0])
    return write_one_class(output, entries, rows, description)


def _size(path: Path) -> tuple[tuple[int, int], bool]:
    """Width and height of an image in pixels as it is seen, and whether EXIF turns it."""
    with opened_image(path) as opened:
        return opened.seen_size(), opened.orientation() != 1


def _rows(
    image: BoxedImage, image_id: int, size: tuple[int, int], told: _Told
) -> list[dict[str, object]]:
    """Annotations of one image."""
    return [_row(box, image, image_id, size, told) for box in image.boxes]


def _row(
    box: Box, image: BoxedImage, image_id: int, size: tuple[int, int], told: _Told
) -> dict[str, object]:
    width, height = size
    scales = (width, height) * 2 if box.relative else (1, 1, 1, 1)
    left, top, right, bottom = (c * s for c, s in zip(box.corners, scales, strict=True))
    found = cut_box(left, top, right, bottom, size)
    if found is None:
        raise ValueError(
            f"{box.where}: the box {left:g}, {top:g}, {right:g}, {bottom:g} (left, top, right, "
            f"bottom) has no pixel of {image.file_name}, which is {width}x{height}: correct it, or "
            "put image and annotations there again"
        )
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
