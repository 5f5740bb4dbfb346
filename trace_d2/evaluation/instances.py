"""Class-agnostic average precision and recall of masks and boxes, with COCO's own numbers.

All categories of the truth count as one, which is how unsupervised instance segmentation is
scored (AP^mk and AR^mk_100 of the paper). pycocotools' COCOeval does the matching.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from trace_d2.io.coco_instances import InstanceFile, read_predictions, read_truth
from trace_d2.io.joining import join_images
from trace_d2.io.json_files import shown

logger = logging.getLogger(__name__)

IOU_TYPES = ("segm", "bbox")

METRICS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR_1", "AR_10", "AR_100", "ARs", "ARm", "ARl",
)  # fmt: skip
"""In the order of ``COCOeval.stats``. s, m and l: truth below 32^2, below 96^2 and from 96^2
pixels. AR_k allows k predictions an image; all others allow 100."""


@dataclass(frozen=True)
class ClassAgnosticResult:
    """Scores over a data set.

    Attributes:
        scores: by "segm" and "bbox", then by the names in ``METRICS``: 0..1, or NaN where the
            truth has no such object.
        images: how many images the truth has.
        instances: how many objects the truth has, crowds left out.
        predictions: how many predictions were scored.
        missing: ids of the images of the truth without a prediction; their objects are missed.
        ignored: predictions that were left out because the truth lacks their image.
    """

    scores: dict[str, dict[str, float]]
    images: int
    instances: int
    predictions: int
    missing: tuple[Any, ...]
    ignored: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: scores 0..1 by kind and name, None for NaN, and the counts besides."""
        scores = {
            kind: {name: None if math.isnan(value) else value for name, value in own.items()}
            for kind, own in self.scores.items()
        }
        counts = {key: value for key, value in vars(self).items() if key != "scores"}
        return scores | counts | {"missing": list(self.missing)}


def class_agnostic_ap(
    truth: str | Path | Mapping[str, Any] | InstanceFile,
    predictions: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    iou_types: Sequence[str] = IOU_TYPES,
    *,
    ignore_unknown: bool = False,
    match: str = "auto",
    image_ids: Collection[Any] | None = None,
) -> ClassAgnosticResult:
    """Score instance predictions against a COCO truth, all categories as one.

    Crowds are handled as COCO does: a prediction that lies in one counts neither way. The area
    that sorts objects into s, m and l is the truth's ``area``, and that of the mask ("segm") or
    the box ("bbox") of a prediction. Predictions without any ``score`` all get 1; equal scores
    rank in the order of the file within an image, and by image id between images.

    Args:
        truth: COCO instances JSON, its content, or what ``read_truth`` returned for it, with
            masks where "segm" is scored.
        predictions: a list of results ``{image_id, score, segmentation and/or bbox}``, or a COCO
            dictionary with ``annotations``, or the path of either. Masks are polygons, RLE or
            uncompressed RLE; a ``bbox`` that is missing, or no box, is that of the mask.
        iou_types: "segm", "bbox" or both.
        ignore_unknown: leave out predictions of images that the truth lacks.
        match: how predictions find their image, one of ``trace_d2.io.joining.MATCHES``.
        image_ids: score these images of the truth alone; None: all of them.

    Raises:
        ValueError: a file, annotation or image that does not fit, named.
        OSError: a file that cannot be read.
    """
    for kind in iou_types:
        if kind not in IOU_TYPES:
            raise ValueError(f"iou type {kind!r}; choose from {', '.join(IOU_TYPES)}")
    masks = "segm" in iou_types
    true = truth if isinstance(truth, InstanceFile) else read_truth(truth, masks)
    found = read_predictions(predictions, masks)
    true_ids = join_images(true.image_names, found.image_names, match)
    known = [row for row in found.annotations if row["image_id"] in true_ids]
    ignored = len(found.annotations) - len(known)
    if ignored and not (ignore_unknown and known):
        absent = {row["image_id"] for row in found.annotations} - set(true_ids)
        remedy = "leave them out with ignore_unknown (--ignore-unknown)"
        if not known:
            remedy = "no prediction is of an image of the truth: give the truth of these images"
            if all(isinstance(key, str) for key in absent):
                remedy += ", or its image ids, as the predictions have text"
        raise ValueError(
            f"{found.name}: {ignored} predictions of {len(absent)} images that {true.name} lacks "
            f"(such as {shown(min(map(str, absent)))}); {remedy}"
        )
    rows = [row | {"image_id": true_ids[row["image_id"]]} for row in known]
    for row in rows:
        true.check_fit(row, found.name)
    if image_ids is not None:
        true = true.only(image_ids)
        rows = [row for row in rows if row["image_id"] in true.images]
    predicted = {row["image_id"] for row in rows}
    return ClassAgnosticResult(
        scores={kind: _evaluate(true, rows, kind) for kind in iou_types},
        images=len(true.images),
        instances=sum(not row["iscrowd"] for row in true.annotations),
        predictions=len(rows),
        missing=tuple(key for key in true.images if key not in predicted),
        ignored=ignored,
    )


def _evaluate(true: InstanceFile, rows: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """COCOeval's statistics by name, 0..1 or NaN."""
    truth = [_entry(true, row, number, kind) for number, row in enumerate(true.annotations, 1)]
    found = [_entry(true, row, number, kind) for number, row in enumerate(rows, 1)]
    empty = sum(entry["area"] == 0 for entry in found)
    if empty:
        what = "masks without a pixel" if kind == "segm" else "boxes of such masks"
        logger.warning("%d predictions are %s: they count as false ones", empty, what)
    ranks = _ranks(true)
    for entry in truth + found:
        entry["image_id"] = ranks[entry["image_id"]]
    # COCOeval and COCO report their progress by print.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_index(true, truth), _index(true, found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # COCO writes -1 where there is nothing to find.
    stats = [float(value) if value >= 0 else math.nan for value in evaluation.stats]
    return dict(zip(METRICS, stats, strict=True))


def _entry(true: InstanceFile, row: Mapping[str, Any], number: int, kind: str) -> dict[str, Any]:
    """An annotation as COCOeval wants it. Numbers start at 1, as it takes 0 for "no match"."""
    entry = {
        "id": number,
        "image_id": row["image_id"],
        "category_id": 1,
        "iscrowd": row.get("iscrowd", 0),
    }
    if kind == "bbox" and "bbox" in row:
        entry["bbox"] = list(row["bbox"])
    else:
        entry["segmentation"] = true.rle(row)
        entry["bbox"] = mask_api.toBbox(entry["segmentation"]).tolist()
    if "score" in row:
        entry["score"] = row["score"]
    elif "area" in row:
        return entry | {"area": row["area"]}
    boxes = kind == "bbox"
    area = np.prod(entry["bbox"][2:]) if boxes else mask_api.area(entry["segmentation"])
    return entry | {"area": float(area)}


def _ranks(true: InstanceFile) -> dict[Any, int]:
    """Image ids as COCOeval can sort them: of text and numbers together it would lose some."""
    order = sorted(true.images, key=lambda key: (isinstance(key, str), key))
    return {key: rank for rank, key in enumerate(order, 1)}


def _index(true: InstanceFile, annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [true.images[key] | {"id": rank} for key, rank in _ranks(true).items()],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    coco.createIndex()
    return coco
