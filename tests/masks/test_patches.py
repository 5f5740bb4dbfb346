"""Masks kept as their boxes."""

from __future__ import annotations

import numpy as np
import pytest

from trace_d2.masks.patches import Patch, common, grown, iou, patch_of, patches_of_regions

WHOLE = slice(0, 12), slice(0, 9)


def random_masks(seed: int, count: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        mask = np.zeros((12, 9), bool)
        top, left = rng.integers(0, 8), rng.integers(0, 6)
        mask[top : top + 4, left : left + 4] = (
            rng.random((12, 9))[top : top + 4, left : left + 4] < 0.6
        )
        masks.append(mask)
    return [mask for mask in masks if mask.any()]


def test_patches_hold_the_whole_mask_and_nothing_else() -> None:
    for mask in random_masks(0):
        patch = patch_of(mask)
        assert np.array_equal(patch.cut_out(WHOLE), mask)
        assert patch.area == mask.sum()
        assert patch.mask[0].any()
        assert patch.mask[-1].any()
        assert patch.mask[:, 0].any()
        assert patch.mask[:, -1].any()
    assert patch_of(np.zeros((4, 5), bool)) is None


def test_cut_out_is_what_the_box_shows() -> None:
    rng = np.random.default_rng(1)
    for mask in random_masks(1):
        top, left = rng.integers(0, 6), rng.integers(0, 5)
        box = slice(top, top + 5), slice(left, left + 4)
        assert np.array_equal(patch_of(mask).cut_out(box), mask[box])


def test_iou_of_patches_is_that_of_the_masks() -> None:
    masks = random_masks(2)
    for one in masks:
        for other in masks:
            expected = (one & other).sum() / (one | other).sum()
            assert iou(patch_of(one), patch_of(other)) == pytest.approx(expected)


def test_regions() -> None:
    numbers = np.array([[0, 2, 2], [5, 5, 2], [0, 5, 0]])
    found = patches_of_regions(numbers)
    assert list(found) == [2, 5]
    for number, patch in found.items():
        assert np.array_equal(patch.cut_out((slice(0, 3), slice(0, 3))), numbers == number)


def test_boxes() -> None:
    box = slice(2, 5), slice(0, 4)
    assert common(box, (slice(4, 9), slice(3, 9))) == (slice(4, 5), slice(3, 4))
    assert common(box, (slice(5, 9), slice(0, 4))) is None
    assert grown(box, (1, 2), (6, 5)) == (slice(1, 6), slice(0, 5))
    assert Patch(box, np.ones((3, 4), bool)).area == 12
