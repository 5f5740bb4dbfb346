from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.random_walk import dense_affinity, dense_random_walk

from trace_d2.propagation.walk import (
    RandomWalk,
    direction_path,
    path_affinity,
    power_coefficients,
    random_walk,
    walk_directions,
)


def _random_case(seed: int, height: int, width: int, count: int = 3):
    rng = np.random.default_rng(seed)
    edges = (rng.random((height, width)) ** 3).astype(np.float32)
    return (rng.random((count, height, width)) > 0.5).astype(np.float32), edges


def _dense(masks: np.ndarray, edges: np.ndarray, **options) -> np.ndarray:
    return dense_random_walk(
        torch.from_numpy(masks).double(), torch.from_numpy(edges).double(), **options
    ).numpy()


def _closed_ring() -> np.ndarray:
    edges = np.zeros((20, 24), np.float32)
    edges[4:14, 5] = edges[4:14, 17] = edges[4, 5:18] = edges[13, 5:18] = 1
    return edges


def test_radius_five_has_the_thirty_four_directions():
    directions = walk_directions(5)
    assert len(directions) == 34
    assert set(directions) >= {(0, 1), (0, 4), (4, -2), (3, 3), (1, -4), (4, 2)}
    assert not {(0, 5), (4, 3), (0, -1), (0, 0)} & set(directions)


@pytest.mark.parametrize("radius", range(2, 12))
def test_number_of_directions_is_even(radius):
    assert len(walk_directions(radius)) % 2 == 0


def test_paths_by_hand():
    assert direction_path(0, 3) == ((0, 0), (0, 1), (0, 2), (0, 3))
    assert set(direction_path(1, -1)) == {(0, 0), (0, -1), (1, 0), (1, -1)}
    assert set(direction_path(1, 2)) == {(y, x) for y in range(2) for x in range(3)}
    # (2x - 2y)^2 / 8 < 1 leaves out only the two corners beside the diagonal.
    box = {(y, x) for y in range(3) for x in range(3)}
    assert set(direction_path(2, 2)) == box - {(0, 2), (2, 0)}


def test_affinities_equal_the_dense_ones():
    _, edges = _random_case(0, 7, 9)
    affinity = path_affinity(edges, radius=4, beta=3.0)
    dense = dense_affinity(torch.from_numpy(edges).double(), radius=4).numpy() ** 3.0
    unit = np.eye(63).reshape(63, 7, 9)
    one_step = RandomWalk(np.zeros((7, 9), np.float32), radius=4, steps=0)(unit)
    np.testing.assert_array_equal(one_step, unit)
    np.testing.assert_allclose(
        affinity.unflatten(affinity.degree[None])[0].ravel(), dense.sum(1), rtol=1e-6
    )
    for plane, (dy, dx) in zip(affinity.planes, walk_directions(4), strict=True):
        grid = affinity.unflatten(plane[None])[0]
        for y in range(7):
            for x in range(9):
                inside = y + dy < 7 and 0 <= x + dx < 9
                expected = dense[y * 9 + x, (y + dy) * 9 + x + dx] if inside else 0
                assert grid[y, x] == pytest.approx(expected, abs=1e-6)


def test_two_cells_by_hand():
    # Affinity (1 - 0.5)^1 = 0.5, degrees 1.5: T = [[2, 1], [1, 2]] / 3, seeds 1 and 0.
    edges = np.array([[0.0, 0.5]], np.float32)
    walked = random_walk(np.array([[[1.0, 0.0]]]), edges, beta=1.0, steps=1)
    np.testing.assert_allclose(walked, [[[2 / 3, 1 / 3]]], rtol=1e-6)
    # Eigenvalues 1 and 1/3: (1 + 3^-n) / 2 after n steps.
    walked = random_walk(np.array([[[1.0, 0.0]]]), edges, beta=1.0, steps=3)
    np.testing.assert_allclose(walked, [[[14 / 27, 13 / 27]]], rtol=1e-5)


def test_three_cells_in_a_row_by_hand():
    # Radius 2 ties neighbours only: degrees 2, 3, 2; rows of T average over them.
    walked = random_walk(np.array([[[1.0, 0, 0]]]), np.zeros((1, 3)), radius=2, steps=1)
    np.testing.assert_allclose(walked, [[[1 / 2, 1 / 3, 0]]], rtol=1e-6)


def test_edge_weakens_its_own_seed_and_stops_the_walk():
    edges = np.zeros((3, 9), np.float32)
    edges[:, 4] = 1
    masks = np.zeros((1, 3, 9))
    masks[0, :, :5] = 1
    walked = random_walk(masks, edges)[0]
    np.testing.assert_allclose(walked[:, :4], 1, atol=1e-5)
    np.testing.assert_array_equal(walked[:, 4:], 0)


@pytest.mark.parametrize("irnet_padding", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (13, 18), (24, 11)])
def test_equals_the_dense_walk_on_random_edges(size, irnet_padding):
    masks, edges = _random_case(1, *size)
    expected = _dense(masks, edges, irnet_padding=irnet_padding)
    walked = random_walk(masks, edges)
    assert walked.dtype == np.float32
    np.testing.assert_allclose(walked, expected, atol=1e-4)


@pytest.mark.parametrize("irnet_padding", [False, True])
def test_equals_the_dense_walk_on_drawn_edges(irnet_padding):
    edges = _closed_ring()
    edges[8, 5] = 0.3
    masks = np.zeros((2, 20, 24), np.float32)
    masks[0, 6:9, 7:9] = masks[1, :, 18:] = 1
    expected = _dense(masks, edges, irnet_padding=irnet_padding)
    np.testing.assert_allclose(random_walk(masks, edges), expected, atol=1e-4)


@pytest.mark.parametrize(("radius", "beta", "steps"), [(2, 1.0, 64), (3, 10.0, 7), (7, 2.5, 300)])
def test_equals_the_dense_walk_with_other_options(radius, beta, steps):
    masks, edges = _random_case(2, 12, 15)
    options = {"radius": radius, "beta": beta, "steps": steps}
    expected = _dense(masks, edges, **options)
    np.testing.assert_allclose(random_walk(masks, edges, **options), expected, atol=1e-4)


def test_dense_padding_changes_nothing():
    masks, edges = _random_case(3, 9, 14)
    np.testing.assert_allclose(
        _dense(masks, edges, irnet_padding=True), _dense(masks, edges), rtol=0, atol=1e-14
    )


def test_left_and_right_normalisation_are_the_same_walk():
    masks, edges = _random_case(4, 6, 8)
    weights = dense_affinity(torch.from_numpy(edges).double()).numpy() ** 10
    rows = np.linalg.matrix_power(weights / weights.sum(1, keepdims=True), 256)
    seeds = (masks * (1 - edges.astype(np.float64))).reshape(3, -1)
    np.testing.assert_allclose((rows @ seeds.T).T.reshape(3, 6, 8), _dense(masks, edges), 1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.integers(0, 300))
def test_degree_weighted_mass_is_conserved_and_the_range_kept(seed, height, width, steps):
    masks, edges = _random_case(seed, height, width)
    affinity = path_affinity(edges)
    degree = affinity.unflatten(affinity.degree[None])[0]
    walked = random_walk(masks, edges, steps=steps)
    before = (masks * (1 - edges) * degree).sum((1, 2))
    np.testing.assert_allclose((walked * degree).sum((1, 2)), before, rtol=1e-3, atol=1e-4)
    assert walked.min() > -1e-4
    assert walked.max() < 1 + 1e-4


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.integers(1, 14))
def test_rows_sum_to_one(seed, height, width):
    _, edges = _random_case(seed, height, width)
    # Seeds of 1 / (1 - E) undo the weakening, so that the walk starts from a constant.
    edges = np.minimum(edges, np.float32(0.99))
    walked = random_walk((1 / (1 - edges))[None], edges)
    np.testing.assert_allclose(walked, 1, atol=2e-4)


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 16, 256])
def test_coefficients_are_those_of_the_power(steps):
    x = np.linspace(-1, 1, 201)
    series = np.polynomial.chebyshev.chebval(x, power_coefficients(steps, 0.0))
    np.testing.assert_allclose(series, x**steps, atol=1e-12)


def test_few_terms_suffice():
    coefficients = power_coefficients(256, 1e-5)
    assert len(coefficients) == 71
    assert coefficients.sum() == pytest.approx(1, abs=1e-15)
    assert not coefficients[1::2].any()


def test_threads_and_company_change_nothing():
    masks, edges = _random_case(5, 10, 12, count=5)
    alone = np.concatenate([random_walk(mask[None], edges) for mask in masks])
    np.testing.assert_array_equal(random_walk(masks, edges), alone)
    np.testing.assert_array_equal(random_walk(masks, edges, threads=2), alone)


def test_a_grid_of_more_than_one_block_equals_its_transpose():
    masks, edges = _random_case(6, 70, 50, count=1)
    across = random_walk(masks.transpose(0, 2, 1), edges.T)
    np.testing.assert_allclose(random_walk(masks, edges), across.transpose(0, 2, 1), atol=1e-4)


def test_no_masks():
    assert random_walk(np.zeros((0, 4, 5), bool), np.zeros((4, 5))).shape == (0, 4, 5)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (np.array([[0.1, np.nan]]), "1 NaN"),
        (np.array([[0.1, 1.5]]), "normalise"),
        (np.array([[0.1, np.inf]]), "normalise"),
        (np.array([[0, 1]]), "floating point"),
        (np.zeros((0, 3)), "non-empty"),
        (np.zeros(3), "non-empty"),
    ],
)
def test_bad_edges_are_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        RandomWalk(edges)


@pytest.mark.parametrize(
    "options",
    [{"radius": 1}, {"beta": 0.0}, {"steps": -1}, {"tolerance": 1.0}, {"threads": 0}],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RandomWalk(np.zeros((4, 4)), **options)


def test_bad_masks_are_refused():
    walk = RandomWalk(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="must be"):
        walk(np.zeros((1, 4, 5)))
    with pytest.raises(ValueError, match="NaN"):
        walk(np.full((1, 4, 4), np.nan))
