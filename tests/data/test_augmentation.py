"""Augmentations by their keys, and the colour jitter by hand."""

from __future__ import annotations

import detectron2.data.transforms as T
import numpy as np
import pytest

from trace_d2.data import augmentation
from trace_d2.data.augmentation import ColorJitter, build_augmentations, jitter_color


def test_color_jitter_by_hand():
    neutral = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    red = np.zeros((1, 2, 3), np.uint8)
    red[..., 0] = 200
    for pixels, image_format in ((red, "RGB"), (np.ascontiguousarray(red[..., ::-1]), "BGR")):

        def jitter(
            pixels: np.ndarray = pixels, image_format: str = image_format, **options: float
        ) -> list[int]:
            options = {**neutral, **options}
            changed = jitter_color(pixels, image_format=image_format, **options)
            assert changed.shape == pixels.shape
            assert changed.dtype == np.uint8
            color = changed[0, 0].tolist()
            return color if image_format == "RGB" else color[::-1]

        assert jitter() == [200, 0, 0]
        assert jitter(brightness=30) == [230, 30, 30]
        assert jitter(brightness=-30) == [170, 0, 0]
        assert jitter(contrast=1.5) == [255, 0, 0]
        assert jitter(hue=120) == [0, 200, 0]
        assert jitter(hue=-120) == [0, 0, 200]
        assert jitter(saturation=0.5)[0] == 200
        assert jitter(saturation=0.5)[1] == pytest.approx(100, abs=1)


def test_color_jitter_leaves_geometry_alone(make_cfg):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    ids = np.zeros((8, 8), np.int32)
    np.random.seed(0)
    changed = set()
    for _ in range(20):
        transform = ColorJitter("RGB").get_transform(image)
        changed.add(transform.apply_image(image).tobytes())
        assert transform.apply_segmentation(ids) is ids
    assert len(changed) > 10
    names = [type(a) for a in build_augmentations(make_cfg("INPUT.TRACE.COLOR_JITTER", True), True)]
    assert names == [ColorJitter, T.RandomFlip, augmentation.ResizeScale, T.FixedSizeCrop]


def test_flip_keys(make_cfg):
    for direction in ("horizontal", "vertical"):
        flip = build_augmentations(make_cfg("INPUT.RANDOM_FLIP", direction), True)[0]
        assert (flip.horizontal, flip.vertical) == (
            direction == "horizontal",
            direction == "vertical",
        )
    kinds = [type(a) for a in build_augmentations(make_cfg("INPUT.RANDOM_FLIP", "none"), True)]
    assert T.RandomFlip not in kinds
