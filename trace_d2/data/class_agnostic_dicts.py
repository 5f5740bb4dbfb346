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

from trace_d2.data.dataset_files import keep_present, paused_collector, read_json

logger = logging.getLogger(__name__)


@paused_collector()
def load_class_agnostic_dicts(
    json_file: str | Path, image_root: str | Path, remedy: str, check: bool = True
) -> list[dict[str, Any]]:
    """Dataset dicts of all images of a COCO instances file, with category 0 for every instance.

    Args:
        json_file: COCO instances file.
        image_root: folder that ``file_name`` of its images is relative to.
        remedy: what the user is to do if something is missing.
        check: look whether the images are there.

    Returns:
        ``{file_name, image_id, height, width, annotations}`` each, sizes in pixels. Annotations
        are ``{bbox, bbox_mode XYWH_ABS, category_id 0, iscrowd, segmentation}``; masks are
        polygons or compressed RLE. An annotation without mask has no ``segmentation``.

    Raises:
        FileNotFoundError: the file, or 1 % of the images or more, are missing.
        ValueError: the file is no COCO instances file, or an annotation is broken.
    """
    path = Path(json_file)
    content = read_json(path, remedy)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise ValueError(f'{path} has no lists "images" and "annotations": give COCO instances')
    images = _images(content["images"], path)
    by_image = _by_image(content["annotations"], images, path)
    swapped = sizes_are_swapped(list(images.values()), by_image)
    if swapped:
        logger.warning("%s: width and height of its images are swapped; read the right way", path)
    records = []
    for image_id, image in images.items():
        size = (image["width"], image["height"]) if swapped else (image["height"], image["width"])
        records.append(
            {
                "file_name": f"{image_root}/{image['file_name']}",
                "image_id": image_id,
                "height": size[0],
                "width": size[1],
                "annotations": [
                    _annotation(annotation, size, f"{path}: image {image_id}")
                    for annotation in by_image.get(image_id, ())
                ],
            }
        )
    if not records:
        raise ValueError(f"{path} lists no images: there is nothing to load")
    return keep_present(records, "file_name", "images", remedy) if check else records


def sizes_are_swapped(
    images: Sequence[Mapping[str, Any]], by_image: Mapping[Any, Sequence[Mapping[str, Any]]]
) -> bool:
    """Whether width and height of ``images`` are swapped, as the RLE masks of the file show.

    RLE carries its own (height, width). Files of MaskCut have them swapped in all images or in
    none, so one image that is not square tells.

    Args:
        images: COCO ``images``.
        by_image: their annotations by image id.
    """
    for image in images:
        if image["height"] == image["width"]:
            continue
        for annotation in by_image.get(image["id"], ()):
            mask = annotation.get("segmentation")
            if isinstance(mask, dict) and "size" in mask:
                return list(mask["size"]) == [image["width"], image["height"]]
    return False


def _images(entries: Sequence[Any], path: Path) -> dict[Any, Mapping[str, Any]]:
    images: dict[Any, Mapping[str, Any]] = {}
    for entry in entries:
        keys = ("id", "file_name", "height", "width")
        if not isinstance(entry, dict) or any(key not in entry for key in keys):
            raise ValueError(f"{path}: an image lacks one of {', '.join(keys)}: {str(entry)[:80]}")
        if entry["id"] in images:
            raise ValueError(f"{path}: two images have id {entry['id']}: give each its own")
        images[entry["id"]] = entry
    return images


def _by_image(
    entries: Sequence[Any], images: Mapping[Any, Any], path: Path
) -> dict[Any, list[Mapping[str, Any]]]:
    """The annotations of each image."""
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or "image_id" not in entry:
            raise ValueError(f"{path}: an annotation lacks image_id: {str(entry)[:80]}")
        by_image.setdefault(entry["image_id"], []).append(entry)
    dangling = by_image.keys() - images.keys()
    if dangling:
        lost = sum(len(by_image.pop(image_id)) for image_id in sorted(dangling, key=str))
        logger.warning(
            "%s: %d annotations are of images that it does not list, such as image %s; they are "
            "left out", path, lost, min(dangling, key=str),
        )  # fmt: skip
    return by_image


def _annotation(entry: Mapping[str, Any], size: tuple[int, int], where: str) -> dict[str, Any]:
    """One annotation of Detectron2's; ``size`` is (height, width) of its image."""
    name = f"{where}, annotation {entry.get('id')}"
    result: dict[str, Any] = {
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": int(entry.get("iscrowd", 0)),
    }
    mask = entry.get("segmentation")
    if mask:
        result["segmentation"] = _mask(mask, size, name)
    box = entry.get("bbox")
    if box is None and isinstance(result.get("segmentation"), dict):
        box = coco_mask.toBbox(result["segmentation"]).tolist()
    if box is None or len(box) != 4:
        raise ValueError(f"{name} has bbox {box}: it must be [x, y, width, height]")
    result["bbox"] = box
    return result


def _mask(mask: Any, size: tuple[int, int], name: str) -> Any:
    """``mask`` as Detectron2 takes it: polygons, or RLE with compressed counts."""
    if isinstance(mask, dict):
        if list(mask.get("size", ())) != list(size):
            raise ValueError(
                f"{name} has a mask of size {mask.get('size')} on an image of {list(size)} "
                "(height, width): correct the file"
            )
        if not isinstance(mask["counts"], list):
            return mask
        if sum(mask["counts"]) != size[0] * size[1]:
            raise ValueError(f"{name} has RLE counts that do not fill the image: make it again")
        return coco_mask.frPyObjects(mask, *size)
    polygons = [p for p in mask if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]
    if len(polygons) < len(mask):
        raise ValueError(f"{name} has a polygon that is no list x, y of 3 points or more")
    return polygons
