"""COCO panoptic files, and COCO instances as one class or several, as Detectron2's dataset dicts.

No PNG is opened: 118,000 images take seconds. Of instances what the field's tools write is read:
several categories, annotations without ``iscrowd`` or with ids that start at 0, file names with
folders, and files whose image widths and heights are swapped.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from trace_d2.data.dataset_files import keep_present, part_present
from trace_d2.data.label_folder import check_labels, missing_labels
from trace_d2.io.categories import Category
from trace_d2.io.coco_instances import InstanceFile, read_truth
from trace_d2.io.coco_panoptic import PanopticSet, load_panoptic_json
from trace_d2.io.json_files import paused_collector, quoted, read_json, shown
from trace_d2.io.listing import locate_images
from trace_d2.io.paths import file_below, relative_name
from trace_d2.jobs.folder import open_job_folder

logger = logging.getLogger(__name__)


@paused_collector()
def load_panoptic_dicts(
    image_root: str | Path,
    panoptic_json: str | Path,
    panoptic_root: str | Path,
    categories: Sequence[Category],
    remedy: str,
    check: bool = True,
) -> list[dict[str, Any]]:
    """Dataset dicts of all labelled images, in the order of the file.

    A folder of the label maker must be finished. Of such a folder alone ``semantic/`` is used: it
    holds contiguous ids there, but in procedural scenes the masks that labels are made from.

    Args:
        image_root: folder that ``file_name`` of the JSON's images is relative to.
        panoptic_json: COCO panoptic JSON.
        panoptic_root: folder of its PNG files.
        categories: those that the data set was registered with; the rank is the contiguous id.
        check: look whether label folder, images and PNG files are complete.

    Returns:
        ``{file_name, image_id, height, width (pixels), pan_seg_file_name, segments_info}`` each,
        and ``sem_seg_file_name`` where there is a semantic folder. A segment is ``{id,
        category_id (contiguous), iscrowd, isthing}``, and ``area`` and ``bbox`` where the file
        has them.

    Raises:
        FileNotFoundError: a file or folder, or 1 % of the images or PNG files, are missing.
        UnfinishedLabelsError: the label folder is not finished.
        ValueError: the JSON is damaged, or its categories are not ``categories``.
    """
    path = Path(panoptic_json)
    job = open_job_folder(path.parent)
    if check and job is not None:
        check_labels(job)
        if lacking := missing_labels(job.root, image_root):
            logger.warning("%s", lacking)
    if not path.is_file():
        raise FileNotFoundError(f"no panoptic JSON at {path}: {remedy}")
    content = load_panoptic_json(path)
    check_same_categories(content.categories, categories, str(path))
    records = _to_dicts(content, Path(image_root), Path(panoptic_root), categories)
    if check:
        records = keep_present(records, "file_name", "images", remedy)
        records = keep_present(records, "pan_seg_file_name", "panoptic PNG files", remedy)
    if job is not None and (path.parent / "semantic").is_dir():
        _add_semantic(records, Path(panoptic_root), path.parent / "semantic", remedy)
    return records


def _image_record(image_root: str | Path, image: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not image.get("file_name"):
        raise ValueError(f"{where} has no file_name: give it one")
    try:
        name = relative_name(image["file_name"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return {
        "file_name": _path(image_root, name),
        "image_id": image["id"],
        "height": image["height"],
        "width": image["width"],
    }


def _path(folder: str | Path, name: str) -> str:
    return f"{folder}/{name}" if name.isascii() else str(file_below(folder, name))


def check_same_categories(
    found: Sequence[Category], expected: Sequence[Category], origin: str
) -> None:
    """Raise a ValueError unless ids, names and kinds agree, in this order. Colours may differ."""
    if not found:
        raise ValueError(f'{origin} has no "categories": add them to the file')
    sides = (map(_describe, found), map(_describe, expected))
    for rank, (there, here) in enumerate(zip_longest(*sides, fillvalue="absent")):
        if there != here:
            raise ValueError(
                f"the categories of {origin} differ from those the data set is registered with: "
                f"number {rank} is {there} there and {here} here; "
                "register the folder with its own categories, or make the labels again"
            )


def _describe(category: Category) -> str:
    return f"{category.name!r} (id {category.id}, {'thing' if category.isthing else 'stuff'})"


def _to_dicts(
    content: PanopticSet, image_root: Path, panoptic_root: Path, categories: Sequence[Category]
) -> list[dict[str, Any]]:
    ranks = {category.id: (i, category.isthing) for i, category in enumerate(categories)}
    images = {image["id"]: image for image in content.images}
    records = []
    for image_id, annotation in content.annotations.items():
        image = images.get(image_id)
        if image is None or any(k not in image for k in ("file_name", "height", "width")):
            raise ValueError(
                f'{content.path}: "images" lacks image {shown(image_id)}, or its file_name, '
                "height or width: add it"
            )
        where = f"{content.path}: image {shown(image_id)}"
        records.append(
            {
                **_image_record(image_root, image, where),
                "pan_seg_file_name": _path(panoptic_root, annotation["file_name"]),
                "segments_info": [_segment(s, ranks, where) for s in annotation["segments_info"]],
            }
        )
    if not records:
        raise ValueError(f"{content.path} has no annotations: there is nothing to load")
    bare = len(images) - len(records)
    if bare > 0:
        logger.warning("%s: %d images have no label and are left out", content.path, bare)
    empty = sum(not record["segments_info"] for record in records)
    if empty:
        logger.info("%s: %d images have no segment", content.path, empty)
    return records


def _segment(
    segment: Mapping[str, Any], ranks: Mapping[int, tuple[int, bool]], where: str
) -> dict[str, Any]:
    """One entry of ``segments_info`` with a contiguous category."""
    if segment["category_id"] not in ranks:
        raise ValueError(
            f"{where}, segment {segment['id']} has category {segment['category_id']}, which "
            '"categories" lacks: add it there'
        )
    rank, isthing = ranks[segment["category_id"]]
    record = {
        "id": segment["id"],
        "category_id": rank,
        "iscrowd": segment["iscrowd"],
        "isthing": isthing,
    }
    for key in ("area", "bbox"):
        if key in segment:
            record[key] = segment[key]
    return record


def _add_semantic(
    records: Sequence[dict[str, Any]], panoptic: Path, folder: Path, remedy: str
) -> None:
    """Note the semantic map of each record, which has the name of its PNG in ``panoptic``."""
    for record in records:
        name = record["pan_seg_file_name"].removeprefix(f"{panoptic}/")
        record["sem_seg_file_name"] = f"{folder}/{name}"
    _, absent = part_present(records, "sem_seg_file_name", "semantic maps", remedy)
    if absent:
        raise FileNotFoundError(f"no semantic map at {absent[0]}: {remedy}")


@paused_collector()
def load_class_agnostic_dicts(
    json_file: str | Path, image_root: str | Path, remedy: str
) -> list[dict[str, Any]]:
    """Dataset dicts of all images of a COCO instances file, with category 0 for every instance.

    Annotations that cannot be used are left out with a warning: broken masks, masks without a
    pixel, masks that do not fit their image, and those without a mask if others have one. A box
    that is none, or far from its mask, gives way to that of the mask, with a warning too.

    Args:
        json_file: COCO instances file.
        image_root: folder that ``file_name`` of its images is relative to.

    Returns:
        ``{file_name, image_id, height, width, annotations}`` each, sizes in pixels. Annotations
        are ``{bbox, bbox_mode XYWH_ABS, category_id 0, iscrowd, segmentation}``; masks are
        polygons or compressed RLE. If the file has no masks, there is no ``segmentation``.

    Raises:
        FileNotFoundError: the file, or 1 % of the images or more, are missing.
        ValueError: the file is no COCO instances file, or none of its annotations can be used.
    """
    file = read_truth(json_file, masks=None, leave_out=True, remedy=remedy)
    return _instance_records(file, image_root, remedy, None)


@paused_collector()
def load_instance_dicts(
    json_file: str | Path, image_root: str | Path, categories: Sequence[Category], remedy: str
) -> list[dict[str, Any]]:
    """As ``load_class_agnostic_dicts``, with the rank in ``categories`` as ``category_id``.

    Raises:
        as it does, and a ValueError where the file's own categories are not ``categories``, or an
        annotation has none of them.
    """
    content = read_json(json_file, remedy=remedy)
    listed = content.get("categories") if isinstance(content, Mapping) else None
    found: dict[int, Any] = {
        one["id"]: one.get("name")
        for one in (listed if isinstance(listed, list) else ())
        if isinstance(one, Mapping) and isinstance(one.get("id"), int)
    }
    expected = {category.id: category.name for category in categories}
    wrong = [key for key in expected if found.get(key) != expected[key]]
    if wrong or found.keys() - expected.keys():
        key = wrong[0] if wrong else min(found.keys() - expected.keys())
        raise ValueError(
            f"the categories of {json_file} are not those that the data set is registered with: "
            f"{key} is {quoted(found.get(key))} there and {quoted(expected.get(key))} here: "
            f"{remedy}, or register the file with its own categories"
        )
    file = read_truth(content, masks=None, leave_out=True, classes=True, name=str(json_file))
    ranks = {key: rank for rank, key in enumerate(expected)}
    return _instance_records(file, image_root, remedy, ranks)


def _instance_records(
    file: InstanceFile, image_root: str | Path, remedy: str, ranks: Mapping[int, int] | None
) -> list[dict[str, Any]]:
    if not file.images:
        raise ValueError(f"{file.name} lists no images: there is nothing to load")
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for row in file.annotations:
        annotation = _annotation(row, file)
        if ranks is not None:
            if row.get("category_id") not in ranks:
                raise ValueError(
                    f"{file.name}: an annotation of image {shown(row['image_id'])} has category_id "
                    f"{quoted(row.get('category_id'))}, which categories lack: correct it"
                )
            annotation["category_id"] = ranks[row["category_id"]]
        by_image.setdefault(row["image_id"], []).append(annotation)
    records = [
        {
            **_image_record(image_root, image, f"{file.name}: image {shown(image_id)}"),
            "annotations": by_image.get(image_id, []),
        }
        for image_id, image in file.images.items()
    ]
    try:
        return keep_present(records, "file_name", "images", remedy)
    except FileNotFoundError:
        return keep_present(_located(records, image_root), "file_name", "images", remedy)


def _located(records: list[dict[str, Any]], image_root: str | Path) -> list[dict[str, Any]]:
    """The records with the paths of those images that lie in other folders than they say."""
    if not Path(image_root).is_dir():
        return records
    root = str(image_root)
    names = {rank: record["file_name"][len(root) + 1 :] for rank, record in enumerate(records)}
    found, _ = locate_images(names, root)
    return [
        record | ({"file_name": f"{root}/{found[rank]}"} if rank in found else {})
        for rank, record in enumerate(records)
    ]


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
