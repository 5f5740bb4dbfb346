"""Panoptic quality (Kirillov et al., CVPR 2019), with the numbers of panopticapi.

A truth and a predicted segment of one category match at IoU > 0.5 (``segment_matching``).
PQ of a category is (sum of matched IoU) / (TP + FP/2 + FN/2) = SQ x RQ; means run over the
categories that have a segment anywhere, true or predicted. Means over images are an option.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trace_d2.io.agreement import Disagreement, warn_of_disagreements
from trace_d2.io.categories import Category, same_name
from trace_d2.io.coco_panoptic import (
    MAX_SEGMENT_ID,
    VOID,
    PanopticSet,
    load_panoptic_json,
    read_panoptic_png,
)
from trace_d2.io.joining import join_images
from trace_d2.io.json_files import shown
from trace_d2.io.paths import file_below
from trace_d2.parallel import ordered_map

from .segment_matching import match_segments, missed_counts

MISSING_POLICIES = ("error", "miss", "skip")
"""An image without prediction: refuse; count its segments as missed; leave the image out."""

AVERAGES = ("data", "images")
"""Qualities of a category: of its segments of all images together, as panopticapi has them, or the
mean of those of each image in which it occurs, as is usual for nuclei since HoVer-Net."""

CONSEQUENCE = "; areas are counted in the PNGs, and segments without a pixel are missed"
"""What disagreements of PNGs and JSON of the truth mean for the result."""

# To start a process takes as long as to count some 60 photographs.
_IMAGES_A_WORKER = 100


@dataclass(frozen=True)
class CategoryQuality:
    """Quality of one category, 0..1, and the counts behind it.

    Attributes:
        pq, sq, rq: 0 where the category has no segment at all; means over images if so asked.
        iou: sum of the IoU of the matched segments.
        tp, fp, fn: matched, wrongly predicted and missed segments.
    """

    pq: float
    sq: float
    rq: float
    iou: float
    tp: int
    fp: int
    fn: int


@dataclass(frozen=True)
class GroupQuality:
    """Mean quality over ``n`` categories, 0..1; NaN where ``n`` is 0."""

    pq: float
    sq: float
    rq: float
    n: int


@dataclass(frozen=True)
class PanopticQuality:
    """The result over a data set.

    Attributes:
        all, things, stuff: means over the categories that occur.
        per_category: quality of each category, by its id.
        categories: those of the truth, in its order.
        images: how many images went in.
        missing: ids of the images of the truth that had no prediction.
        average: what the qualities are of, one of ``AVERAGES``.
    """

    all: GroupQuality
    things: GroupQuality
    stuff: GroupQuality
    per_category: dict[int, CategoryQuality]
    categories: tuple[Category, ...]
    images: int
    missing: tuple[Any, ...]
    average: str = "data"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: panopticapi's keys and counts besides; None where a mean is over nothing."""
        groups = {"All": self.all, "Things": self.things, "Stuff": self.stuff}
        result: dict[str, Any] = {
            name: {key: None if math.isnan(value) else value for key, value in vars(group).items()}
            for name, group in groups.items()
        }
        result["per_class"] = {key: vars(value) for key, value in self.per_category.items()}
        result |= {"images": self.images, "missing": list(self.missing)}
        return result if self.average == "data" else result | {"average": self.average}


def summarize(
    counts: np.ndarray,
    categories: Sequence[Category],
    images: int,
    missing: Iterable[Any] = (),
) -> PanopticQuality:
    """Qualities from counts float64 of ``image_counts``.

    Args:
        counts: (C, 4), summed over ``images`` images; or (N, C, 4), those of each image, of which
            the means over images are taken (``"images"`` of ``AVERAGES``).
    """
    over_images = counts.ndim == 3
    totals = counts.sum(0) if over_images else counts
    occurs = totals[:, 1:].sum(1) > 0
    pq, sq, rq = _means(counts) if over_images else _qualities(counts)
    isthing = np.array([category.isthing for category in categories], dtype=bool)

    def mean(chosen: np.ndarray) -> GroupQuality:
        if not chosen.any():
            return GroupQuality(math.nan, math.nan, math.nan, 0)
        means = [float(quality[chosen].mean()) for quality in (pq, sq, rq)]
        return GroupQuality(means[0], means[1], means[2], int(chosen.sum()))

    rows = zip(*(column.tolist() for column in (pq, sq, rq, *totals.T)), strict=True)
    per_category = {
        category.id: CategoryQuality(*row[:4], *map(int, row[4:]))
        for category, row in zip(categories, rows, strict=True)
    }
    return PanopticQuality(
        mean(occurs),
        mean(occurs & isthing),
        mean(occurs & ~isthing),
        per_category,
        tuple(categories),
        images,
        tuple(missing),
        "images" if over_images else "data",
    )


def _qualities(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PQ, SQ and RQ (...,) of counts (..., 4); 0 where a category does not occur."""
    iou, tp, fp, fn = np.moveaxis(counts, -1, 0)
    weight = tp + 0.5 * fp + 0.5 * fn
    pq = np.divide(iou, weight, out=np.zeros_like(iou), where=weight > 0)
    sq = np.divide(iou, tp, out=np.zeros_like(iou), where=tp > 0)
    rq = np.divide(tp, weight, out=np.zeros_like(iou), where=weight > 0)
    return pq, sq, rq


def _means(counts: np.ndarray) -> list[np.ndarray]:
    """PQ, SQ and RQ (C,): means over those of (N, C, 4) images in which a category occurs."""
    occurs = counts[..., 1:].any(-1)
    number = occurs.sum(0).clip(min=1)
    return [(quality * occurs).sum(0) / number for quality in _qualities(counts)]


def panoptic_quality(
    truth_json: str | Path,
    truth_dir: str | Path,
    predicted_json: str | Path,
    predicted_dir: str | Path,
    *,
    workers: int = 1,
    missing: str = "error",
    progress: bool = False,
    image_ids: Collection[Any] | None = None,
    match: str = "auto",
    average: str = "data",
) -> PanopticQuality:
    """PQ, SQ and RQ of the predictions in COCO panoptic format.

    Where PNGs and JSON of the truth disagree in single segments, a warning counts them.

    Args:
        truth_json, predicted_json: COCO panoptic JSON files. The categories are the truth's;
            predictions of images that the truth lacks are not looked at.
        truth_dir, predicted_dir: folders of the PNGs that the annotations name.
        workers: processes at most, see ``ordered_map``; less than 200 images run in this one.
        missing: what an image without prediction means, one of ``MISSING_POLICIES``.
        progress: show a progress bar.
        image_ids: score these images of the truth alone; None: all of them.
        match: how a prediction finds its image, one of ``trace_d2.io.joining.MATCHES``.
        average: what the quality of a category is of, one of ``AVERAGES``.

    Raises:
        FileNotFoundError, ValueError: a file is missing or wrong; the message names it.
    """
    if average not in AVERAGES:
        raise ValueError(f"average={average!r}; choose one of {', '.join(AVERAGES)}")
    truth, predicted = _comparable_sets(truth_json, predicted_json)
    joined = join_images(truth.names, predicted.names, match)
    found = {own: predicted.annotations[key] for key, own in joined.items()}
    if image_ids is not None:
        truth = truth.only(image_ids)
    for folder in (truth_dir, predicted_dir):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"no folder of panoptic PNGs at {folder}; correct the path")
    absent = missing_predictions(truth, found, missing, str(predicted.path))
    rows = {category.id: row for row, category in enumerate(truth.categories)}
    pairs = {
        image_id: (annotation, found.get(image_id), truth.sizes.get(image_id))
        for image_id, annotation in truth.annotations.items()
        if missing != "skip" or image_id in found
    }
    count = partial(
        _count_pair, truth_dir=Path(truth_dir), predicted_dir=Path(predicted_dir), rows=rows
    )
    results = ordered_map(
        count, list(pairs.values()), workers, items_a_worker=_IMAGES_A_WORKER, progress=progress
    )
    each, *disagreements = zip(*results, strict=True)
    of_truth, of_predicted = (dict(zip(pairs, own, strict=True)) for own in disagreements)
    warn_of_disagreements(str(truth.path), of_truth, CONSEQUENCE)
    warn_of_disagreements(
        str(predicted.path), of_predicted, "; are the PNGs those of these images?"
    )
    counts = np.array(each) if average == "images" else sum(each, np.zeros((len(rows), 4)))
    return summarize(counts, truth.categories, len(pairs), absent)


def _comparable_sets(
    truth_json: str | Path, predicted_json: str | Path
) -> tuple[PanopticSet, PanopticSet]:
    """Truth, which is not empty, and predictions, whose categories mean the same."""
    truth = load_panoptic_json(truth_json)
    if not truth.categories:
        raise ValueError(f'{truth.path} has no "categories"; give the truth as released')
    if not truth.annotations:
        raise ValueError(f"{truth.path} has no annotations: give the truth of one image at least")
    predicted = load_panoptic_json(predicted_json)
    check_category_names(truth, predicted)
    return truth, predicted


def check_category_names(truth: PanopticSet, predicted: PanopticSet) -> None:
    """Raise where a category of ``predicted`` has the id of one and the name of another.

    Names that the truth has nowhere are only spelled in another way, as "tv" for "tvmonitor".
    """
    for category in predicted.categories:
        other = same_name(category, truth.categories)
        if other is not None and other.id != category.id:
            raise ValueError(
                f"{predicted.path}: category {category.id} is {shown(category.name)}, which has "
                f"the id {other.id} in {truth.path}: make the predictions with the ids of the truth"
            )


def missing_predictions(
    truth: PanopticSet, predicted: Mapping[Any, Any], policy: str, origin: str
) -> list[Any]:
    """Ids of the truth's images that ``predicted``, read from ``origin``, has no entry for.

    Refuses an unknown policy, no common image and, under ``"error"``, any that is missing.
    """
    if policy not in MISSING_POLICIES:
        raise ValueError(f"missing={policy!r}; choose one of {', '.join(MISSING_POLICIES)}")
    absent = [image_id for image_id in truth.annotations if image_id not in predicted]
    if len(absent) == len(truth.annotations):
        raise ValueError(
            f"{origin} and {truth.path} have no image id in common; are they of one data set, and "
            "were the labels made with its image ids?"
        )
    if absent and policy == "error":
        few = ", ".join(map(shown, absent[:5])) + (", ..." if len(absent) > 5 else "")
        raise ValueError(
            f"{origin} has no prediction for {len(absent)} of {len(truth.annotations)} images "
            f'({few}); make them, or choose missing "miss" (count their segments as missed) or '
            '"skip" (leave the images out)'
        )
    return absent


def decode_prediction(
    panoptic: np.ndarray, segments: Sequence[Mapping[str, Any]] | None, metadata: Any
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """What a Detectron2 model predicts, with the category ids of the data set.

    ``panoptic`` and ``segments`` are as ``PanopticQualityEvaluator.process`` takes them. Returns
    segment ids (H, W) int32 with void 0, and ``{id, category_id}`` each.
    """
    # A copy, as the pixels are the model's; int64, as their own type may not hold one more.
    segment_ids = panoptic.astype(np.int64)
    if segments is None:
        things = set(metadata.thing_dataset_id_to_contiguous_id.values())
        segment_ids += 1
        labels = [label for label in np.unique(segment_ids).tolist() if label]
        categories = [(label - 1) // metadata.label_divisor for label in labels]
        segments = [
            {"id": label, "category_id": category, "isthing": category in things}
            for label, category in zip(labels, categories, strict=True)
        ]
    if segment_ids.min() < VOID or segment_ids.max() > MAX_SEGMENT_ID:
        void = "-1 without segments_info, 0 with it"
        raise ValueError(
            f"panoptic_seg leaves 0..{MAX_SEGMENT_ID}: its void must be {void}, and what it "
            f"holds was read as {segment_ids.min()}..{segment_ids.max()}"
        )
    decoded = [
        {"id": int(segment["id"]), "category_id": _dataset_id(segment, metadata)}
        for segment in segments
    ]
    return segment_ids.astype(np.int32), decoded


def _dataset_id(segment: Mapping[str, Any], metadata: Any) -> int:
    """The data set's category id; a segment without ``isthing`` carries it already."""
    contiguous = int(segment["category_id"])
    if segment.get("isthing") is None:
        return contiguous
    kind = "thing" if segment["isthing"] else "stuff"
    table = getattr(metadata, f"{kind}_dataset_id_to_contiguous_id")
    for dataset_id, known in table.items():
        if known == contiguous:
            return int(dataset_id)
    raise ValueError(f"predicted {kind} category {contiguous} is not in the metadata")


def _count_pair(
    pair: tuple[Mapping[str, Any], Mapping[str, Any] | None, tuple[int, int] | None],
    truth_dir: Path,
    predicted_dir: Path,
    rows: Mapping[int, int],
) -> tuple[np.ndarray, Disagreement, Disagreement]:
    """Counts of one image from its two annotations; None as prediction misses all segments."""
    truth, predicted, size = pair
    try:
        if predicted is None:
            return missed_counts(truth["segments_info"], rows), Disagreement(), Disagreement()
        truth_png = file_below(truth_dir, truth["file_name"])
        truth_ids = read_panoptic_png(truth_png, size, "the JSON of the truth")
        predicted_png = file_below(predicted_dir, predicted["file_name"])
        predicted_ids = read_panoptic_png(predicted_png, truth_ids.shape, "the truth")
        pairs = truth["segments_info"], predicted_ids, predicted["segments_info"]
        try:
            return match_segments(truth_ids, *pairs, rows)
        except ValueError as error:
            raise ValueError(f"{truth_png} and {predicted_png}: {error}") from error
    except ValueError as error:
        raise ValueError(f"image {shown(truth['image_id'])}: {error}") from error
