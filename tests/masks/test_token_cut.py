from __future__ import annotations

import numpy as np
import pytest
from plain.cuts import connected, token_cut_plainly

from trace_d2.masks import TokenCutSettings, token_cut, token_cuts
from trace_d2.masks.token_cut import component, seed_of


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_equals_the_plain_definition(as_features, random_features, seed, noise, tau):
    grid = (9 + seed, 14)
    rows = random_features(seed, grid, noise)
    mask, score = token_cut_plainly(rows, grid, tau, 1e-5)
    [(found, of_it)] = token_cut(as_features(rows, grid), TokenCutSettings(tau))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)
    assert of_it == pytest.approx(max(score, 0), abs=1e-9)


def test_an_object_on_a_ground_is_the_mask_and_the_better_told_apart_the_surer(as_features):
    mask = np.zeros((8, 10), bool)
    mask[2:5, 3:6] = True
    kind = mask.astype(int).ravel()
    [(found, score)] = token_cut(as_features(np.eye(2)[kind], (8, 10)))
    np.testing.assert_array_equal(found, mask)
    assert score > 0.99
    rows = np.array([[1, 0], [0.3, np.sqrt(1 - 0.3**2)]])[kind]
    rows[24], rows[25] = [1, 0], [0.6, 0.8]  # two of the object are tied to the ground
    [(_, less)] = token_cut(as_features(rows, (8, 10)), TokenCutSettings(0.5))
    assert less < score


def test_the_mask_is_what_hangs_together_with_the_seed(as_features):
    # Two patches of one kind: the seed is the first of the tokens that are alike, in the first.
    kind = np.zeros((6, 9), int)
    kind[1:3, 1:3] = kind[4, 5:8] = 1
    [(found, _)] = token_cut(as_features(np.eye(2)[kind.ravel()], (6, 9)))
    first = np.zeros((6, 9), bool)
    first[1:3, 1:3] = True
    np.testing.assert_array_equal(found, first)


def test_components_touch_over_sides():
    rng = np.random.default_rng(0)
    for _ in range(20):
        side = rng.random((7, 8)) > 0.45
        seed = tuple(np.argwhere(side)[rng.integers(side.sum())])
        plainly = connected(side.ravel(), seed[0] * 8 + seed[1], (7, 8))
        np.testing.assert_array_equal(component(side, seed), plainly.reshape(7, 8))


def test_the_first_of_equal_entries_is_the_seed():
    y = np.array([[0.1, 0.5 - 1e-12, -0.7], [0.5, 0.5, 0.2]])
    assert seed_of(y) == (0, 1)


def test_several_images_at_once_are_as_alone(as_features, random_features):
    grid = (9, 11)
    images = [as_features(random_features(seed, grid, 0.5), grid) for seed in range(3)]
    images.insert(1, as_features(np.ones((99, 1)), grid))
    together = token_cuts(images)
    assert together[1] == []
    for image, found in zip(images, together, strict=True):
        for (mask, score), (own, of_it) in zip(found, token_cut(image), strict=True):
            np.testing.assert_array_equal(mask, own)
            assert score == pytest.approx(of_it)


@pytest.mark.parametrize(
    ("rows", "grid"),
    [
        (np.ones((12, 1)), (3, 4)),
        (np.zeros((12, 2)), (3, 4)),
        (np.eye(12), (3, 4)),
        (np.ones((1, 1)), (1, 1)),
    ],
    ids=["one colour", "no features", "all different", "one token"],
)
def test_where_no_cut_is_better_than_another_there_is_no_mask(as_features, rows, grid):
    assert list(token_cut(as_features(rows, grid))) == []


def test_bad_features_are_named(as_features):
    rows = np.full((12, 3), np.nan)
    with pytest.raises(ValueError, match=r"NaN or infinite: run the backbone.*DTYPE"):
        list(token_cut(as_features(rows, (3, 4))))
    with pytest.raises(ValueError, match=r"grid of \(3, 5\) tokens cannot have \(12, 3\)"):
        list(token_cut(as_features(np.ones((12, 3)), (3, 5))))
    images = [as_features(np.ones((12, 3)), grid) for grid in ((3, 4), (4, 3))]
    with pytest.raises(ValueError, match="one grid"):
        token_cuts(images)
    with pytest.raises(ValueError, match=r"TOKENCUT.TAU must be in -1..1"):
        TokenCutSettings(1.5)
