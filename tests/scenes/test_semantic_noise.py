"""Degraded semantic masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trace_d2.scenes.dataset import scene_categories
from trace_d2.scenes.procedural import CATEGORY_IDS, STUFF_CLASSES, THING_CLASSES, make_scene
from trace_d2.scenes.semantic_noise import degrade_semantic, write_degraded_semantic

THINGS = tuple(CATEGORY_IDS[name] for name in THING_CLASSES)
STUFF = tuple(CATEGORY_IDS[name] for name in STUFF_CLASSES)


def error_rate(level: float) -> float:
    wrong = []
    for index in range(12):
        truth = make_scene(0, index).semantic()
        wrong.append((degrade_semantic(truth, THINGS, STUFF, level, index) != truth).mean())
    return float(np.mean(wrong))


def test_no_noise_changes_nothing_and_copies() -> None:
    truth = make_scene(0, 0).semantic()
    same = degrade_semantic(truth, THINGS, STUFF, 0.0, 1)
    np.testing.assert_array_equal(same, truth)
    assert same is not truth


def test_errors_grow_with_the_level() -> None:
    rates = [error_rate(level) for level in (0.2, 0.6, 1.0)]
    assert 0.005 < rates[0] < rates[1] < rates[2] < 0.3


def test_only_known_classes_and_unknown_stays() -> None:
    truth = make_scene(0, 3).semantic()
    truth[10:30, 40:60] = 255
    degraded = degrade_semantic(truth, THINGS, STUFF, 1.0, 7)
    assert (degraded[10:30, 40:60] == 255).all()
    assert set(np.unique(degraded)) <= {*THINGS, *STUFF, 255}


def test_fixed_by_the_seed() -> None:
    truth = make_scene(0, 4).semantic()
    one, same, other = (degrade_semantic(truth, THINGS, STUFF, 0.7, s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize("level", [-0.1, 1.1])
def test_level_out_of_range(level: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        degrade_semantic(np.ones((4, 4), np.uint8), THINGS, STUFF, level, 0)


def test_an_image_without_stuff() -> None:
    truth = np.full((40, 40), THINGS[0], np.uint8)
    degraded = degrade_semantic(truth, THINGS, STUFF, 1.0, 0)
    assert set(np.unique(degraded)) <= set(THINGS)


def test_a_subset_of_a_folder_gets_the_same_files(tmp_path: Path) -> None:
    for name, scenes in (("all", (0, 1, 2)), ("some", (1,))):
        (tmp_path / name).mkdir()
        for index in scenes:
            mask = make_scene(0, index).semantic()
            Image.fromarray(mask).save(tmp_path / name / f"s{index}.png")
    categories = scene_categories()
    for name, count in (("all", 3), ("some", 1)):
        output = tmp_path / f"noisy_{name}"
        made = write_degraded_semantic(tmp_path / name, output, categories, 0.6, progress=False)
        assert made == len(list(output.iterdir())) == count
    written = [(tmp_path / f"noisy_{name}/s1.png").read_bytes() for name in ("all", "some")]
    assert written[0] == written[1]
    assert written[0] != (tmp_path / "all/s1.png").read_bytes()
    with pytest.raises(ValueError, match="no semantic masks"):
        write_degraded_semantic(tmp_path, tmp_path / "none", categories, 0.6, progress=False)
