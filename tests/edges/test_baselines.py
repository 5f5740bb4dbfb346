"""Canny and Sobel edges."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from trace_d2.config import get_trace_cfg
from trace_d2.edges.baselines import (
    FILTERS,
    canny_edges,
    color_gradient_edges,
    fixed_canny_edges,
    sobel_edges,
)
from trace_d2.edges.settings import CannySettings
from trace_d2.edges.sources import build_edge_source
from trace_d2.scenes.procedural import make_scene


def step(contrast: int) -> np.ndarray:
    """Grey, and brighter by ``contrast`` from column 20 on."""
    image = np.full((24, 40, 3), 100, np.uint8)
    image[:, 20:] += np.uint8(contrast)
    return image


def source(name: str, *canny: float):
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.EDGES.SOURCE, cfg.MODEL.TRACE.EDGES.CANNY = name, list(canny)
    return build_edge_source(cfg)


@pytest.mark.parametrize("name", ["canny", "sobel", "gradient"])
def test_a_step_is_an_edge_and_plain_areas_have_none(name) -> None:
    detect = source(name)
    edges = detect(step(120), "a").edges
    assert edges.shape == (24, 40)
    assert edges.dtype == np.float32
    assert 0 <= edges.min() < edges.max() <= 1
    assert (edges[:, 18:22].max(axis=1) > 0.5).all()
    assert not edges[:, :14].any()
    assert not edges[:, 26:].any()
    assert not detect(step(0), "a").edges.any()
    np.testing.assert_array_equal(edges, FILTERS[name](step(120)))


def test_canny_strength_says_how_high_the_threshold_may_be() -> None:
    weak, strong = (canny_edges(step(contrast)).max() for contrast in (10, 100))
    assert 0 < weak < strong < 1
    # Without blur the Sobel response to a step is four times its height: thresholds below
    # 4 * 100 of 4 * 255 are passed, (i / 51)^2 < 100 / 255, which is i up to 31 of 50.
    assert canny_edges(step(100), sigma=0).max() == np.float32(31 / 50)


def test_fixed_thresholds_are_in_grey_levels_times_four() -> None:
    # A step of g levels has a gradient of 4 g, which is to be more than HIGH.
    for contrast, found in ((25, False), (50, False), (51, True)):
        edges = source("canny", 100, 200)(step(contrast), "a").edges
        np.testing.assert_array_equal(edges, fixed_canny_edges(step(contrast)))
        assert edges.any() == found
    assert edges.dtype == np.float32
    assert edges[:, 19:21].sum(axis=1).tolist() == [1] * 24
    assert edges.sum() == 24
    # What is above LOW is an edge where it goes on from one.
    mixed = step(30)
    mixed[:12, 20:] += 30
    assert source("canny", 100, 200)(mixed, "a").edges[16:, 18:22].any()
    assert not source("canny", 130, 200)(mixed, "a").edges[16:, 18:22].any()


@pytest.mark.parametrize("values", [(100,), (200, 100), (1, 2, 3)])
def test_thresholds_that_are_no_pair(values) -> None:
    with pytest.raises(ValueError, match=r"EDGES\.CANNY holds LOW and HIGH"):
        CannySettings(values)
    with pytest.raises(ValueError, match=r"EDGES\.CANNY holds LOW and HIGH"):
        source("canny", *values)


def test_a_threshold_on_the_map_is_one_of_canny() -> None:
    image = make_scene(2, 0, (64, 64)).image
    edges = canny_edges(image, sigma=0, thresholds=9)
    for i in (2, 4, 6):
        high = (i / 10) ** 2 * 4 * 255
        expected = cv2.Canny(image, 0.4 * high, high, L2gradient=True) > 0
        # OpenCV pads its own gradients in another way than Sobel's default does.
        inner = np.s_[2:-2, 2:-2]
        differ = (edges > (i - 0.5) / 9)[inner] != expected[inner]
        assert differ.mean() < 0.01
        assert expected.any()


def test_sobel_grows_with_the_contrast_within_an_image() -> None:
    image = step(30)
    image[:, 30:] += 90
    edges = sobel_edges(image)
    assert 0 < edges[12, 18:22].max() < edges[12, 28:32].max()


@pytest.mark.parametrize("edges", FILTERS.values())
def test_bad_input(edges) -> None:
    with pytest.raises(ValueError, match="uint8"):
        edges(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        edges(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="0 or more"):
        edges(step(3), sigma=-1)


def test_a_coloured_step_is_an_edge_and_nothing_else_is() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = (200, 30, 90)
    edges = color_gradient_edges(image)
    assert edges.shape == (20, 40)
    assert edges.dtype == np.float32
    assert (edges[:, 19:21] > 0.5).all()
    assert (edges[:, :14] == 0).all()
    assert (edges[:, 26:] == 0).all()


def test_colours_of_one_lightness_have_an_edge_too() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :8], image[:, 8:] = (160, 90, 90), (75, 120, 90)
    assert (color_gradient_edges(image)[:, 7:9] > 0.5).all()


def test_a_plain_image_has_none() -> None:
    assert not color_gradient_edges(np.full((9, 9, 3), 77, np.uint8)).any()
