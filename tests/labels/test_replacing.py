"""Segments that get other masks: each pixel keeps exactly one segment."""

from __future__ import annotations

import numpy as np
import pytest

from trace_d2.io.categories import Category
from trace_d2.labels import PanopticLabeler
from trace_d2.labels.panoptic import LabelSettings
from trace_d2.labels.replacing import replace_masks
from trace_d2.masks.patches import patch_of

GROUND, CAT, DOG = 0, 3, 7
CATEGORIES = [Category(GROUND, "ground", False, (1, 1, 1)), Category(CAT, "cat", True, (2, 2, 2)),
              Category(DOG, "dog", True, (3, 3, 3))]  # fmt: skip


def label_of(semantic: list[str]):
    values = {".": GROUND, "c": CAT, "d": DOG, "?": 255}
    array = np.array([[values[letter] for letter in row] for row in semantic], np.uint8)
    settings = LabelSettings(cut="components", tiny_pieces="keep")
    return PanopticLabeler(CATEGORIES, settings)(array)


def mask_of(rows: list[str]):
    return patch_of(np.array([[letter == "x" for letter in row] for row in rows]))


def drawn(label) -> list[str]:
    letters = {0: "?", **{s.id: {GROUND: ".", CAT: "c", DOG: "d"}[s.category_id]
                          for s in label.segments}}  # fmt: skip
    return ["".join(letters[number] for number in row) for row in label.segment_ids.tolist()]


def test_a_thing_grows_into_stuff_and_gives_up_to_it() -> None:
    label = label_of(["......", ".ccc..", ".ccc..", "......"])
    moved = replace_masks(label, {2: [mask_of(["......", "..xxx.", "..xxx.", "......"])]})
    assert drawn(moved) == ["......", "..ccc.", "..ccc.", "......"]
    assert [(s.area, s.bbox) for s in moved.segments] == [(18, (0, 0, 6, 4)), (6, (2, 1, 3, 2))]


def test_what_is_given_up_goes_to_the_nearest_other_segment() -> None:
    label = label_of(["ccccdd", "ccccdd", "??????"])
    moved = replace_masks(label, {1: [mask_of(["xx....", "xx....", "......"])]})
    assert drawn(moved) == ["ccdddd", "ccdddd", "??????"]


def test_what_nobody_can_take_stays() -> None:
    label = label_of(["cccc", "????"])
    moved = replace_masks(label, {1: [mask_of(["xx..", "...."])]})
    assert drawn(moved) == ["cccc", "????"]


def test_void_stays_void() -> None:
    label = label_of(["c???", "c???"])
    moved = replace_masks(label, {1: [mask_of(["xxx.", "xxx."])]})
    assert drawn(moved) == ["c???", "c???"]


def test_things_lie_over_stuff_and_small_ones_over_large_ones() -> None:
    label = label_of(["......", "ccc.dd", "ccc.dd", "......"])
    everything = [mask_of(["xxxxxx"] * 4)]
    moved = replace_masks(label, {1: everything, 2: everything})
    assert drawn(moved) == ["cccccc", "ccccdd", "ccccdd", "cccccc"]  # no ground is left
    assert [s.category_id for s in moved.segments] == [CAT, DOG]
    assert [s.id for s in moved.segments] == [1, 2]


def test_parts_of_stuff() -> None:
    label = label_of(["..c..", "..c.."])
    left, right = mask_of(["x....", "x...."]), mask_of(["...xx", "...xx"])
    moved = replace_masks(label, {1: [left, right]})
    assert drawn(moved) == [".cc..", ".cc.."]  # the cat is all that is near what ground gave up


@pytest.mark.parametrize("seed", range(20))
def test_every_known_pixel_has_one_segment_whatever_the_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.choice([GROUND, CAT, DOG, 255], (5, 6), p=[0.4, 0.25, 0.25, 0.1]).astype(np.uint8)
    semantic = coarse.repeat(4, 0).repeat(4, 1)
    label = PanopticLabeler(CATEGORIES)(semantic)
    masks = {}
    for segment in label.segments:
        if rng.random() < 0.7:
            top, left = rng.integers(0, 12), rng.integers(0, 16)
            mask = np.zeros(semantic.shape, bool)
            mask[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = True
            masks[segment.id] = [patch_of(mask)]
    moved = replace_masks(label, masks)
    assert np.array_equal(moved.segment_ids > 0, semantic != 255)
    counts = np.bincount(moved.segment_ids.ravel(), minlength=len(moved.segments) + 1)
    assert [segment.area for segment in moved.segments] == counts[1:].tolist()
    assert [segment.id for segment in moved.segments] == list(range(1, len(moved.segments) + 1))
    classes = [(s.category_id, s.isthing) for s in label.segments]
    assert all((s.category_id, s.isthing) in classes for s in moved.segments)


def test_without_masks_nothing_changes() -> None:
    label = label_of(["..cc", "dd??"])
    same = replace_masks(label, {})
    assert np.array_equal(same.segment_ids, label.segment_ids)
    assert same.segments == label.segments
