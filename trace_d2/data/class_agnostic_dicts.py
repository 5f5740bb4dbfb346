"""COCO instances as dataset dicts of one class, whatever classes the file has.

Reads what the field's tools write: several categories, annotations without ``iscrowd`` or with ids
that start at 0, file names with folders, and files whose image widths and heights are swapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from trace_d2.data.dataset_files import keep_present, paused_collector
from trace_d2.io.atomic import read_json
from trace_d2.io.coco_instances import InstanceFile, read_truth


@paused_collector()
def load_class_agnostic_dicts(
    json_file: str | Path, image_root: str | Path, remedy: str
) -> list[dict[str, Any]]:
    """Dataset dicts of all images of a COCO instances file, with category 0 for every instance.

    Annotations that cannot be used are left out with a warning: broken masks, masks that do not
    fit their image, boxes that are none, and those without a mask if others have one.

    Args:
        json_file: COCO instances file.
        image_root: folder that ``file_name`` of its images is relative to.
        remedy: what the user is to do if something is missing.

    Returns:
        ``{file_name, image_id, height, width, annotations}`` each, sizes in pixels. Annotations
        are ``{bbox, bbox_mode XYWH_ABS, category_id 0, iscrowd, segmentation}``; masks are
        polygons or compressed RLE. If the file has no masks, there is no ``segmentation``.

    Raises:
        FileNotFoundError: the file, or 1 % of the images or more, are missing.
        ValueError: the file is no COCO instances file, or none of its annotations can be used.
    """
    path = Path(json_file)
    content = read_json(path, remedy=remedy)
    file = read_truth(content, masks=None, name=str(path), leave_out=True)
    images = file.images
    if not images:
        raise ValueError(f"{path} lists no images: there is nothing to load")
    for image_id, image in images.items():
        if not isinstance(image.get("file_name"), str):
            raise ValueError(f"{path}: image {image_id} has no file_name: give it one")
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for row in file.annotations:
        by_image.setdefault(row["image_id"], []).append(_annotation(row, file))
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
    return keep_present(records, "file_name", "images", remedy)


def _annotation(row: Mapping[str, Any], file: InstanceFile) -> dict[str, Any]:
    """One annotation of Detectron2's, with a mask if the file has masks."""
    result: dict[str, Any] = {
        "bbox": row.get("bbox"),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": row["iscrowd"],
    }
    if "segmentation" not in row:
        return result
    mask = row["segmentation"]
    if isinstance(mask, dict) and isinstance(mask["counts"], list):
        mask = file.rle(row)
    if result["bbox"] is None:
        result["bbox"] = coco_mask.toBbox(file.rle(row)).tolist()
    return result | {"segmentation": mask}
