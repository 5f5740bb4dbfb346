"""Scores of patches: the truth, degraded."""

from __future__ import annotations

import numpy as np
import pytest

from trace_d2.io.score_stacks import labels_of_scores
from trace_d2.scenes.patch_scores import patch_scores

IDS = [2, 5, 11]


def quarters() -> np.ndarray:
    semantic = np.full((84, 112), 2, np.uint8)
    semantic[:42, :56], semantic[:4, :4] = 5, 255
    return semantic


def test_without_errors_they_are_the_shares_of_patches() -> None:
    scores = patch_scores(quarters(), IDS, 0, seed=0)
    assert (scores.shape, scores.dtype) == ((3, 28, 37), np.float16)
    labels = labels_of_scores(scores, IDS, (84, 112))
    known = quarters() != 255
    assert (labels == quarters())[known].mean() > 0.98
    assert scores.min() == np.float16(0.15)
    assert scores[2].max() == np.float16(0.15)


def test_errors_are_seeded_and_grow_with_the_level() -> None:
    known = quarters() != 255
    wrong = []
    for level in (0.3, 0.6, 1.0):
        one, same = (patch_scores(quarters(), IDS, level, seed=4) for _ in range(2))
        assert np.array_equal(one, same)
        assert not np.array_equal(one, patch_scores(quarters(), IDS, level, seed=5))
        maps = [
            labels_of_scores(patch_scores(quarters(), IDS, level, seed), IDS, (84, 112))
            for seed in range(8)
        ]
        wrong.append(np.mean([(own != quarters())[known].mean() for own in maps]))
    assert 0 < wrong[0] < wrong[1] < wrong[2] < 0.5


def test_levels_are_checked() -> None:
    with pytest.raises(ValueError, match=r"in 0\.\.1, not 2"):
        patch_scores(quarters(), IDS, 2, seed=0)
