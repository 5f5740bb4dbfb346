from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_d2.labels import PanopticLabeler
from trace_d2.propagation import regions
from trace_d2.propagation.calibration import EdgeCalibration
from trace_d2.propagation.regions import _edge_sums, cut_components
from trace_d2.scenes.dataset import still_life_categories
from trace_d2.scenes.oracle import boundaries
from trace_d2.scenes.still_life import make_still_life


def _flood_fill(uncut: np.ndarray) -> np.ndarray:
    labels = np.zeros(uncut.shape, np.int32)
    count = 0
    for seed in np.argwhere(uncut):
        if labels[tuple(seed)]:
            continue
        count += 1
        stack = [tuple(seed)]
        while stack:
            y, x = stack.pop()
            inside = 0 <= y < uncut.shape[0] and 0 <= x < uncut.shape[1]
            if inside and uncut[y, x] and not labels[y, x]:
                labels[y, x] = count
                stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return labels


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20), st.floats(0.3, 0.9))
def test_equals_a_flood_fill_labels_included(seed, height, width, share):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < share
    edges = rng.random((height, width)) * 0.7
    labels, count = cut_components(mask, edges)
    expected = _flood_fill(mask & (edges <= 0.5))
    np.testing.assert_array_equal(labels, expected)
    assert count == expected.max()


def test_small_pieces_are_left_out_and_the_others_renumbered():
    mask = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]], bool)
    labels, count = cut_components(mask, np.zeros((3, 4)), min_area=2)
    assert count == 2
    np.testing.assert_array_equal(labels, [[0, 0, 1, 1], [0, 0, 1, 0], [2, 2, 0, 0]])


def test_a_diagonal_line_of_edges_cuts():
    labels, count = cut_components(np.ones((5, 5), bool), np.eye(5))
    assert count == 2
    assert labels[0, 4] != labels[4, 0]
    assert not labels.diagonal().any()


def test_an_edge_exceeds_the_threshold():
    for strength, pieces in ((0.5, 1), (0.51, 2)):
        edges = np.array([[0.0, strength, 0.0]])
        assert cut_components(np.ones((1, 3), bool), edges)[1] == pieces


def test_nothing_to_label():
    labels, count = cut_components(np.zeros((2, 3), bool), np.zeros((2, 3)))
    assert count == 0
    assert not labels.any()
    assert cut_components(np.ones((1, 1), bool), np.ones((1, 1)))[1] == 0


def test_sums_over_regions_are_those_of_the_whole_map_to_the_last_bit():
    rng = np.random.default_rng(0)
    regions = rng.integers(0, 5, (40, 30)).astype(np.int32)
    evidence = EdgeCalibration.assumed()(rng.random((40, 30), np.float32))
    mask = regions > 0
    plain = np.bincount(regions.ravel(), np.where(mask, evidence.probability, 0).ravel())
    with patch("trace_d2.io.regions._AT_ONCE", 100):
        np.testing.assert_array_equal(_edge_sums(regions, mask, evidence), plain)


@pytest.mark.parametrize("calibration", [None, EdgeCalibration.assumed()])
def test_labels_do_not_depend_on_how_much_is_counted_at_once(calibration):
    categories = still_life_categories()
    for seed in range(2):
        scene = make_still_life(5, seed, (96, 128))
        noise = np.random.default_rng(seed).random(scene.segment_ids.shape, np.float32)
        edges = np.maximum(boundaries(scene.segment_ids) / np.float32(255), 0.4 * noise)
        found = []
        for at_once in (2**20, 300):
            with patch("trace_d2.io.regions._AT_ONCE", at_once):
                label = PanopticLabeler(categories, calibration=calibration)(
                    scene.semantic(), edges
                )
            found.append((label.segment_ids.tolist(), label.segments))
        assert found[0] == found[1]
        assert len(label.segments) > 1


def test_a_mask_that_counts_as_large_is_cut_the_same(monkeypatch):
    yy, xx = np.mgrid[:40, :60]
    mask = ((yy - 20) ** 2 + (xx - 18) ** 2 < 150) | ((yy - 20) ** 2 + (xx - 42) ** 2 < 150)
    edges = np.zeros(mask.shape, np.float32)
    edges[:, 30] = 1
    evidence = EdgeCalibration.assumed()(edges)
    plain = regions.cut_basins(mask, evidence, 2.0)
    monkeypatch.setattr(regions, "_LARGE", 0)
    np.testing.assert_array_equal(regions.cut_basins(mask, evidence, 2.0), plain)
    assert plain.max() == 2
