from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_d2.propagation.regions import cut_components


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
