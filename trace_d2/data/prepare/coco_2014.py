"""Panoptic annotations of COCO 2014: those of COCO 2017, which has the same images, by its lists.

Train and val of 2014 hold the images of train and val of 2017 in another division.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trace_d2.io.atomic import write_json
from trace_d2.io.categories import Category
from trace_d2.io.coco_panoptic import PanopticSet, coco_dataset, image_entry, load_panoptic_json
from trace_d2.io.json_files import box, checked, read_json, shown
from trace_d2.io.panoptic_fields import images_by_id
from trace_d2.io.paths import name_keys

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
_DIGITS = re.compile(r"[0-9]+$")
_SEE = "datasets/README.md says what to put where"


def prepare_coco_2014(coco: str | Path, split: str, progress: bool = True) -> int:
    """Write ``coco/annotations/panoptic_<split>2014.json``; returns its number of images.

    Its annotations name the PNG files of 2017 with their folder, as in
    ``panoptic_val2017/000000000139.png``, so ``coco`` itself is the folder to read them from.
    """
    folder = Path(coco) / "annotations"
    path = folder / f"instances_{split}2014.json"
    listed = read_json(path, remedy=_SEE)
    if not isinstance(listed, dict) or not listed.get("images"):
        raise ValueError(f'{path} has no "images": download it again')
    images = images_by_id(listed["images"], path)
    for key, image in images.items():
        lacking = [name for name in ("file_name", "height", "width") if name not in image]
        if lacking:
            raise ValueError(f"{path}: image {shown(key)} has no {lacking[0]}: download it again")
    annotations: dict[int, dict[str, Any]] = {}
    categories: tuple[Category, ...] = ()
    incomplete = 0
    for part in tqdm(SPLITS, desc=f"{split}2014", unit="file", disable=not progress):
        found = load_panoptic_json(folder / f"panoptic_{part}2017.json")
        categories = found.categories
        if not categories:
            raise ValueError(f'{found.path} has no "categories": download it again')
        for image_id, annotation in found.annotations.items():
            if image_id in images:
                _check_same(images[image_id], found, image_id)
                incomplete += _incomplete(annotation, f"{found.path}: image {shown(image_id)}")
                name = f"panoptic_{part}2017/{annotation['file_name']}"
                annotations[image_id] = {**annotation, "file_name": name}
    absent = images.keys() - annotations.keys()
    if absent:
        raise ValueError(
            f"{path}: {len(absent)} of {len(images)} images have no annotation in "
            f"panoptic_train2017.json or panoptic_val2017.json, such as "
            f"{shown(min(absent, key=str))}: download all three files"
        )
    if incomplete:
        logger.warning("%s: %d segments have no area or bbox in 2017 either", path, incomplete)
    entries = [
        image_entry(i["id"], i["file_name"], i["height"], i["width"]) for i in images.values()
    ]
    description = f"COCO {split}2014, panoptic, from 2017 by trace_d2"
    content = coco_dataset(entries, [annotations[key] for key in images], categories, description)
    write_json(folder / f"panoptic_{split}2014.json", content)
    return len(images)


def _check_same(image: Mapping[str, Any], found: PanopticSet, image_id: Any) -> None:
    """Raise where ``COCO_<split>2014_<digits>.jpg`` of 2014 has other digits than 2017's file."""
    old, new = image["file_name"], str(found.names.names[image_id])
    digits = [_DIGITS.search(name_keys(name)[0]) for name in (old, new)]
    if all(digits) and len({int(match[0]) for match in digits if match}) == 2:
        raise ValueError(
            f"{found.path}: image {shown(image_id)} is {shown(new)}, but {shown(old)} in 2014: "
            "download both files again"
        )


def _incomplete(annotation: Mapping[str, Any], where: str) -> int:
    """How many segments lack area or box; raises where a box is none."""
    segments = annotation["segments_info"]
    for segment in segments:
        if "bbox" in segment:
            checked(segment, "bbox", box, f"{where}: segment id {segment['id']}")
    return sum(not {"area", "bbox"} <= segment.keys() for segment in segments)
