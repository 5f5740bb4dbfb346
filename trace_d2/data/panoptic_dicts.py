"""Panoptic labels as Detectron2's dataset dicts. No PNG is opened: 118,000 images take seconds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_d2.data.dataset_files import folder_names, keep_present, paused_collector
from trace_d2.data.label_folder import check_label_folder, is_label_folder
from trace_d2.io.categories import Category
from trace_d2.io.coco_panoptic import PanopticSet, load_panoptic_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PanopticFiles:
    """Where the files of a panoptic data set lie.

    Attributes:
        image_root: folder that ``file_name`` of the JSON's images is relative to.
        panoptic_json: COCO panoptic JSON.
        panoptic_root: folder of its PNG files.
        semantic_root: folder of ``<stem>.png`` of contiguous ids, or None; it may be missing.
        label_folder: folder of the label maker that must be finished, or None.
        remedy: what the user is to do if something is missing.
    """

    image_root: Path
    panoptic_json: Path
    panoptic_root: Path
    semantic_root: Path | None
    label_folder: Path | None
    remedy: str

    @classmethod
    def of_folder(cls, folder: str | Path, image_root: str | Path, remedy: str) -> PanopticFiles:
        """Those of a folder with ``panoptic.json`` and ``panoptic/``.

        ``semantic/`` holds contiguous ids in folders of the label maker only: elsewhere, as in
        procedural scenes, it holds the masks that labels are made from.
        """
        folder = Path(folder)
        own = is_label_folder(folder)
        return cls(
            image_root=Path(image_root),
            panoptic_json=folder / "panoptic.json",
            panoptic_root=folder / "panoptic",
            semantic_root=folder / "semantic" if own else None,
            label_folder=folder if own else None,
            remedy=remedy,
        )


@paused_collector()
def load_panoptic_dicts(
    files: PanopticFiles, categories: Sequence[Category], check: bool = True
) -> list[dict[str, Any]]:
    """Dataset dicts of all labelled images, in the order of the file.

    Args:
        files: where everything is.
        categories: the categories that the data set was registered with; the rank in the list is
            the contiguous id.
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
    if check and files.label_folder is not None:
        check_label_folder(files.label_folder)
    if not files.panoptic_json.is_file():
        raise FileNotFoundError(f"no panoptic JSON at {files.panoptic_json}: {files.remedy}")
    content = load_panoptic_json(files.panoptic_json)
    check_same_categories(content.categories, categories, str(files.panoptic_json))
    records = _to_dicts(content, files, categories)
    if check:
        records = keep_present(records, "file_name", "images", files.remedy)
        records = keep_present(records, "pan_seg_file_name", "panoptic PNG files", files.remedy)
    if files.semantic_root is not None and files.semantic_root.is_dir():
        _add_semantic(records, files.semantic_root, files.remedy)
    return records


def check_same_categories(
    found: Sequence[Category], expected: Sequence[Category], origin: str
) -> None:
    """Raise a ValueError unless ids, names and kinds agree, in this order. Colours may differ."""
    if not found:
        raise ValueError(f'{origin} has no "categories": add them to the file')
    for rank in range(max(len(found), len(expected))):
        pair = [side[rank] if rank < len(side) else None for side in (found, expected)]
        there, here = (None if c is None else (c.id, c.name, c.isthing) for c in pair)
        if there != here:
            raise ValueError(
                f"the categories of {origin} differ from those the data set is registered with: "
                f"number {rank} is {_describe(pair[0])} there and {_describe(pair[1])} here; "
                "register the folder with its own categories, or make the labels again"
            )


def _describe(category: Category | None) -> str:
    if category is None:
        return "absent"
    kind = "thing" if category.isthing else "stuff"
    return f"{category.name!r} (id {category.id}, {kind})"


def _to_dicts(
    content: PanopticSet, files: PanopticFiles, categories: Sequence[Category]
) -> list[dict[str, Any]]:
    rank = {category.id: (i, category.isthing) for i, category in enumerate(categories)}
    images = {image["id"]: image for image in content.images}
    image_root, panoptic_root = str(files.image_root), str(files.panoptic_root)
    records, empty = [], 0
    for image_id, annotation in content.annotations.items():
        image = images.get(image_id)
        if image is None or any(k not in image for k in ("file_name", "height", "width")):
            raise ValueError(
                f'{content.path}: "images" lacks image {image_id}, or its file_name, height or '
                "width: add it"
            )
        segments = [
            _segment(segment, rank, content.path, image_id)
            for segment in annotation["segments_info"]
        ]
        empty += not segments
        records.append(
            {
                "file_name": f"{image_root}/{image['file_name']}",
                "image_id": image_id,
                "height": image["height"],
                "width": image["width"],
                "pan_seg_file_name": f"{panoptic_root}/{annotation['file_name']}",
                "segments_info": segments,
            }
        )
    if not records:
        raise ValueError(f"{content.path} has no annotations: there is nothing to load")
    bare = len(images) - len(records)
    if bare > 0:
        logger.warning("%s: %d images have no label and are left out", content.path, bare)
    if empty:
        logger.info("%s: %d images have no segment", content.path, empty)
    return records


def _segment(
    segment: Mapping[str, Any], rank: Mapping[int, tuple[int, bool]], path: Path, image_id: Any
) -> dict[str, Any]:
    """One entry of ``segments_info`` with a contiguous category."""
    known = rank.get(segment["category_id"])
    if known is None:
        raise ValueError(
            f"{path}: image {image_id}, segment {segment['id']} has category "
            f'{segment["category_id"]}, which "categories" lacks: add it there'
        )
    result = {
        "id": segment["id"],
        "category_id": known[0],
        "iscrowd": int(segment.get("iscrowd", 0)),
        "isthing": known[1],
    }
    for key in ("area", "bbox"):
        if key in segment:
            result[key] = segment[key]
    return result


def _add_semantic(records: Sequence[dict[str, Any]], folder: Path, remedy: str) -> None:
    """Note the semantic map of each record, which has the name of its panoptic PNG."""
    present = folder_names(folder, "semantic maps", remedy)
    for record in records:
        name = record["pan_seg_file_name"].rpartition("/")[2]
        if name not in present:
            raise FileNotFoundError(f"no semantic map at {folder / name}: {remedy}")
        record["sem_seg_file_name"] = f"{folder}/{name}"
