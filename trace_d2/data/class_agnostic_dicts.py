"""COCO instances as dataset dicts of one class, whatever classes the file has.

Reads what the field's tools write: several categories, annotations without ``iscrowd`` or with ids
that start at 0, file names with folders, and files whose image widths and heights are swapped.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from trace_d2.data.dataset_files import keep_present, paused_collector
from trace_d2.io.atomic import read_json
from trace_d2.io.coco_instances import check_annotation, read_images
from trace_d2.io.mask_rle import check_fit, encode_segmentation

logger = logging.getLogger(__name__)


@paused_collector()
def load_class_agnostic_dicts(
    json_file: str | Path, image_root: str | Path, remedy: str, check: bool = True
) -> list[dict[str, Any]]:
    """Dataset dicts of all images of a COCO instances file, with category 0 for every instance.

    Annotations that cannot be used are left out with a warning: broken masks, masks that do not
    fit their image, boxes that are none, and those without a mask if others have one.

    Args:
        json_file: COCO instances file.
        image_root: folder that ``file_name`` of its images is relative to.
        remedy: what the user is to do if something is missing.
        check: look whether the images are there.

    Returns:
        ``{file_name, image_id, height, width, annotations}`` each, sizes in pixels. Annotations
        are ``{bbox, bbox_mode XYWH_ABS, category_id 0, iscrowd, segmentation}``; masks are
        polygons or compressed RLE. If the file has no masks, there is no ``segmentation``.

    Raises:
        FileNotFoundError: the file, or 1 % of the images or more, are missing.
        ValueError: the file is no COCO instances file, or none of its annotations can be used.
    """
    path = Path(json_file)
    images, entries = read_images(read_json(path, remedy=remedy), str(path))
    if not images:
        raise ValueError(f"{path} lists no images: there is nothing to load")
    for image_id, image in images.items():
        if not isinstance(image.get("file_name"), str):
            raise ValueError(f"{path}: image {image_id} has no file_name: give it one")
    by_image = _annotations(entries, images, path)
    records = [
        {
            "file_name": f"{image_root}/{image['file_name']}",
            "image_id": image_id,
            "height": image["height"],
            "width": image["width"],
            "annotations": by_image.get(image_id, []),
        }
        for image_id, image in images.items()
    ]
    return keep_present(records, "file_name", "images", remedy) if check else records


def _annotations(
    entries: Sequence[Any], images: Mapping[Any, Mapping[str, Any]], path: Path
) -> dict[Any, list[dict[str, Any]]]:
    """The annotations of each image that can be used."""
    masks = any(isinstance(entry, dict) and entry.get("segmentation") for entry in entries)
    by_image: dict[Any, list[dict[str, Any]]] = {}
    faults, first = 0, ""
    for number, entry in enumerate(entries):
        try:
            row = _annotation(entry, images, masks, f"annotation {number}")
        except ValueError as error:
            faults, first = faults + 1, first or str(error)
            continue
        by_image.setdefault(entry["image_id"], []).append(row)
    if faults:
        message = f"{path}: {faults} of {len(entries)} annotations cannot be used; first: {first}"
        if not by_image:
            raise ValueError(f"{message}: make the file again")
        logger.warning("%s: they are left out", message)
    return by_image


def _annotation(
    entry: Any, images: Mapping[Any, Mapping[str, Any]], masks: bool, where: str
) -> dict[str, Any]:
    """One annotation of Detectron2's, with a mask if the file has ``masks``.

    Raises:
        ValueError: it cannot be used.
    """
    row = check_annotation(entry, where)
    where = f"{where} (image {row['image_id']})"
    if row["image_id"] not in images:
        raise ValueError(f"{where} is of an image that the file does not list")
    if masks and "segmentation" not in row:
        raise ValueError(f"{where} has no mask (segmentation), but others have one")
    image = images[row["image_id"]]
    result: dict[str, Any] = {
        "bbox": row.get("bbox"),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": int(row.get("iscrowd", 0)),
    }
    if not masks:
        return result
    mask, size = row["segmentation"], (image["height"], image["width"])
    try:
        check_fit(mask, *size)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if isinstance(mask, dict) and isinstance(mask["counts"], list):
        mask = encode_segmentation(mask, *size)
    if result["bbox"] is None:
        result["bbox"] = coco_mask.toBbox(encode_segmentation(mask, *size)).tolist()
    result["segmentation"] = mask
    return result
