"""Boxes and points that a promptable network is asked by, against pixel by pixel definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from trace_d2.masks.patches import patch_of, patches_of_regions
from trace_d2.masks.seeds import interior_points, make_seeds


def depths(mask: np.ndarray) -> np.ndarray:
    """Distance to the nearest pixel outside, of every pixel; beyond the array all is outside."""
    padded = np.pad(mask, 1)
    outside = np.argwhere(~padded) - 1
    found = np.zeros(mask.shape, np.float32)
    for row, column in np.argwhere(mask):
        found[row, column] = np.sqrt(((outside - (row, column)) ** 2).sum(1).min())
    return found


def plain_points(mask: np.ndarray, count: int) -> list[tuple[int, int]]:
    depth = depths(mask)
    places = sorted(np.argwhere(mask).tolist(), key=lambda p: (-depth[tuple(p)], p))
    chosen: list[tuple[int, int]] = []
    for place in places:
        apart = all(
            (place[0] - other[0]) ** 2 + (place[1] - other[1]) ** 2
            >= (depth[tuple(place)] + depth[other]) ** 2
            for other in chosen
        )
        deep = not chosen or depth[tuple(place)] >= 0.5 * depth[chosen[0]]
        if len(chosen) < count and apart and deep:
            chosen.append(tuple(place))
    return chosen


def blob(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = np.zeros((17, 23), bool)
    for _ in range(4):
        top, left = rng.integers(0, 12), rng.integers(0, 17)
        mask[top : top + rng.integers(1, 8), left : left + rng.integers(1, 9)] = True
    return mask


@pytest.mark.parametrize("seed", range(12))
def test_points_are_the_deepest_whose_discs_do_not_meet(seed: int) -> None:
    mask = blob(seed)
    assert interior_points(mask, 5) == plain_points(mask, 5)


def test_the_first_point_of_a_square_is_its_middle_and_it_has_no_other() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    assert interior_points(mask, 3) == [(4, 4)]


def test_two_lobes_have_a_point_each() -> None:
    mask = np.zeros((9, 24), bool)
    mask[1:8, 1:8] = True
    mask[4, 8:16] = True
    mask[1:8, 16:23] = True
    assert interior_points(mask, 3) == [(4, 4), (4, 19)]


def test_masks_on_the_border_of_the_image_have_their_points_inside_it() -> None:
    assert interior_points(np.ones((7, 7), bool), 1) == [(3, 3)]
    assert interior_points(np.zeros((3, 3), bool), 2) == []


def masks_of(numbers: np.ndarray) -> list[np.ndarray]:
    return [numbers == number for number in range(1, numbers.max() + 1)]


NUMBERS = np.zeros((12, 20), int)
NUMBERS[2:9, 1:8] = 1
NUMBERS[2:9, 8:15] = 2  # touches the first along seven rows
NUMBERS[9:11, 3:6] = 3  # touches it along three columns
NUMBERS[0, 16:20] = 4  # touches none


def test_box_points_and_neighbours() -> None:
    seeds = make_seeds(list(map(patch_of, masks_of(NUMBERS))), NUMBERS.shape, 3, 2)
    first = seeds[0]
    assert first.box.tolist() == [1, 2, 7, 8]  # x, y of the first and of the last pixel
    # Its middle; the first of the deepest of the second within four columns of the box; the third,
    # which touches less of it.
    assert first.points.tolist() == [[4, 5], [9, 3], [3, 9]]
    assert first.inside.tolist() == [True, False, False]
    assert seeds[3].inside.tolist() == [True, True]  # two discs fit into a line of four
    for rank, seed in enumerate(seeds):
        for (x, y), inside in zip(seed.points.astype(int), seed.inside, strict=True):
            assert (NUMBERS[y, x] == rank + 1) == inside


def test_numbers_of_points_are_kept_to() -> None:
    patches = list(map(patch_of, masks_of(NUMBERS)))
    for points, negatives in itertools.product((1, 2), (0, 1)):
        for seed in make_seeds(patches, NUMBERS.shape, points, negatives):
            assert 1 <= seed.inside.sum() <= points
            assert (~seed.inside).sum() <= negatives


def test_of_overlapping_masks_no_negative_point_lies_inside() -> None:
    whole, part = np.zeros((14, 14), bool), np.zeros((14, 14), bool)
    whole[1:13, 1:13] = True
    part[2:7, 2:7] = True
    seeds = make_seeds([patch_of(whole), patch_of(part)], whole.shape)
    assert seeds[0].inside.all()  # the part has no pixel outside the whole
    ((x, y),) = seeds[1].points[~seeds[1].inside].astype(int)
    assert whole[y, x]
    assert not part[y, x]


def test_thousands_of_masks() -> None:
    numbers = np.arange(30 * 40).reshape(30, 40).repeat(4, 0).repeat(4, 1) + 1
    seeds = make_seeds(list(patches_of_regions(numbers).values()), numbers.shape)
    assert len(seeds) == 1200
    assert all(seed.inside.sum() == 1 for seed in seeds)
