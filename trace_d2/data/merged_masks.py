"""Masks in which everything that touches is one: what unsupervised segmentation tends to give.

Made from truth, they show how far edges alone can part instances.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from trace_d2.formats.atomic import write_json
from trace_d2.formats.categories import Category
from trace_d2.formats.coco_panoptic import (
    instance_annotations,
    load_panoptic_json,
    read_panoptic_png,
    segments_info,
)

_OBJECT = Category(1, "object", True, (255, 255, 255))


def write_merged_masks(
    truth_json: Path, truth_dir: Path, output: Path, progress: bool = True
) -> int:
    """Write the merged masks of a panoptic data set as COCO instances of one category.

    The masks of an image are the 4-connected components of the union of its things; crowd regions
    belong to none. Returns the number of masks.

    Raises:
        ValueError, OSError: the truth is damaged or ``output`` cannot be written.
    """
    truth = load_panoptic_json(truth_json)
    things = {category.id for category in truth.categories if category.isthing}
    annotations: list[dict[str, Any]] = []
    bar = tqdm(truth.annotations.items(), desc="masks", unit="image", disable=not progress)
    for image_id, annotation in bar:
        segments = annotation["segments_info"]
        wanted = [s["id"] for s in segments if s["category_id"] in things and not s["iscrowd"]]
        ids = read_panoptic_png(truth_dir / annotation["file_name"])
        labels, count = ndimage.label(np.isin(ids, wanted))
        masks = segments_info(labels, dict.fromkeys(range(1, count + 1), _OBJECT.id))
        annotations += instance_annotations(
            labels, masks, [_OBJECT], image_id, first_id=len(annotations) + 1
        )
    categories = [{"id": _OBJECT.id, "name": _OBJECT.name}]
    write_json(
        output,
        {"images": list(truth.images), "annotations": annotations, "categories": categories},
    )
    return len(annotations)
