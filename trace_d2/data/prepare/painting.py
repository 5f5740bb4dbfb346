"""Masks that a JSON file has of its images, painted over one another as maps of classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trace_d2.data.prepare.one_class import SEE
from trace_d2.io.atomic import write_png
from trace_d2.io.json_files import (
    FieldError,
    checked,
    file_name,
    json_object,
    paused_collector,
    read_json,
    record_id,
    shown,
    side,
    whole_number,
)
from trace_d2.io.limits import check_size
from trace_d2.io.mask_rle import check_segmentation, decode_segmentation
from trace_d2.io.paths import image_stem

Masks = dict[Any, list[tuple[int, Any]]]
"""By image id: the class, by its rank, and the RLE or polygons of each annotation."""


class Painting(NamedTuple):
    """What is painted of an image.

    Attributes:
        where: the file and the place of the image in it, for messages.
        key: its id.
        stem: its path without ending.
        size: (H, W) in pixels.
        masks: as in ``Masks``, the lowest first.
    """

    where: str
    key: Any
    stem: str
    size: tuple[int, int]
    masks: Sequence[tuple[int, Any]]


@paused_collector()
def read_lists(path: Path, what: str, *keys: str) -> list[list[dict[str, Any]]]:
    """The lists ``keys`` of the objects of a JSON file, which has annotations of ``what``."""
    content = read_json(path, f"annotations of {what}", SEE)
    content = content if isinstance(content, dict) else {}
    if not all(isinstance(content.get(key), list) for key in keys):
        raise ValueError(f"{path} has no {' and '.join(keys)}: download it again")
    for key in keys:
        for place, row in enumerate(content[key]):
            try:
                json_object(row)
            except FieldError as error:
                raise ValueError(f'{path}: no. {place} of "{key}" {error}: correct it') from error
    return [content[key] for key in keys]


def masks_by_image(
    path: Path, annotations: Sequence[Mapping[str, Any]], ranks: Mapping[int, int]
) -> Masks:
    """The masks of ``annotations`` of a file, in their order.

    Args:
        ranks: of the ids of categories.
    """
    masks: Masks = defaultdict(list)
    for number, row in enumerate(annotations):
        where = f"{path}: annotation {shown(row.get('id', number))}"
        identity = checked(row, "category_id", whole_number, where)
        if identity not in ranks:
            raise ValueError(f"{where} has the category {identity}, none of the data set's")
        key = checked({"image_id": row.get("image_id")}, "image_id", record_id, where)
        masks[key].append((ranks[identity], row.get("segmentation")))
    return masks


def paintings(
    path: Path, images: Sequence[Mapping[str, Any]], id_key: str, masks: Masks
) -> list[Painting]:
    """What is painted of each of the ``images`` of a file.

    Args:
        id_key: what their entries call their ids.

    Raises:
        ValueError: one has no id, size or name, or two have one id, or would be one map.
    """
    found, keys, stems = list[Painting](), dict[Any, str](), dict[str, str]()
    for place, row in enumerate(images):
        where = f"{path}: image {place}"
        fields = {key: row.get(key) for key in (id_key, "height", "width", "file_name")}
        key = checked(fields, id_key, record_id, where)
        height, width = (checked(fields, name, side, where) for name in ("height", "width"))
        check_size(width, height, where)
        stem = image_stem(checked(fields, "file_name", file_name, where))
        if keys.setdefault(key, where) != where or stems.setdefault(stem, where) != where:
            raise ValueError(
                f"{where} ({shown(stem)}) has the id or the name of another image in the file: "
                "download it again"
            )
        found.append(Painting(f"{where} ({stem})", key, stem, (height, width), masks.get(key, [])))
    return found


def paint(task: tuple[Painting, Path]) -> None:
    """Write the masks of an image over one another, on background."""
    image, target = task
    classes = np.zeros(image.size, np.uint8)
    for rank, segmentation in image.masks:
        try:
            check_segmentation(segmentation)
            classes[decode_segmentation(segmentation, *image.size)] = rank
        except ValueError as error:
            raise ValueError(f"{image.where}: a mask of it is wrong: {error}") from error
    write_png(target, classes)
