from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trace_d2.propagation.merging import merge_groups, merge_masks


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / max(1, (one | other).sum())


def _plain_merge(masks: list[np.ndarray], threshold: float) -> tuple[list[np.ndarray], bool]:
    """Merge the best pair again and again; also says whether two pairs ever tied."""
    masks, tied = list(masks), False
    while True:
        pairs = [
            (_iou(masks[i], masks[j]), -i, -j)
            for i in range(len(masks))
            for j in range(i + 1, len(masks))
        ]
        above = sorted((pair for pair in pairs if pair[0] > threshold), reverse=True)
        if not above:
            return masks, tied
        tied |= len(above) > 1 and above[0][0] == above[1][0]
        _, i, j = above[0]
        masks[-i] = masks[-i] | masks[-j]
        del masks[-j]


def _random_masks(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 9, 11), bool)
    for mask in masks:
        y, x = rng.integers(0, 6, 2)
        mask[y : y + rng.integers(1, 7), x : x + rng.integers(1, 7)] = True
    return masks


def _groups(masks: np.ndarray, threshold: float) -> np.ndarray:
    return merge_groups(
        [np.flatnonzero(mask) for mask in masks], masks[0].size if len(masks) else 0, threshold
    )


def _as_set(masks: np.ndarray) -> list[bytes]:
    return sorted(mask.tobytes() for mask in masks)


def test_by_hand():
    masks = np.zeros((4, 1, 12), bool)
    masks[0, 0, 0:4] = True
    masks[1, 0, 8:12] = True
    masks[2, 0, 1:5] = True  # IoU 3/5 with the first
    masks[3, 0, 4:8] = True  # 1/7 with the third, 1/8 with their union
    merged = merge_masks(masks, np.array([0.2, 0.5, 0.9, 0.1]))
    np.testing.assert_array_equal(_groups(masks, 0.5), [0, 1, 0, 2])
    np.testing.assert_array_equal(merged.sources, [0, 1, 3])
    np.testing.assert_allclose(merged.scores, [0.9, 0.5, 0.1])
    np.testing.assert_array_equal(np.flatnonzero(merged.masks[0]), [0, 1, 2, 3, 4])


def test_the_threshold_must_be_exceeded():
    masks = np.zeros((2, 1, 4), bool)
    masks[0, 0, :2] = masks[1, 0, :4] = True
    assert len(merge_masks(masks, iou_threshold=0.5).masks) == 2
    assert len(merge_masks(masks, iou_threshold=0.49).masks) == 1


def test_a_union_can_reach_a_third_mask():
    masks = np.zeros((3, 1, 20), bool)
    masks[0, 0, 0:10] = True
    masks[1, 0, 4:14] = True  # 6/14 with the first
    masks[2, 0, 0:13] = True  # 10/13 with the first, 9/14 with the second, then 9/14
    assert len(merge_masks(masks).masks) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 14), st.sampled_from([0.0, 0.3, 0.5, 0.8]))
def test_equals_plain_merging_and_is_a_fixed_point(seed, count, threshold):
    masks = _random_masks(seed, count)
    merged = merge_masks(masks, iou_threshold=threshold)
    expected, _ = _plain_merge(list(masks), threshold)
    np.testing.assert_array_equal(merged.masks, np.array(expected).reshape(-1, 9, 11))
    again = merge_masks(merged.masks, iou_threshold=threshold)
    np.testing.assert_array_equal(again.masks, merged.masks)
    for mask, group in zip(masks, _groups(masks, threshold), strict=True):
        assert not (mask & ~merged.masks[group]).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_order_does_not_matter_without_ties(seed, count):
    masks = _random_masks(seed, count)
    assume(not _plain_merge(list(masks), 0.5)[1])
    order = np.random.default_rng(seed).permutation(count)
    assert _as_set(merge_masks(masks[order]).masks) == _as_set(merge_masks(masks).masks)


def test_empty_masks_stay_apart():
    assert len(merge_masks(np.zeros((2, 3, 3), bool), iou_threshold=0.0).masks) == 2
    assert merge_masks(np.zeros((0, 3, 4), bool)).masks.shape == (0, 3, 4)


def test_bad_input_is_refused():
    masks = np.ones((2, 3, 3), bool)
    with pytest.raises(ValueError, match="bool"):
        merge_masks(masks.astype(np.uint8))
    with pytest.raises(ValueError, match="scores"):
        merge_masks(masks, np.ones(3))
    with pytest.raises(ValueError, match="scores"):
        merge_masks(masks, np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="iou_threshold"):
        merge_masks(masks, iou_threshold=1.5)
