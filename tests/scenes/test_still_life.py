"""Still lifes: photograph-like scenes whose masks merge touching things of one class."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from trace_d2.io.categories import load_categories
from trace_d2.io.images import read_semantic
from trace_d2.scenes.dataset import SceneSettings, still_life_categories, write_scenes
from trace_d2.scenes.still_life import STILL_LIFE_IDS, make_still_life


def test_a_scene_is_a_function_of_series_and_index():
    first, again, other = (make_still_life(3, index, (48, 64)) for index in (5, 5, 6))
    assert first.image.shape == (48, 64, 3)
    assert first.image.dtype == np.uint8
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.segment_ids, again.segment_ids)
    assert not np.array_equal(first.image, other.image)


def test_every_pixel_belongs_to_a_segment_and_fruits_are_seen():
    for index in range(6):
        scene = make_still_life(0, index, (96, 128))
        areas = np.bincount(scene.segment_ids.ravel())
        assert areas[0] == 0
        assert len(areas) - 1 == len(scene.category_ids) >= 5
        assert areas[1:].min() > 30
        assert scene.category_ids[0] == STILL_LIFE_IDS["background"]
        assert set(scene.category_ids) <= set(STILL_LIFE_IDS.values())


def test_masks_of_a_class_merge_what_touches():
    merged = 0
    for index in range(6):
        scene = make_still_life(0, index, (96, 128))
        semantic = scene.semantic()
        for number in (1, 2, 3):
            blobs = cv2.connectedComponents((semantic == number).astype(np.uint8))[0] - 1
            merged += scene.category_ids.count(number) - blobs
    assert merged >= 6


def test_the_data_set_comes_with_a_text_of_classes(tmp_path):
    settings = SceneSettings(0, (48, 64), style="still-life")
    write_scenes(tmp_path, 2, settings, progress=False)
    categories = load_categories(tmp_path / "classes.txt")
    assert categories == load_categories(tmp_path / "categories.json") == still_life_categories()
    mask = read_semantic(tmp_path / "semantic" / "scene_000001.png")
    assert np.array_equal(mask, make_still_life(0, 1, (48, 64)).semantic())


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match="at least 32"):
        make_still_life(0, 0, (16, 64))
