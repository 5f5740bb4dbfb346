"""Thinning against scikit-image's; matching against assignment by brute force and by SciPy."""

from __future__ import annotations

from itertools import permutations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.edge_metrics import matching_size
from scipy.optimize import linear_sum_assignment
from skimage import morphology

from trace_d2.evaluation.edge_pixels import count_pairs, disc, flat_offsets, spread, thin


def match_pixels(predicted: np.ndarray, truth: np.ndarray, radius: float) -> int:
    """How many pixels of two (H, W) bool maps pair up at most, at most ``radius`` pixels apart."""
    offsets = disc(radius)
    margin = int(offsets.max())
    padded = [np.pad(mask.astype(np.uint8), margin) for mask in (predicted, truth)]
    flat = flat_offsets(offsets, padded[0].shape[1])
    pixels, truth_pixels = (np.flatnonzero(mask).astype(np.int32) for mask in padded)
    on, goal = (mask.reshape(-1) for mask in padded)
    return int(count_pairs(pixels, on, truth_pixels, goal, spread(goal, flat), flat))


def line(column: int, size: tuple[int, int] = (10, 12)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[:, column] = True
    return mask


def neighbours(first, second, radius) -> np.ndarray:
    """(P, Q) bool: whether pixels of the two maps are at most ``radius`` apart."""
    a, b = np.argwhere(first), np.argwhere(second)
    return ((a[:, None] - b[None]) ** 2).sum(-1) <= radius**2


def test_disc_by_hand() -> None:
    assert disc(0).tolist() == [[0, 0]]
    assert sorted(map(tuple, disc(1.2).tolist())) == [(-1, 0), (0, -1), (0, 0), (0, 1), (1, 0)]
    assert len(disc(2**0.5)) == 9
    assert len(disc(0.0075 * 800)) == 113  # the pixels at exactly 6 are in
    assert disc(5.5)[0].tolist() == [0, 0]


def test_a_shifted_line_matches_within_the_distance_only() -> None:
    assert match_pixels(line(4), line(6), 2) == 10
    assert match_pixels(line(4), line(6), 1.99) == 0
    assert match_pixels(line(6), line(6), 0) == 10


def test_a_double_line_matches_once() -> None:
    assert match_pixels(line(4) | line(6), line(5), 1) == 10
    assert match_pixels(line(5), line(4) | line(6), 1) == 10


def test_a_chain_is_shifted_to_reach_the_free_end() -> None:
    """Greedily, the coincident pixels pair up and two pixels stay alone; all six can be paired."""
    predicted, truth = np.zeros((1, 8), bool), np.zeros((1, 8), bool)
    predicted[0, :6], truth[0, 1:7] = True, True
    assert match_pixels(predicted, truth, 1) == 6


def test_nothing_matches_nothing() -> None:
    empty = np.zeros((4, 4), bool)
    assert match_pixels(empty, empty, 3) == 0
    assert match_pixels(~empty, empty, 3) == 0
    assert match_pixels(empty, ~empty, 3) == 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    radius=st.sampled_from([0, 1, 1.5, 2.3]),
)
def test_equal_to_trying_all_ways(seed, counts, radius) -> None:
    rng = np.random.default_rng(seed)
    maps = []
    for count in counts:
        maps.append(np.zeros(16, bool))
        maps[-1][rng.choice(16, count, replace=False)] = True
    first, second = (mask.reshape(4, 4) for mask in maps)
    if first.sum() > second.sum():
        first, second = second, first
    near = neighbours(first, second, radius)
    ways = permutations(range(near.shape[1]), near.shape[0])
    best = max(sum(near[i, j] for i, j in enumerate(way)) for way in ways)
    assert match_pixels(first, second, radius) == best


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    shares=st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)),
    radius=st.sampled_from([0, 1, 2, 3.2, 6]),
)
def test_equal_to_assignment(seed, size, shares, radius) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.random(size) < share for share in shares)
    near = neighbours(first, second, radius)
    expected = int(near[linear_sum_assignment(near, maximize=True)].sum())
    assert match_pixels(first, second, radius) == expected
    assert match_pixels(second, first, radius) == expected
    assert matching_size(first, second, radius) == expected


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
