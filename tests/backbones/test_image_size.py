"""Target sizes and resizing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_d2.backbones.backbone import resize_image, target_size

SIDES = st.integers(1, 8000)


@pytest.mark.parametrize(
    ("size", "resolution", "multiple", "aspect", "expected"),
    [
        ((480, 640), 1024, 16, "square", (1024, 1024)),
        ((480, 640), 1024, 16, "keep", (880, 1184)),
        ((640, 480), 1024, 16, "keep", (1184, 880)),
        ((1, 1), 512, 64, "keep", (512, 512)),
        ((1, 6000), 512, 64, "keep", (256, 1024)),
        ((6000, 1), 512, 64, "keep", (1024, 256)),
        ((100, 100), 100, 16, "square", (96, 96)),
        ((100, 100), 3, 16, "keep", (16, 16)),
    ],
)
def test_target_sizes_by_hand(size, resolution, multiple, aspect, expected):
    assert target_size(size, resolution, multiple, aspect) == expected


@given(SIDES, SIDES, st.sampled_from([8, 16, 64]))
def test_keeping_the_aspect_keeps_area_and_ratio(height, width, multiple):
    resolution = 1024
    h, w = target_size((height, width), resolution, multiple, "keep")
    assert h % multiple == 0
    assert w % multiple == 0
    # Rounding moves a side, of 512 at least, by half a multiple.
    assert h * w == pytest.approx(resolution**2, rel=0.1)
    ratio = min(max(height / width, 1 / 4), 4)
    assert h / w == pytest.approx(ratio, rel=0.12)


def test_an_image_of_the_right_size_is_left_alone():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(resize_image(image, (4, 4)), image)


def test_shrinking_does_not_alias():
    # Columns of 0 and 255 in turn: a grey mean, where point sampling would give stripes.
    image = np.zeros((64, 512, 3), np.uint8)
    image[:, 1::2] = 255
    small = resize_image(image, (64, 32))
    assert small.shape == (64, 32, 3)
    assert abs(small[:, 2:-2].astype(int) - 127).max() <= 2


def test_one_pixel_grows_to_a_plain_image():
    image = np.array([[[10, 20, 30]]], np.uint8)
    np.testing.assert_array_equal(resize_image(image, (16, 8)), np.full((16, 8, 3), (10, 20, 30)))
