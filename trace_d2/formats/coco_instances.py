"""COCO instance files: truth or labels, and predictions; every fault is named."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_api

from .mask_rle import SegmentationError, check_segmentation


@dataclass(frozen=True)
class InstanceFile:
    """Images and annotations of a COCO file.

    Attributes:
        name: the path, or what to call content that came without one.
        images: records by image id; those of a truth have integer ``height`` and ``width``.
        annotations: each with ``image_id``, ``segmentation`` and/or ``bbox``, then ``iscrowd``
            (truth) or ``score`` (predictions).
    """

    name: str
    images: dict[Any, dict[str, Any]]
    annotations: list[dict[str, Any]]


def read_truth(source: str | Path | Mapping[str, Any], masks: bool) -> InstanceFile:
    """COCO instances; ``masks`` demands a segmentation of each.

    Raises:
        ValueError: no COCO content, an annotation of no image, or one without what is scored.
        OSError: the file cannot be read.
    """
    name, content = _load(source, "the truth")
    if not isinstance(content, Mapping) or not {"images", "annotations"} <= set(content):
        raise ValueError(f"{name} is no COCO instances file: it needs images and annotations")
    images = _images(content["images"], name)
    for key, image in images.items():
        if not all(isinstance(image.get(side), int) for side in ("height", "width")):
            raise ValueError(f"{name}: image {key} has no height and width in pixels")
    rows = []
    for number, row in enumerate(content["annotations"]):
        row = _checked(row, number, name, masks)
        if row["image_id"] not in images:
            raise ValueError(
                f"{name}: annotation {number} is of image {row['image_id']}, which is not listed"
            )
        row = {key: value for key, value in row.items() if key != "score"}
        rows.append(row | {"iscrowd": int(row.get("iscrowd", 0))})
    return InstanceFile(name, images, rows)


def read_predictions(
    source: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    masks: bool,
    need_scores: bool = False,
) -> InstanceFile:
    """A list of results, or a COCO dictionary; all get ``score`` 1 where none has one.

    Args:
        source: the content or its path.
        masks: demand a segmentation of each.
        need_scores: refuse predictions without scores.

    Raises:
        ValueError: no such content, an annotation without what is scored, a score that is no
            finite number, or scores on some annotations only.
        OSError: the file cannot be read.
    """
    name, content = _load(source, "the predictions")
    listed: Iterable[Any] = []
    if isinstance(content, Mapping):
        if "annotations" not in content:
            raise ValueError(f"{name} holds no annotations: is it a COCO file?")
        listed, content = content.get("images", []), content["annotations"]
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise ValueError(f"{name} is neither a list of results nor a COCO dictionary")
    rows = [_checked(row, number, name, masks) for number, row in enumerate(content)]
    scored = sum("score" in row for row in rows)
    if scored < len(rows) and (scored or need_scores):
        raise ValueError(
            f"{name}: {len(rows) - scored} of {len(rows)} predictions have no score; "
            f"give all of them one{'' if need_scores else ', or none'}"
        )
    rows = [{"score": 1.0} | row for row in rows]
    for number, row in enumerate(rows):
        if not _is_number(row["score"]):
            raise ValueError(f"{name}: annotation {number} has score {row['score']!r}")
    return InstanceFile(name, _images(listed, name), rows)


def check_sizes(truth: InstanceFile, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Refuse RLE of another size than its image.

    The size in the RLE alone counts: some tools swap the sides in ``images``.

    Args:
        truth: lists the images, with their sizes.
        name: where ``rows`` come from, for the message.
        rows: annotations whose ``image_id`` is in ``truth.images``.

    Raises:
        ValueError: the first such mask, with its image.
    """
    for row in rows:
        mask = row.get("segmentation")
        if not isinstance(mask, Mapping):
            continue
        image = truth.images[row["image_id"]]
        (height, width), size = mask["size"], (image["height"], image["width"])
        if (height, width) != size:
            raise ValueError(
                f"{name}: a mask of image {row['image_id']} ({image.get('file_name', '')}) "
                f"is {height} x {width} (height x width), but {truth.name} says that the "
                f"image is {size[0]} x {size[1]}; resize the masks to the image"
            )


def to_rle(mask: Any, image: Mapping[str, Any]) -> dict[str, Any]:
    """Compressed RLE of a COCO segmentation in an image of ``height`` and ``width``.

    Raises:
        ValueError: a polygon lies far outside the image (pycocotools would run out of memory).
    """
    height, width = image["height"], image["width"]
    if isinstance(mask, list):
        if any(abs(number) > 4 * max(height, width) for part in mask for number in part):
            raise ValueError(f"image {image.get('id')}: a polygon lies far outside the image")
        return mask_api.merge(mask_api.frPyObjects(mask, height, width))
    if isinstance(mask["counts"], list):
        return mask_api.frPyObjects(mask, height, width)
    return dict(mask)


def _load(source: Any, name: str) -> tuple[str, Any]:
    if not isinstance(source, (str, Path)):
        return name, source
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no JSON file at {path}")
    try:
        return str(path), json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _images(listed: Iterable[Any], name: str) -> dict[Any, dict[str, Any]]:
    images: dict[Any, dict[str, Any]] = {}
    for image in listed:
        if not isinstance(image, Mapping) or "id" not in image:
            raise ValueError(f"{name}: an image without id: {str(image)[:80]}")
        if image["id"] in images:
            raise ValueError(f"{name} lists image {image['id']} twice")
        images[image["id"]] = dict(image)
    return images


def _checked(row: Any, number: int, name: str, masks: bool) -> dict[str, Any]:
    """The annotation without empty keys; refused if it has no image or nothing to score."""
    where = f"{name}: annotation {number}"
    if not isinstance(row, Mapping) or "image_id" not in row:
        raise ValueError(f"{where} has no image_id")
    where += f" (image {row['image_id']})"
    row = {key: value for key, value in row.items() if value is not None and value != []}
    if masks and "segmentation" not in row:
        raise ValueError(f"{where} has no segmentation; score boxes alone (--iou bbox)")
    if not {"segmentation", "bbox"} & set(row):
        raise ValueError(f"{where} has neither segmentation nor bbox")
    if "segmentation" in row:
        try:
            check_segmentation(row["segmentation"])
        except SegmentationError as error:
            raise ValueError(f"{where}: {error}") from error
    box = row.get("bbox", [0, 0, 0, 0])
    if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{where} has bbox {box!r}; it must be x, y, width and height")
    return row


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
