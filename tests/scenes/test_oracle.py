"""Oracle masks and edges of a panoptic data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trace_d2.io.categories import load_categories
from trace_d2.scenes.dataset import SceneSettings, scene_categories, write_scenes
from trace_d2.scenes.oracle import boundaries, punch_gaps, write_oracle


def test_boundaries_by_hand() -> None:
    ids = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 1, 1]])
    expected = np.array([[0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]) * 255
    np.testing.assert_array_equal(boundaries(ids), expected)


def test_gaps_take_about_the_share() -> None:
    edges = np.zeros((200, 200), np.uint8)
    edges[100], edges[:, 50] = 255, 255
    broken = punch_gaps(edges, 0.2, 0)
    gone = 1 - np.count_nonzero(broken) / np.count_nonzero(edges)
    assert 0.1 < gone < 0.25
    assert not (broken & ~edges).any()
    np.testing.assert_array_equal(broken, punch_gaps(edges, 0.2, 0))
    np.testing.assert_array_equal(punch_gaps(edges, 0.0, 0), edges)
    assert not punch_gaps(np.zeros((3, 3), np.uint8), 0.5, 0).any()
    with pytest.raises(ValueError, match=r"0\.\.1"):
        punch_gaps(edges, 1.5, 0)


def test_oracle_of_scenes_is_what_the_scenes_say(tmp_path: Path) -> None:
    write_scenes(tmp_path / "s", 2, SceneSettings(3, (48, 64)), progress=False)
    truth = (tmp_path / "s/panoptic.json", tmp_path / "s/panoptic")
    assert write_oracle(*truth, tmp_path / "o", progress=False) == 2
    for name in ("scene_000000.png", "scene_000001.png"):
        for ours, theirs in (("semantic", "semantic"), ("edges", "edges_oracle")):
            written = np.array(Image.open(tmp_path / "o" / ours / name))
            np.testing.assert_array_equal(
                written, np.array(Image.open(tmp_path / "s" / theirs / name))
            )
    assert load_categories(tmp_path / "o/categories.json") == scene_categories()
