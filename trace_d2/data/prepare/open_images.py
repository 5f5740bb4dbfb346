"""Boxes of OpenImages, a line of a CSV each."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from trace_d2.data.prepare.boxes import Box, BoxedImage, numbers, text_lines, write_boxes
from trace_d2.io.json_files import shown
from trace_d2.io.paths import relative_name

logger = logging.getLogger(__name__)

_SIDES = ("XMin", "YMin", "XMax", "YMax")  # shares of the image's sides
_AGAIN = "download validation-annotations-bbox.csv again"


def prepare_open_images(
    table: str | Path, folder: str | Path, output: str | Path, progress: bool = True
) -> tuple[int, int]:
    """Write the boxes of OpenImages as one class, ``output``.

    A box that several classes have is one object. Boxes around groups are written as ``iscrowd``:
    predictions within count neither way, as by OpenImages' own rule. Images without a line of the
    table are left out. Returns how many images and boxes were written.

    Args:
        table: ``validation-annotations-bbox.csv``.
        folder: of the images, ``<ImageID>.jpg``.

    Raises:
        ValueError, FileNotFoundError: as ``write_boxes``; the table is missing or broken.
    """
    path = Path(table)
    lines = text_lines(path)
    _, head = next(lines, ("", ""))
    columns = _cells(head, f"{path}, line 1")
    lacking = [name for name in ("ImageID", *_SIDES, "IsGroupOf") if name not in columns]
    if lacking:
        raise ValueError(f"{path} has no column {', '.join(lacking)}: {_AGAIN}")
    boxes: dict[str, dict[tuple[float, ...], Box]] = {}
    unknown: list[str] = []
    for where, line in lines:
        cells = _cells(line, where)
        if len(cells) != len(columns):
            raise ValueError(f"{where} has {len(cells)} columns, its head {len(columns)}: {_AGAIN}")
        row = dict(zip(columns, cells, strict=True))
        if row["IsGroupOf"] == "-1":  # unknown, as in lines that no person has looked at
            unknown.append(where)
        elif row["IsGroupOf"] not in ("0", "1"):
            raise ValueError(
                f"{where}: IsGroupOf is {shown(row['IsGroupOf'])}, neither 0 nor 1 nor -1: {_AGAIN}"
            )
        corners = numbers([row[side] for side in _SIDES], where)
        box = Box(corners, where, ignored=row["IsGroupOf"] == "1", relative=True)
        own = boxes.setdefault(_image_id(row["ImageID"], where), {})
        if own.setdefault(corners, box).ignored:
            own[corners] = box  # an object of one class, if a group of another
    images = [BoxedImage(f"{key}.jpg", list(own.values())) for key, own in sorted(boxes.items())]
    if not images:
        raise ValueError(f"{path} has no boxes: {_AGAIN}")
    if unknown:
        logger.warning(
            "%d boxes may be around groups (IsGroupOf is -1, unknown): taken to be of one object; "
            "first: %s",
            len(unknown), unknown[0],
        )  # fmt: skip
    description = "boxes of OpenImages as one class, converted by trace_d2"
    return write_boxes(output, folder, images, description, progress)


def _cells(line: str, where: str) -> list[str]:
    """The columns of a line of a CSV."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error as error:
        raise ValueError(f"{where} is no line of a table ({error}): {_AGAIN}") from error


def _image_id(text: str, where: str) -> str:
    """The name of an image of the folder, without ending."""
    try:
        return relative_name(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}: {_AGAIN}") from error
