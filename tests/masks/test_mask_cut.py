from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from plain.cuts import mask_cut_plainly

from trace_d2.masks import MaskCutSettings, mask_cut, mask_cuts
from trace_d2.masks.mask_cut import foreground


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rounds", [3, 5])
def test_equals_the_plain_definition(as_features, random_features, seed, noise, rounds):
    grid = (11 + seed, 13)
    rows = random_features(seed, grid, noise)
    expected = mask_cut_plainly(rows, grid, 0.15, 1e-5, rounds=rounds)
    found = list(mask_cut(as_features(rows, grid), MaskCutSettings(masks=rounds)))
    assert len(found) == len(expected)
    for (mask, score), (plain, of_it) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, plain)
        assert score == pytest.approx(max(of_it, 0), abs=1e-9)


@pytest.mark.parametrize(
    ("tau", "options"),
    [
        (0.3, {"corners": 1}),
        (0.3, {"corners": 5}),
        (0.3, {"max_iou": 0.2}),
        (0.3, {"max_iou": 1.0}),
        (0.3, {"min_area": 0.2}),
        (0.5, {"min_area": 0.0}),
    ],
    ids=str,
)
def test_every_constant_means_what_it_does_there(as_features, random_features, tau, options):
    different = 0
    for seed in range(4):
        rows = random_features(seed, (12, 12), 0.5)
        plain = partial(mask_cut_plainly, rows, (12, 12), tau, 1e-4, rounds=4)
        settings = MaskCutSettings(tau=tau, epsilon=1e-4, masks=4, **options)
        found = [mask for mask, _ in mask_cut(as_features(rows, (12, 12)), settings)]
        np.testing.assert_array_equal(found, [mask for mask, _ in plain(**options)])
        different += not np.array_equal(found, [mask for mask, _ in plain()])
    assert different


def test_three_objects_are_three_masks_of_which_none_overlap(as_features):
    kind = np.zeros((12, 14), int)
    kind[1:4, 1:4], kind[7:10, 2:6], kind[3:8, 9:12] = 1, 2, 3
    found = [mask for mask, _ in mask_cut(as_features(np.eye(4)[kind.ravel()], (12, 14)))]
    assert len(found) == 3
    own = {tuple(np.flatnonzero(kind == k)) for k in (1, 2, 3)}
    assert {tuple(np.flatnonzero(mask)) for mask in found} <= own | {
        tuple(np.flatnonzero(kind == 0))
    }
    assert np.sum(found, axis=0).max() == 1


def test_the_side_of_three_corners_is_ground_by_hand():
    y = np.full((4, 5), 1.0)
    y[1:3, 1:3] = [[-2, -3], [-2, -1]]
    inner = np.zeros((4, 5), bool)
    inner[1:3, 1:3] = True
    # The largest entry is made positive before; here it would be the inner one.
    np.testing.assert_array_equal(foreground(y, 3), inner)
    np.testing.assert_array_equal(foreground(-y, 3), inner)
    np.testing.assert_array_equal(foreground(y, 5), ~inner)


def test_several_images_at_once_are_as_alone(as_features, random_features):
    grid = (12, 12)
    images = [as_features(random_features(seed, grid, 0.5), grid) for seed in range(4)]
    images.insert(2, as_features(np.ones((144, 1)), grid))
    settings = MaskCutSettings(masks=4, min_area=0.05)  # some end sooner than others
    together = mask_cuts(images, settings)
    assert together[2] == []
    for image, found in zip(images, together, strict=True):
        alone = list(mask_cut(image, settings))
        assert len(alone) == len(found)
        for (mask, score), (own, of_it) in zip(found, alone, strict=True):
            np.testing.assert_array_equal(mask, own)
            assert score == pytest.approx(of_it)


@pytest.mark.parametrize("tokens", [1, 12], ids=["one token", "one colour"])
def test_where_no_cut_is_better_than_another_there_are_no_masks(as_features, tokens):
    assert list(mask_cut(as_features(np.ones((tokens, 1)), (1, tokens)))) == []


def test_bad_features_are_named(as_features):
    with pytest.raises(ValueError, match="NaN or infinite"):
        list(mask_cut(as_features(np.full((4, 2), np.inf), (2, 2))))
