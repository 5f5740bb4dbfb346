"""Colours of segments are told apart by people."""

from __future__ import annotations

import numpy as np
import pytest

from trace_d2.jobs.colors import NEARLY_ONE, distinct_colors, oklab


def board(count: int) -> np.ndarray:
    """So many squares, row by row, the last row perhaps not full."""
    side = int(np.ceil(np.sqrt(count)))
    numbers = np.arange(1, side * side + 1).reshape(side, side)
    return np.kron(np.where(numbers > count, 0, numbers), np.ones((8, 8), int))


def distance(one: tuple, other: tuple) -> float:
    first, second = oklab(np.array([one, other]))
    return float(np.linalg.norm(first - second))


def test_places_in_oklab() -> None:
    places = oklab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]]))
    np.testing.assert_allclose(places[0], [1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(places[1], [0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(places[2], [0.628, 0.225, 0.126], atol=1e-3)


@pytest.mark.parametrize(("count", "least"), [(4, 0.25), (12, 0.14), (28, NEARLY_ONE), (100, 0.03)])
def test_no_two_are_nearly_the_same(count: int, least: float) -> None:
    colors = distinct_colors(board(count))
    assert sorted(colors) == list(range(1, count + 1))
    for one in colors:
        for other in colors:
            assert one == other or distance(colors[one], colors[other]) >= least


@pytest.mark.parametrize("count", [28, 100, 400])
def test_neighbours_differ_however_many_there_are(count: int) -> None:
    numbers = board(count)
    colors = distinct_colors(numbers)
    for first, second in ((numbers[:, :-1], numbers[:, 1:]), (numbers[:-1], numbers[1:])):
        pairs = np.unique(np.stack([first.ravel(), second.ravel()], axis=1), axis=0)
        for one, other in pairs[(pairs[:, 0] != pairs[:, 1]) & (pairs > 0).all(axis=1)].tolist():
            assert distance(colors[one], colors[other]) > NEARLY_ONE


def test_wanted_colours_are_taken_unless_they_are_nearly_one() -> None:
    numbers = np.array([[1, 1, 1, 2, 2, 3]])
    wanted = {1: (0, 0, 200), 2: (0, 0, 210), 3: (250, 250, 0)}
    colors = distinct_colors(numbers, wanted)
    assert (colors[1], colors[3]) == (wanted[1], wanted[3])
    assert distance(colors[2], colors[1]) > 0.2
    assert distinct_colors(np.zeros((2, 2), int)) == {}
