"""Procedural scenes: exact truth, determinism, and the difficulty they are made for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from trace_d2.scenes.procedural import (
    CATEGORY_IDS,
    LEAST_VISIBLE,
    STUFF_CLASSES,
    THING_CLASSES,
    THING_TEXTURES,
    make_scene,
    smooth_noise,
)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(0, 10**6),
    st.tuples(st.integers(32, 90), st.integers(32, 90)),
)
def test_a_scene_is_whole_and_repeatable(seed: int, index: int, size: tuple[int, int]) -> None:
    scene = make_scene(seed, index, size)
    again = make_scene(seed, index, size)
    np.testing.assert_array_equal(scene.image, again.image)
    np.testing.assert_array_equal(scene.segment_ids, again.segment_ids)
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == np.uint8
    assert set(np.unique(scene.segment_ids)) == set(range(1, len(scene.category_ids) + 1))
    assert set(scene.category_ids) <= set(CATEGORY_IDS.values())


def test_series_and_indices_differ() -> None:
    first = make_scene(0, 0).image
    assert not np.array_equal(first, make_scene(0, 1).image)
    assert not np.array_equal(first, make_scene(1, 0).image)


def test_stuff_has_one_segment_a_class_and_semantic_follows() -> None:
    stuff = {CATEGORY_IDS[name] for name in STUFF_CLASSES}
    for index in range(8):
        scene = make_scene(3, index)
        listed = [c for c in scene.category_ids if c in stuff]
        assert len(listed) == len(set(listed))
        semantic = scene.semantic()
        for segment, category in enumerate(scene.category_ids, start=1):
            assert (semantic[scene.segment_ids == segment] == category).all()


def test_same_class_instances_touch_often() -> None:
    """Else connected components would be the answer already."""
    things, merged = 0, 0
    for index in range(30):
        scene = make_scene(5, index)
        semantic = scene.semantic()
        for name in THING_CLASSES:
            count = sum(c == CATEGORY_IDS[name] for c in scene.category_ids)
            things += count
            merged += count - min(count, ndimage.label(semantic == CATEGORY_IDS[name])[1])
    assert things > 90
    assert merged > 0.2 * things


def test_larger_scenes_hold_more_objects_not_larger_ones() -> None:
    small = np.mean([len(make_scene(6, i).category_ids) for i in range(6)])
    large = np.mean([len(make_scene(6, i, (256, 256)).category_ids) for i in range(6)])
    assert large > 2.5 * small


def test_too_small_a_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        make_scene(0, 0, (31, 64))


@pytest.mark.parametrize("name", sorted(THING_TEXTURES))
def test_textures_use_both_colours(name: str) -> None:
    y, x = np.mgrid[:48, :48].astype(np.float32)
    pattern = THING_TEXTURES[name](x, y, np.random.default_rng(0))
    assert pattern.shape == (48, 48)
    assert pattern.min() >= 0
    assert pattern.max() <= 1
    assert 0.2 < pattern.mean() < 0.8
    assert (pattern < 0.2).mean() > 0.15
    assert (pattern > 0.8).mean() > 0.15


def test_smooth_noise_is_normal() -> None:
    noise = smooth_noise((200, 100), 3.0, np.random.default_rng(0))
    assert abs(noise.mean()) < 1e-4
    assert noise.std() == pytest.approx(1, abs=1e-4)


def test_areas_of_objects_are_chosen() -> None:
    """Of half a percent to two percent, before others hide a part; much is covered in any case."""
    scene = make_scene(7, 0, (256, 256), (0.005, 0.02))
    things = [c in {CATEGORY_IDS[name] for name in THING_CLASSES} for c in scene.category_ids]
    areas = np.bincount(scene.segment_ids.ravel())[1:][things] / scene.segment_ids.size
    assert len(areas) > 15
    assert areas.max() < 0.02 * 1.25  # outlines that are nearly squares hold more than a circle
    assert areas.min() > 0.005 * LEAST_VISIBLE / 4
    assert 0.15 < areas.sum() < 0.6
    np.testing.assert_array_equal(scene.image, make_scene(7, 0, (256, 256), (0.005, 0.02)).image)


@pytest.mark.parametrize("area", [(0.02, 0.005), (0.0001, 0.01), (0.5, 1.5)])
def test_areas_that_cannot_be_are_refused(area: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"shares of the image from 0\.00046 \(30 pixels"):
        make_scene(0, 0, (256, 256), area)
