"""Counting in label maps, in one pass over runs of equal labels.

A panoptic map has a few thousand runs where it has 300,000 pixels, so sorting the runs instead of
the pixels makes areas, boxes and overlaps some twenty times faster; on noise it costs the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

_AT_ONCE = 2**20  # pixels


def row_bands(shape: Sequence[int]) -> Iterator[slice]:
    """The rows of a map of ``shape`` (H, W), about a million pixels after the other.

    What is wider than the map, as the int64 that numpy counts in, is made of one band at a time.
    """
    rows = max(1, _AT_ONCE // max(1, shape[1]))
    for start in range(0, shape[0], rows):
        yield slice(start, min(shape[0], start + rows))


def label_areas(labels: np.ndarray, least: int = 0) -> np.ndarray:
    """int64 (R + 1,): pixels of each label of ``labels``, (H, W) of integers in 0..R.

    Args:
        least: the array is at least so long.
    """
    areas = np.zeros(max(int(labels.max(initial=0)) + 1, least), np.int64)
    for rows in row_bands(labels.shape):
        areas += np.bincount(labels[rows].ravel(), minlength=len(areas))
    return areas


def region_statistics(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Area and box of every label of ``labels``, (H, W) of any integer dtype, 0 included.

    Returns:
        int64: the K labels, ascending; (K,) areas in pixels; (K, 4) x, y, width, height in pixels.
    """
    check_map(labels)
    height, width = labels.shape
    if labels.size == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
    changes = np.ones((height, width), dtype=bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=changes[:, 1:])
    starts = np.flatnonzero(changes)
    lengths = np.diff(starts, append=labels.size)
    values = np.ascontiguousarray(labels).reshape(-1)[starts].astype(np.int64)
    order = np.argsort(values, kind="stable")
    values, starts, lengths = values[order], starts[order], lengths[order]
    first = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    rows, columns = np.divmod(starts, width)
    left = np.minimum.reduceat(columns, first)
    right = np.maximum.reduceat(columns + lengths, first)
    # A stable sort keeps the runs of a label in the order of the rows.
    top = rows[first]
    bottom = rows[np.append(first[1:], len(rows)) - 1] + 1
    boxes = np.stack((left, top, right - left, bottom - top), axis=1)
    return values[first], np.add.reduceat(lengths, first), boxes


def overlaps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels that each pair of labels of two maps (H, W) of integers in 0..2^31-1 shares.

    Returns:
        (P,) int64 each: labels in ``first``, labels in ``second``, shared pixels (> 0); pairs
        ascending.
    """
    check_map(first)
    if first.shape != second.shape:
        raise ValueError(f"label maps of different sizes: {first.shape} and {second.shape}")
    flat_first, flat_second = first.ravel(), second.ravel()
    changes = np.ones(flat_first.size, dtype=bool)
    changes[1:] = flat_first[1:] != flat_first[:-1]
    changes[1:] |= flat_second[1:] != flat_second[:-1]
    starts = np.flatnonzero(changes)
    keys = flat_first[starts].astype(np.int64) << 31 | flat_second[starts].astype(np.int64)
    pairs, inverse = np.unique(keys, return_inverse=True)
    counts = np.zeros(len(pairs), np.int64)
    np.add.at(counts, inverse, np.diff(starts, append=flat_first.size))
    return pairs >> 31, pairs & (2**31 - 1), counts


def is_sliver(area: float, box: Sequence[float], pixels: int) -> bool:
    """Whether a region is too small or too thin for most objects.

    It is below 100 pixels of an image of 640 x 480, or on average thinner than 4.

    Args:
        area: pixels.
        box: x, y, width, height in pixels.
        pixels: of the image.
    """
    scale = pixels / (640 * 480)
    thickness = area / max(box[2], box[3], 1)
    return area < 100 * scale or thickness < 4 * math.sqrt(scale)


def check_map(labels: np.ndarray, rule: str = "a label map is (H, W) of integers") -> None:
    """Raise a ValueError that begins with ``rule`` unless ``labels`` is (H, W) of integers."""
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"{rule}, not {labels.dtype} of shape {labels.shape}")
