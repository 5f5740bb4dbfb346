"""Panoptic quality straight from its definition: one mask at a time, no shortcut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Image = tuple[np.ndarray, Sequence[Mapping[str, Any]], np.ndarray, Sequence[Mapping[str, Any]]]


def panoptic_quality_reference(
    images: Sequence[Image], category_ids: Sequence[int]
) -> dict[int, tuple[float, int, int, int]]:
    """Sum of IoU, TP, FP and FN of each category.

    Args:
        images: (truth ids (H, W), truth segments, predicted ids (H, W), predicted segments) each,
            with at most one crowd segment a category; segments are COCO ``segments_info``.
        category_ids: the categories.
    """
    totals = {category: [0.0, 0, 0, 0] for category in category_ids}
    for truth_ids, truth_segments, predicted_ids, predicted_segments in images:
        void = truth_ids == 0
        matched_truth, matched_predicted = set(), set()
        for true in truth_segments:
            for guess in predicted_segments:
                if true["iscrowd"] or true["category_id"] != guess["category_id"]:
                    continue
                a, b = truth_ids == true["id"], predicted_ids == guess["id"]
                iou = float((a & b).sum()) / float((a | (b & ~void)).sum())
                if iou > 0.5:
                    totals[true["category_id"]][0] += iou
                    totals[true["category_id"]][1] += 1
                    matched_truth.add(true["id"])
                    matched_predicted.add(guess["id"])
        for guess in predicted_segments:
            if guess["id"] in matched_predicted:
                continue
            ignored = void.copy()
            for true in truth_segments:
                if true["iscrowd"] and true["category_id"] == guess["category_id"]:
                    ignored |= truth_ids == true["id"]
            mask = predicted_ids == guess["id"]
            if (mask & ignored).sum() / mask.sum() <= 0.5:
                totals[guess["category_id"]][2] += 1
        for true in truth_segments:
            if not true["iscrowd"] and true["id"] not in matched_truth:
                totals[true["category_id"]][3] += 1
    return {
        key: (value[0], int(value[1]), int(value[2]), int(value[3]))
        for key, value in totals.items()
    }
