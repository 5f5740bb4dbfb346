"""Panoptic annotations of COCO 2014: those of COCO 2017, which has the same images, by its lists.

Train and val of 2014 hold the images of train and val of 2017 in another division.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from trace_d2.io.atomic import write_json
from trace_d2.io.categories import Category
from trace_d2.io.coco_panoptic import coco_dataset, image_entry, load_panoptic_json
from trace_d2.io.json_files import read_json

SPLITS = ("train", "val")
_SEE = "datasets/README.md says what to put where"


def prepare_coco_2014(coco: str | Path, split: str, progress: bool = True) -> int:
    """Write ``coco/annotations/panoptic_<split>2014.json``; returns its number of images.

    Its annotations name the PNG files of 2017 with their folder, as in
    ``panoptic_val2017/000000000139.png``, so ``coco`` itself is the folder to read them from.
    """
    folder = Path(coco) / "annotations"
    listed = read_json(folder / f"instances_{split}2014.json", remedy=_SEE)
    if not isinstance(listed, dict) or "images" not in listed:
        raise ValueError(f'{folder}/instances_{split}2014.json has no "images": download it again')
    images = {image["id"]: image for image in listed["images"]}
    annotations: dict[int, dict[str, Any]] = {}
    categories: tuple[Category, ...] = ()
    for part in tqdm(SPLITS, desc=f"{split}2014", unit="file", disable=not progress):
        path = folder / f"panoptic_{part}2017.json"
        found = load_panoptic_json(path)
        categories = found.categories
        for image_id, annotation in found.annotations.items():
            if image_id in images:
                name = f"panoptic_{part}2017/{annotation['file_name']}"
                annotations[image_id] = {**annotation, "file_name": name}
    absent = images.keys() - annotations.keys()
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(images)} images of {split}2014 have no annotation in "
            f"panoptic_{{train,val}}2017.json, such as {min(absent)}: download all three files"
        )
    entries = [
        image_entry(i["id"], i["file_name"], i["height"], i["width"]) for i in images.values()
    ]
    description = f"COCO {split}2014, panoptic, from 2017 by trace_d2"
    content = coco_dataset(entries, [annotations[key] for key in images], categories, description)
    write_json(folder / f"panoptic_{split}2014.json", content)
    return len(images)
