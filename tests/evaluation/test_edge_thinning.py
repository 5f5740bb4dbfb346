"""Thinning against scikit-image's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import morphology

from trace_d2.evaluation.edge_thinning import thin


def test_a_bar_becomes_its_middle() -> None:
    mask = np.zeros((7, 12), bool)
    mask[2:5, 1:11] = True
    thinned = thin(mask)
    assert thinned[3, 3:9].all()
    assert thinned.sum(axis=0).max() == 1
    assert not thinned[[0, 1, 5, 6]].any()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    level=st.floats(0, 1),
    sigma=st.sampled_from([0.0, 1.0, 3.0]),
)
def test_equal_to_scikit_image(seed, size, level, sigma) -> None:
    noise = np.random.default_rng(seed).random(size)
    if sigma:
        noise = cv2.GaussianBlur(noise, (0, 0), sigma).reshape(size)
    mask = noise >= np.quantile(noise, level)
    thinned = thin(mask)
    assert thinned.dtype == bool
    np.testing.assert_array_equal(thinned, morphology.thin(mask))
    np.testing.assert_array_equal(thin(thinned), thinned)


def test_masks_without_a_middle() -> None:
    for mask in (np.zeros((3, 4), bool), np.ones((1, 1), bool), np.zeros((0, 5), bool)):
        np.testing.assert_array_equal(thin(mask), mask)
    with pytest.raises(ValueError, match=r"\(H, W\), not \(2, 2, 2\)"):
        thin(np.ones((2, 2, 2), bool))
