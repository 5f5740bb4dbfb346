"""What an image should be segmented into, before augmentation, and how it is read from labels.

A target generator is a function from a record of the data set to a ``PanopticTarget``. The dataset
mapper is given one, so the two ways to train, on labels made before and straight from semantic
masks and edges, differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.file_io import PathManager

from trace_d2.data.bad_records import Record, blame
from trace_d2.io.agreement import probable_cause
from trace_d2.io.categories import Category
from trace_d2.io.coco_panoptic import MAX_SEGMENT_ID, VOID, read_panoptic_png
from trace_d2.labels import PanopticLabel

MOST_8_BIT_SEGMENTS = 254
"""255 is what newer Detectron2 pads label maps with."""


@dataclass(frozen=True)
class PanopticTarget:
    """The segments of one image of N segments.

    Attributes:
        segment_map: uint8 (H, W), or uint16 for more than 254 segments; ``i + 1`` where segment
            ``i`` is, 0 = void. Each of the numbers occurs.
        category_ids: int64 (N,), contiguous.
        isthing: bool (N,).
        iscrowd: bool (N,), regions of several objects that no one told apart.
    """

    segment_map: np.ndarray
    category_ids: np.ndarray
    isthing: np.ndarray
    iscrowd: np.ndarray


TargetGenerator = Callable[[Record], PanopticTarget]


def read_target(record: Record) -> PanopticTarget:
    """The target of a label that was made before: a panoptic PNG and ``segments_info``.

    Args:
        record: of ``register_trace_panoptic``, or of any panoptic data set in the format of
            Mask2Former; its category ids are contiguous.

    Raises:
        BadRecordError: the PNG cannot be read, or disagrees with ``segments_info``.
        ValueError: the record is not one of a panoptic data set.
    """
    path = record_file(record, "pan_seg_file_name", "offline", "a panoptic data set")
    segments = record["segments_info"]
    for key in ("id", "category_id", "isthing"):
        if not all(key in segment for segment in segments):
            raise ValueError(
                f"segments_info of {path} lacks {key}: register the data set by "
                "register_trace_panoptic"
            )
    with blame(record):
        return number_segments(read_panoptic_png(path), segments, path)


def number_segments(
    segment_ids: np.ndarray, segments: Sequence[Mapping[str, Any]], path: Path
) -> PanopticTarget:
    """The target of a panoptic map.

    Args:
        segment_ids: int32 (H, W), 0 = void.
        segments: ``{id, category_id, isthing, iscrowd}`` of each segment, ``category_id``
            contiguous; a missing ``iscrowd`` is 0.
        path: of the map, for messages.
    """
    listed = np.array([segment["id"] for segment in segments], np.int64)
    if listed.size and not VOID < listed.min() <= listed.max() <= MAX_SEGMENT_ID:
        raise ValueError(f"{path}: segments_info has ids outside 1..{MAX_SEGMENT_ID}: correct them")
    dtype = np.uint8 if listed.size <= MOST_8_BIT_SEGMENTS else np.uint16
    largest = max(int(listed.max(initial=0)), int(segment_ids.max(initial=0)))
    numbers = np.zeros(largest + 1, dtype)
    numbers[listed] = np.arange(1, listed.size + 1)
    segment_map = np.take(numbers, segment_ids)
    empty = listed[np.bincount(segment_map.ravel(), minlength=listed.size + 1)[1:] == 0]
    unlisted = segment_ids[(segment_map == 0) & (segment_ids != VOID)]
    if empty.size or unlisted.size:
        cause = probable_cause(np.unique(segment_ids).tolist(), segments)
        raise ValueError(
            f"{path} and its segments_info disagree: ids without a pixel {empty.tolist()[:5]}, "
            f"ids without an entry {np.unique(unlisted).tolist()[:5]}{cause}: make the label again"
        )
    return PanopticTarget(
        segment_map,
        np.array([segment["category_id"] for segment in segments], np.int64),
        np.array([segment["isthing"] for segment in segments], bool),
        np.array([segment.get("iscrowd", 0) for segment in segments], bool),
    )


def label_target(label: PanopticLabel, categories: Sequence[Category]) -> PanopticTarget:
    """The target of a label of ``categories``; contiguous ids are ranks in that list."""
    ranks = {category.id: rank for rank, category in enumerate(categories)}
    count = len(label.segments)
    dtype = np.uint8 if count <= MOST_8_BIT_SEGMENTS else np.uint16
    return PanopticTarget(
        label.segment_ids.astype(dtype),
        np.array([ranks[segment.category_id] for segment in label.segments], np.int64),
        np.array([segment.isthing for segment in label.segments], bool),
        np.zeros(count, bool),
    )


def record_file(record: Record, key: str, targets: str, data_set: str) -> Path:
    """The local path of a file of ``record``."""
    if key not in record:
        raise ValueError(
            f"a record without {key} (image {record.get('file_name')}), but INPUT.TRACE.TARGETS is "
            f"{targets!r}: train on {data_set}, or change INPUT.TRACE.TARGETS or INPUT.TRACE.EDGES"
        )
    return Path(PathManager.get_local_path(record[key]))
