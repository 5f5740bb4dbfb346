"""Masks in which everything that touches is one: what unsupervised segmentation tends to give.

Made from truth, they show how far edges alone can part instances.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from trace_d2.io.atomic import write_json
from trace_d2.io.categories import Category
from trace_d2.io.coco_panoptic import (
    PanopticSet,
    instance_annotations,
    load_panoptic_json,
    read_panoptic_png,
    segments_info,
)

_OBJECT = Category(1, "object", True, (255, 255, 255))


def write_merged_masks(
    truth_json: Path,
    truth_dir: Path,
    output: Path,
    progress: bool = True,
    *,
    per_class: bool = False,
) -> int:
    """Write the merged masks of a panoptic data set as COCO instances.

    The masks of an image are the 4-connected components of the union of its things, of one category
    "object", or, ``per_class``, those of the things of each category, which they keep. Crowd
    regions belong to none. Returns the number of masks.

    Raises:
        ValueError, OSError: the truth is damaged or ``output`` cannot be written.
    """
    truth = load_panoptic_json(truth_json)
    things = tuple(category for category in truth.categories if category.isthing)
    categories = things if per_class else (_OBJECT,)
    annotations: list[dict[str, Any]] = []
    for image_id, ids, segments in _images(truth, truth_dir, "merged masks", progress):
        for category in categories:
            chosen = {category.id} if per_class else {thing.id for thing in things}
            wanted = [s["id"] for s in segments if s["category_id"] in chosen and not s["iscrowd"]]
            if wanted:
                merged = _components(np.isin(ids, wanted), category, image_id, len(annotations) + 1)
                annotations += merged
    _write(output, truth, annotations, categories)
    return len(annotations)


def write_instances(truth_json: Path, truth_dir: Path, output: Path, progress: bool = True) -> int:
    """Write the things of a panoptic data set, crowd regions too, as COCO instances.

    Returns the number of masks.

    Raises:
        ValueError, OSError: the truth is damaged or ``output`` cannot be written.
    """
    truth = load_panoptic_json(truth_json)
    annotations: list[dict[str, Any]] = []
    for image_id, ids, segments in _images(truth, truth_dir, "instances", progress):
        crowd = [s["id"] for s in segments if s["iscrowd"]]
        try:
            found = segments_info(ids, {s["id"]: s["category_id"] for s in segments}, crowd)
        except ValueError as error:
            raise ValueError(f"{truth.path}: image {image_id}: {error}") from error
        annotations += instance_annotations(
            ids, found, truth.categories, image_id, first_id=len(annotations) + 1
        )
    _write(output, truth, annotations, truth.categories)
    return len(annotations)


def _images(
    truth: PanopticSet, truth_dir: Path, what: str, progress: bool
) -> Iterator[tuple[Any, np.ndarray, list[dict[str, Any]]]]:
    """Image id, segment ids (H, W) and segments of each image."""
    bar = tqdm(truth.annotations.items(), desc=what, unit="image", disable=not progress)
    for image_id, annotation in bar:
        ids = read_panoptic_png(truth_dir / annotation["file_name"])
        yield image_id, ids, annotation["segments_info"]


def _components(
    union: np.ndarray, category: Category, image_id: Any, first_id: int
) -> list[dict[str, Any]]:
    """Annotations of the 4-connected components of ``union`` (H, W) bool."""
    labels, count = ndimage.label(union)
    masks = segments_info(labels, dict.fromkeys(range(1, count + 1), category.id))
    return instance_annotations(labels, masks, [category], image_id, first_id)


def _write(
    output: Path,
    truth: PanopticSet,
    annotations: list[dict[str, Any]],
    categories: Iterable[Category],
) -> None:
    named = [{"id": category.id, "name": category.name} for category in categories]
    content = {"images": list(truth.images), "annotations": annotations, "categories": named}
    write_json(output, content)
