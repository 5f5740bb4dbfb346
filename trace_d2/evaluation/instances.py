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

from trace_d2.io.coco_boxes import check_places, warn_of_repeats
from trace_d2.io.coco_instances import InstanceFile, read_predictions, read_truth
from trace_d2.io.joining import join_images
from trace_d2.io.json_files import shown

logger = logging.getLogger(__name__)

IOU_TYPES = ("segm", "bbox")

METRICS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR_1", "AR_10", "AR_100", "ARs", "ARm", "ARl",
)  # fmt: skip
"""In the order of ``COCOeval.stats``. s, m and l: truth below 32^2, below 96^2 and from 96^2
pixels. AR_k allows k predictions an image; all others allow the most, 100 unless it is said."""

DETECTIONS = 100
"""How many predictions of an image count, the best first: as many as COCO's own evaluation takes.
LVIS takes 300."""

_MASKS = "give all annotations one, or score boxes alone (--iou bbox)"
_AREAS = ("", "s", "m", "l")


@dataclass(frozen=True)
class ClassAgnosticResult:
    """Scores over a data set.

    Attributes:
        scores: by "segm" and "bbox", then by the names in ``METRICS`` (and AR_k of other
            ``max_detections``): 0..1, or NaN where the truth has no such object.
        images: how many images the truth has.
        instances: how many objects the truth has, crowds left out.
        predictions: how many predictions were scored.
        missing: ids of the images of the truth without a prediction; their objects are missed.
        ignored: predictions that were left out because the truth lacks their image.
        boxes_alone: whether objects of the truth have no masks, so that there is no "segm".
        max_detections: how many predictions of an image count.
    """

    scores: dict[str, dict[str, float]]
    images: int
    instances: int
    predictions: int
    missing: tuple[Any, ...]
    ignored: int
    boxes_alone: bool = False
    max_detections: int = DETECTIONS

    @property
    def remarks(self) -> list[str]:
        """What one has to know to read the scores; empty for those of COCO's own kind."""
        lines = []
        if self.boxes_alone:
            lines.append(
                "objects of the truth have no masks: AP and AR are those of boxes (AP^box, not "
                "AP^mk), and a prediction without bbox counts by the box of its mask"
            )
        if self.max_detections != DETECTIONS:
            lines.append(f"{self.max_detections} predictions of an image count, not {DETECTIONS}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """For JSON: scores 0..1 by kind and name, None for NaN, the counts, and remarks if any."""
        scores = {
            kind: {name: None if math.isnan(value) else value for name, value in own.items()}
            for kind, own in self.scores.items()
        }
        counts = {key: value for key, value in vars(self).items() if key != "scores"}
        counts |= {"missing": list(self.missing), "remarks": self.remarks}
        if not self.remarks:
            for key in ("boxes_alone", "max_detections", "remarks"):
                del counts[key]
        return scores | counts


def class_agnostic_ap(
    truth: str | Path | Mapping[str, Any] | InstanceFile,
    predictions: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    iou_types: Sequence[str] | None = None,
    *,
    ignore_unknown: bool = False,
    match: str = "auto",
    image_ids: Collection[Any] | None = None,
    max_detections: int = DETECTIONS,
) -> ClassAgnosticResult:
    """Score instance predictions against a COCO truth, all categories as one.

    Crowds are handled as COCO does: a prediction that lies in one counts neither way. The area
    that sorts objects into s, m and l is the truth's ``area``, and that of the mask ("segm") or
    the box ("bbox") of a prediction. Predictions without any ``score`` all get 1; equal scores
    rank in the order of the file within an image, and by image id between images.

    Args:
        truth: COCO instances JSON, its content, or what ``read_truth`` returned for it.
        predictions: a list of results ``{image_id, score, segmentation and/or bbox}``, or a COCO
            dictionary with ``annotations``, or the path of either. Masks are polygons, RLE or
            uncompressed RLE; a ``bbox`` that is missing, or no box, is that of the mask.
        iou_types: "segm", "bbox" or both, which both files must have; None: both, or "bbox" alone
            of a truth of which objects have no masks (KITTI, Objects365, ...).
        ignore_unknown: leave out predictions of images that the truth lacks.
        match: how predictions find their image, one of ``trace_d2.io.joining.MATCHES``.
        image_ids: score these images of the truth alone; None: all of them.
        max_detections: how many predictions of an image count, 1 or more.

    Raises:
        ValueError: a file, annotation or image that does not fit, named.
        OSError: a file that cannot be read.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections={max_detections}: count 1 prediction an image or more")
    true = truth if isinstance(truth, InstanceFile) else read_scored_truth(truth, iou_types)
    iou_types = scored_kinds(true, iou_types)
    found = read_predictions(predictions, "segm" in iou_types, mask_remedy=_MASKS)
    rows = _rows_by_truth(true, found, match, ignore_unknown, "bbox" in iou_types)
    ignored = len(found.annotations) - len(rows)
    if image_ids is not None:
        true = true.only(image_ids)
        rows = [row for row in rows if row["image_id"] in true.images]
    predicted = {row["image_id"] for row in rows}
    return ClassAgnosticResult(
        scores={kind: _evaluate(true, rows, kind, max_detections) for kind in iou_types},
        images=len(true.images),
        instances=sum(not row["iscrowd"] for row in true.annotations),
        predictions=len(rows),
        missing=tuple(key for key in true.images if key not in predicted),
        ignored=ignored,
        boxes_alone=not true.has_masks,
        max_detections=max_detections,
    )


def _rows_by_truth(
    true: InstanceFile, found: InstanceFile, match: str, ignore_unknown: bool, boxes: bool
) -> list[dict[str, Any]]:
    """The predictions of images of the truth, with its image ids; see ``class_agnostic_ap``.

    ``boxes``: they count, so that they have to lie in the images.
    """
    true_ids = join_images(true.image_names, found.image_names, match)
    known = [row for row in found.annotations if row["image_id"] in true_ids]
    unknown = len(found.annotations) - len(known)
    if unknown and not (ignore_unknown and known):
        absent = {row["image_id"] for row in found.annotations} - set(true_ids)
        remedy = "leave them out with ignore_unknown (--ignore-unknown)"
        if not known:
            remedy = "no prediction is of an image of the truth: give the truth of these images"
            if all(isinstance(key, str) for key in absent):
                remedy += ", or its image ids, as the predictions have text"
        raise ValueError(
            f"{found.name}: {unknown} predictions of {len(absent)} images that {true.name} lacks "
            f"(such as {shown(min(map(str, absent)))}); {remedy}"
        )
    _warn_of_sizes(true, found, true_ids)
    rows = [row | {"image_id": true_ids[row["image_id"]]} for row in known]
    for row in rows:
        true.check_fit(row, found.name)
    check_places(rows, true.images, found.name, boxes)
    warn_of_repeats(rows, found.name)
    return rows


def _warn_of_sizes(true: InstanceFile, found: InstanceFile, true_ids: Mapping[Any, Any]) -> None:
    """Tell of images that the predictions list in another size: what is in pixels may be too."""
    other = []
    for key, image in found.images.items():
        size = image.get("height"), image.get("width")
        if key in true_ids and None not in size:
            own = true.images[true_ids[key]]
            if size not in ((own["height"], own["width"]), (own["width"], own["height"])):
                other.append(f"image {shown(key)} as {shown(size[1])} x {shown(size[0])}")
    if other:
        logger.warning(
            "%s: %d images are listed in another size than in %s: are masks and boxes in pixels of "
            "these? First: %s",
            found.name, len(other), true.name, other[0],
        )  # fmt: skip


def read_scored_truth(
    source: str | Path | Mapping[str, Any], iou_types: Sequence[str] | None
) -> InstanceFile:
    """The truth of a file or its content, for ``iou_types`` as ``class_agnostic_ap`` takes them."""
    truth = read_truth(source, None if "segm" in (iou_types or ()) else False, mask_remedy=_MASKS)
    unmasked = [row for row in truth.annotations if "segmentation" not in row]
    if iou_types is None and 0 < len(unmasked) < len(truth.annotations):
        logger.warning(
            "%s: %d of %d annotations have a box and no mask (segmentation), so that boxes alone "
            "are scored: give them one to score masks; first: in image %s",
            truth.name, len(unmasked), len(truth.annotations), shown(unmasked[0]["image_id"]),
        )  # fmt: skip
    boxes = iou_types is None or "bbox" in iou_types
    check_places(truth.annotations, truth.images, truth.name, boxes)
    warn_of_repeats(truth.annotations, truth.name)
    return truth


def scored_kinds(truth: InstanceFile, iou_types: Sequence[str] | None) -> tuple[str, ...]:
    """Which of ``IOU_TYPES`` are scored against ``truth``, see ``class_agnostic_ap``.

    Raises:
        ValueError: one of ``iou_types`` is unknown, or the truth has no masks for it, or no object.
    """
    for kind in iou_types or ():
        if kind not in IOU_TYPES:
            raise ValueError(f"iou type {kind!r}; choose from {', '.join(IOU_TYPES)}")
    if all(row["iscrowd"] for row in truth.annotations):
        what = "annotations but crowd regions" if truth.annotations else "annotations"
        raise ValueError(
            f"{truth.name} has no {what}, so there is nothing to find: give a truth with objects"
        )
    if iou_types is None:
        return IOU_TYPES if truth.has_masks else ("bbox",)
    if "segm" in iou_types and not truth.has_masks:
        raise ValueError(
            f"{truth.name} has no masks: give its annotations one, or score boxes alone "
            "(--iou bbox)"
        )
    return tuple(iou_types)


def _evaluate(
    true: InstanceFile, rows: list[dict[str, Any]], kind: str, max_detections: int
) -> dict[str, float]:
    """COCOeval's statistics by name, 0..1 or NaN."""
    truth = [_entry(true, row, number, kind) for number, row in enumerate(true.annotations, 1)]
    found = [_entry(true, row, number, kind) for number, row in enumerate(rows, 1)]
    empty = sum(entry["area"] == 0 for entry in found)
    if empty:
        what = "masks without a pixel" if kind == "segm" else "boxes without area"
        logger.warning("%d predictions are %s: they count as false ones", empty, what)
    ranks = _ranks(true)
    for entry in truth + found:
        entry["image_id"] = ranks[entry["image_id"]]
    # COCOeval and COCO report their progress by print.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_index(true, truth), _index(true, found), kind)
        few = [count for count in (1, 10, 100) if count < max_detections]
        evaluation.params.maxDets = [*few, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return _statistics(evaluation)


def _statistics(evaluation: COCOeval) -> dict[str, float]:
    """What ``COCOeval.summarize`` makes of the results, which it can for 100 predictions alone."""
    # Thresholds of IoU (0.5, 0.55, ...), of recall, classes, areas, numbers of predictions; the
    # other lacks those of recall.
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    scores = {"AP": precision[..., 0, -1]}
    scores |= {"AP50": precision[0, ..., 0, -1], "AP75": precision[5, ..., 0, -1]}
    sized = list(enumerate(_AREAS))[1:]
    scores |= {f"AP{name}": precision[..., area, -1] for area, name in sized}
    counts = enumerate(evaluation.params.maxDets)
    scores |= {f"AR_{count}": recall[..., 0, place] for place, count in counts}
    scores |= {f"AR{name}": recall[..., area, -1] for area, name in sized}
    return {name: _mean(values) for name, values in scores.items()}


def _mean(values: np.ndarray) -> float:
    """The mean of what is there: COCO writes -1 where there is nothing to find."""
    present = values[values > -1]
    return float(np.mean(present)) if present.size else math.nan


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
