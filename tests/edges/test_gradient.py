"""Colour-gradient edges."""

from __future__ import annotations

import numpy as np

from trace_d2.edges.gradient import color_gradient_edges


def test_a_step_is_an_edge_and_nothing_else_is() -> None:
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
