"""Labels for the next round of self-training (CutLER, CVPR 2023, section 3.4).

A detector trained on pseudo masks finds objects that they lack. What it predicts with confidence on
the training images becomes labels, and of the earlier labels those stay that no prediction covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from trace_d2.io.coco_instances import InstanceFile, read_predictions, read_truth
from trace_d2.io.joining import join_images
from trace_d2.io.json_files import shown
from trace_d2.io.mask_rle import text_rle


@dataclass(frozen=True)
class SelfTrainingSummary:
    """What became of predictions and earlier labels.

    Attributes:
        images: how many are listed.
        unlabelled: images without any label afterwards. They stay listed.
        new: predictions that became labels.
        kept: earlier labels that stay.
        replaced: earlier labels that gave way to a prediction.
        below_threshold: predictions of too low a score.
        empty: predictions of a sufficient score, and earlier labels, without a pixel.
    """

    images: int
    unlabelled: int
    new: int
    kept: int
    replaced: int
    below_threshold: int
    empty: int

    def __str__(self) -> str:
        return (
            f"{self.images} images, {self.unlabelled} of them without labels\n"
            f"{self.new + self.kept} labels: {self.new} new predictions, {self.kept} earlier "
            f"labels kept\n"
            f"dropped: {self.replaced} earlier labels that a prediction replaces, "
            f"{self.below_threshold} predictions below the threshold, {self.empty} empty ones"
        )


def merge_predictions(
    labels: str | Path | Mapping[str, Any],
    predictions: str | Path | Sequence[Mapping[str, Any]],
    *,
    threshold: float = 0.7,
    overlap: float = 0.5,
) -> tuple[dict[str, Any], SelfTrainingSummary]:
    """Join confident predictions and the earlier labels that they do not cover.

    Args:
        labels: COCO instances that the detector was trained on, or the path. Where width and
            height of the images are swapped, they are swapped back.
        predictions: its results on the same images: ``{image_id, score, segmentation}`` each.
        threshold: predictions of this score (0..1) or more become labels.
        overlap: an earlier label goes if its mask IoU (0..1) with one of them is above this.

    Returns:
        COCO instances of one category: by image, predictions by falling score, then the labels that
        stay, masks as RLE; and the summary.

    Raises:
        ValueError: a faulty file, predictions without scores or of images that are not listed, or a
            threshold outside 0..1.
        OSError: a file that cannot be read.
    """
    for name, value in (("threshold", threshold), ("overlap", overlap)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it must lie in 0..1")
    earlier = read_truth(labels, masks=True)
    found = read_predictions(predictions, masks=True, need_scores=True)
    found = _of_listed_images(found, earlier)
    for row in found.annotations:
        earlier.check_fit(row, found.name)
    confident = [row for row in found.annotations if row["score"] >= threshold]
    confident.sort(key=lambda row: -row["score"])
    new, old = _by_image(confident, earlier), _by_image(earlier.annotations, earlier)
    annotations: list[dict[str, Any]] = []
    counts = {"new": 0, "kept": 0, "replaced": 0, "unlabelled": 0}
    for image_id in earlier.images:
        masks = [mask for mask, _ in new[image_id]]
        stay = _uncovered(masks, old[image_id], overlap)
        counts["new"] += len(masks)
        counts["kept"] += len(stay)
        counts["replaced"] += len(old[image_id]) - len(stay)
        counts["unlabelled"] += not masks and not stay
        for mask, crowd in [(mask, 0) for mask in masks] + stay:
            annotations.append(_annotation(len(annotations) + 1, image_id, mask, crowd))
    given = len(confident) + len(earlier.annotations)
    content = {
        "images": list(earlier.images.values()),
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    return content, SelfTrainingSummary(
        images=len(earlier.images),
        below_threshold=len(found.annotations) - len(confident),
        empty=given - counts["new"] - counts["kept"] - counts["replaced"],
        **counts,
    )


def _of_listed_images(found: InstanceFile, labels: InstanceFile) -> InstanceFile:
    """``found`` with the image ids of the labels, which list all of its images."""
    ids = join_images(labels.image_names, found.image_names)
    absent = {row["image_id"] for row in found.annotations} - set(ids)
    if absent:
        raise ValueError(
            f"{found.name} has predictions of {len(absent)} images that {labels.name} lacks (such "
            f"as {shown(min(map(str, absent)))}); predict on the images that the labels list"
        )
    rows = [row | {"image_id": ids[row["image_id"]]} for row in found.annotations]
    return InstanceFile(found.name, found.images, rows)


_Mask = tuple[dict[str, Any], int]  # compressed, and its ``iscrowd``


def _by_image(rows: Sequence[dict[str, Any]], labels: InstanceFile) -> dict[Any, list[_Mask]]:
    """The masks of each image that have a pixel, by its id."""
    grouped: dict[Any, list[_Mask]] = {key: [] for key in labels.images}
    for row in rows:
        mask = labels.rle(row)
        if mask_api.area(mask):
            grouped[row["image_id"]].append((mask, row.get("iscrowd", 0)))
    return grouped


def _uncovered(masks: list[dict[str, Any]], old: list[_Mask], overlap: float) -> list[_Mask]:
    """Earlier masks whose IoU with each of ``masks`` is small enough."""
    if not masks or not old:
        return old
    iou = mask_api.iou([mask for mask, _ in old], masks, [0] * len(masks))
    return [old[row] for row in np.flatnonzero(iou.max(1) <= overlap)]


def _annotation(number: int, image_id: Any, mask: dict[str, Any], crowd: int) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": crowd,
        "area": int(mask_api.area(mask)),
        "bbox": mask_api.toBbox(mask).tolist(),
        "segmentation": text_rle(mask),
    }
