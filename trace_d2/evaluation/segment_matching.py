"""Which true and predicted segments of one image match, and which are wrong or missed.

Segments of one category match at IoU > 0.5, where the union leaves out the void pixels of the
truth. Where the definition leaves a choice, this follows panopticapi:

- A prediction that lies more than half in void, or in the crowd region of its category, is no
  false positive. Of several crowd regions of a category in one image only the last one counts.
- Truth pixels whose id the JSON does not list are not void: predictions there count.

Areas are counted in the PNGs. Panopticapi takes those of the truth from its JSON, which are the
same in a sound file and give IoU above 1 in others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trace_d2.io.agreement import Disagreement, compare_segments, probable_cause
from trace_d2.io.coco_panoptic import VOID
from trace_d2.io.regions import overlaps

IOU, TP, FP, FN = range(4)
"""Columns of the counts: sum of the IoU of the matches, matches, false and missed segments."""


def image_counts(
    truth_ids: np.ndarray,
    truth_segments: Sequence[Mapping[str, Any]],
    predicted_ids: np.ndarray,
    predicted_segments: Sequence[Mapping[str, Any]],
    rows: Mapping[int, int],
) -> np.ndarray:
    """Matches and misses of one image.

    Args:
        truth_ids, predicted_ids: (H, W) int32 segment ids, 0 = void.
        truth_segments: ``segments_info`` of the truth: id, category_id and, if there is one,
            iscrowd.
        predicted_segments: ``segments_info`` of the prediction: id and category_id.
        rows: row of each category id in the result.

    Returns:
        (C, 4) float64 of columns ``IOU``, ``TP``, ``FP``, ``FN``.

    Raises:
        ValueError: sizes differ, a category has no row, the prediction's segments are not those of
            its map, or the map of the truth has none of those listed.
    """
    return match_segments(truth_ids, truth_segments, predicted_ids, predicted_segments, rows)[0]


def match_segments(
    truth_ids: np.ndarray,
    truth_segments: Sequence[Mapping[str, Any]],
    predicted_ids: np.ndarray,
    predicted_segments: Sequence[Mapping[str, Any]],
    rows: Mapping[int, int],
) -> tuple[np.ndarray, Disagreement, Disagreement]:
    """``image_counts``, and how map and segments of truth and of prediction disagree."""
    if truth_ids.shape != predicted_ids.shape:
        raise ValueError(
            f"the prediction has (height, width) {predicted_ids.shape}, the truth "
            f"{truth_ids.shape}; predict at the size of the image"
        )
    truth = _Segments(truth_segments, rows, "true")
    predicted = _Segments(predicted_segments, rows, "predicted")
    pair_truth, pair_predicted, shared = overlaps(truth_ids, predicted_ids)
    other = _check_prediction(pair_predicted, shared, predicted_segments)
    try:
        disagreement = compare_segments(*_areas(pair_truth, shared), truth_segments)
    except ValueError as error:
        raise ValueError(f"truth: {error}") from error
    pairs = _Pairs(pair_truth, pair_predicted, shared, truth, predicted)
    matched_truth, matched_predicted, iou = _matches(truth, predicted, pairs)

    missed = ~truth.crowd
    missed[matched_truth] = False
    ignored = pairs.void + _crowd_pixels(truth, predicted, pairs)
    wrong = 2 * ignored <= pairs.predicted_areas
    wrong[matched_predicted] = False

    counts = np.zeros((len(rows), 4))
    np.add.at(counts[:, IOU], truth.rows[matched_truth], iou)
    np.add.at(counts[:, TP], truth.rows[matched_truth], 1)
    np.add.at(counts[:, FP], predicted.rows[wrong], 1)
    np.add.at(counts[:, FN], truth.rows[missed], 1)
    return counts, disagreement, other


def missed_counts(
    truth_segments: Sequence[Mapping[str, Any]], rows: Mapping[int, int]
) -> np.ndarray:
    """As ``image_counts`` for an image without any predicted segment: (C, 4) float64."""
    truth = _Segments(truth_segments, rows, "true")
    counts = np.zeros((len(rows), 4))
    np.add.at(counts[:, FN], truth.rows[~truth.crowd], 1)
    return counts


class _Segments:
    """``segments_info`` as arrays in order of the ids."""

    def __init__(
        self, segments: Sequence[Mapping[str, Any]], rows: Mapping[int, int], kind: str
    ) -> None:
        for segment in segments:
            if segment["category_id"] not in rows:
                raise ValueError(
                    f"{kind} segment {segment['id']} has category_id {segment['category_id']}, "
                    "which the categories of the truth lack: add it there, or correct the segment"
                )
        table = [(s["id"], rows[s["category_id"]], s.get("iscrowd", 0)) for s in segments]
        self.ids, self.rows, crowd = np.array(sorted(table), np.int64).reshape(-1, 3).T
        self.crowd = crowd == 1
        # By row, of several the last one listed.
        self.crowd_ids = {row: segment_id for segment_id, row, iscrowd in table if iscrowd == 1}

    def position(self, ids: np.ndarray) -> np.ndarray:
        """Index of each of ``ids`` among the segments, -1 where it is not one of them."""
        if not len(self.ids):
            return np.full(len(ids), -1)
        position = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return np.where(self.ids[position] == ids, position, -1)


class _Pairs:
    """Overlaps of true and predicted segments, as indices into their ``_Segments``.

    ``truth``, ``predicted`` and ``shared`` (pixels) are (P,) int64, of listed segments only;
    ``void`` is how many pixels of each prediction the truth leaves void.
    """

    def __init__(
        self,
        pair_truth: np.ndarray,
        pair_predicted: np.ndarray,
        shared: np.ndarray,
        truth: _Segments,
        predicted: _Segments,
    ) -> None:
        t, p = truth.position(pair_truth), predicted.position(pair_predicted)
        in_void = pair_truth == VOID
        self.void = _sum_at(p[in_void], shared[in_void], len(predicted.ids))
        self.truth_areas = _sum_at(t, shared, len(truth.ids))
        self.predicted_areas = _sum_at(p, shared, len(predicted.ids))
        listed = (t >= 0) & (p >= 0)
        self.truth, self.predicted, self.shared = t[listed], p[listed], shared[listed]


def _areas(labels: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different ``labels`` of pairs, which are ascending, and the pixels of each."""
    first = np.flatnonzero(np.concatenate(([True], labels[1:] != labels[:-1])))
    return labels[first], np.add.reduceat(shared, first)


def _check_prediction(
    pair_predicted: np.ndarray, shared: np.ndarray, segments: Sequence[Mapping[str, Any]]
) -> Disagreement:
    """Raise unless the segments of a prediction are those of its map, as in panopticapi.

    Areas may be others: a PNG of another image often has the same ids.
    """
    present = set(pair_predicted.tolist()) - {VOID}
    listed = {segment["id"] for segment in segments}
    if present != listed:
        raise ValueError(
            f"prediction: segments in the PNG but not in the JSON: {sorted(present - listed)[:5]}; "
            f"in the JSON but not in the PNG: {sorted(listed - present)[:5]}"
            f"{probable_cause(present, segments)}; write both from one result"
        )
    order = np.argsort(pair_predicted, kind="stable")
    return compare_segments(*_areas(pair_predicted[order], shared[order]), segments)


def _matches(
    truth: _Segments, predicted: _Segments, pairs: _Pairs
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(M,) indices of the matched true and predicted segments, and their IoU, float64."""
    able = (truth.rows[pairs.truth] == predicted.rows[pairs.predicted]) & ~truth.crowd[pairs.truth]
    t, p, shared = pairs.truth[able], pairs.predicted[able], pairs.shared[able]
    union = pairs.predicted_areas[p] + pairs.truth_areas[t] - shared - pairs.void[p]
    iou = shared / union
    good = iou > 0.5
    return t[good], p[good], iou[good]


def _crowd_pixels(truth: _Segments, predicted: _Segments, pairs: _Pairs) -> np.ndarray:
    """Pixels of each prediction inside the crowd region of its category."""
    crowds = np.array([truth.crowd_ids.get(row, VOID) for row in predicted.rows.tolist()], np.int64)
    inside = crowds[pairs.predicted] == truth.ids[pairs.truth]
    return _sum_at(pairs.predicted[inside], pairs.shared[inside], len(predicted.ids))


def _sum_at(position: np.ndarray, values: np.ndarray, length: int) -> np.ndarray:
    """(length,) int64: the sum of ``values`` at each position; positions of -1 are left out."""
    inside = position >= 0
    return np.bincount(position[inside], values[inside], length).astype(np.int64)
