"""Degraded semantic masks and edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trace_d2.io.edge_maps import write_edges
from trace_d2.scenes.dataset import scene_categories
from trace_d2.scenes.noise import (
    EdgeQuality,
    degrade_edges,
    degrade_semantic,
    write_degraded_edges,
    write_degraded_semantic,
)
from trace_d2.scenes.procedural import CATEGORY_IDS, STUFF_CLASSES, THING_CLASSES, make_scene

THINGS = tuple(CATEGORY_IDS[name] for name in THING_CLASSES)
STUFF = tuple(CATEGORY_IDS[name] for name in STUFF_CLASSES)
CATEGORIES = scene_categories()


def error_rate(level: float) -> float:
    wrong = []
    for index in range(12):
        truth = make_scene(0, index).semantic()
        wrong.append((degrade_semantic(truth, CATEGORIES, level, index) != truth).mean())
    return float(np.mean(wrong))


def test_no_noise_changes_nothing_and_copies() -> None:
    truth = make_scene(0, 0).semantic()
    same = degrade_semantic(truth, CATEGORIES, 0.0, 1)
    np.testing.assert_array_equal(same, truth)
    assert same is not truth


def test_errors_grow_with_the_level() -> None:
    rates = [error_rate(level) for level in (0.2, 0.6, 1.0)]
    assert 0.005 < rates[0] < rates[1] < rates[2] < 0.3


def test_only_known_classes_and_unknown_stays() -> None:
    truth = make_scene(0, 3).semantic()
    truth[10:30, 40:60] = 255
    degraded = degrade_semantic(truth, CATEGORIES, 1.0, 7)
    assert (degraded[10:30, 40:60] == 255).all()
    assert set(np.unique(degraded)) <= {*THINGS, *STUFF, 255}


def test_fixed_by_the_seed() -> None:
    truth = make_scene(0, 4).semantic()
    one, same, other = (degrade_semantic(truth, CATEGORIES, 0.7, s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize("level", [-0.1, 1.1])
def test_level_out_of_range(level: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        degrade_semantic(np.ones((4, 4), np.uint8), CATEGORIES, level, 0)


def test_an_image_without_stuff() -> None:
    truth = np.full((40, 40), THINGS[0], np.uint8)
    degraded = degrade_semantic(truth, CATEGORIES, 1.0, 0)
    assert set(np.unique(degraded)) <= set(THINGS)


def test_a_subset_of_a_folder_gets_the_same_files(tmp_path: Path) -> None:
    for name, scenes in (("all", (0, 1, 2)), ("some", (1,))):
        (tmp_path / name).mkdir()
        for index in scenes:
            mask = make_scene(0, index).semantic()
            Image.fromarray(mask).save(tmp_path / name / f"s{index}.png")
    for name, count in (("all", 3), ("some", 1)):
        output = tmp_path / f"noisy_{name}"
        write_degraded_semantic(tmp_path / name, output, CATEGORIES, 0.6, progress=False)
        assert len(list(output.iterdir())) == count
    written = [(tmp_path / f"noisy_{name}/s1.png").read_bytes() for name in ("all", "some")]
    assert written[0] == written[1]
    assert written[0] != (tmp_path / "all/s1.png").read_bytes()
    with pytest.raises(ValueError, match="no semantic masks"):
        write_degraded_semantic(
            tmp_path / "empty", tmp_path / "none", CATEGORIES, 0.6, progress=False
        )


PERFECT = EdgeQuality(false=0, miss=0)


def a_line(size: tuple[int, int] = (40, 60)) -> np.ndarray:
    true = np.zeros(size, bool)
    true[20] = True
    return true


def test_a_blurred_line_by_hand() -> None:
    edges = degrade_edges(a_line(), np.zeros((40, 60), np.float32), PERFECT, 3)
    assert edges.dtype == np.float32
    strength = edges[20] / (0.26596 / 0.27)  # the top of a Gaussian of sigma 1.5 in whole pixels
    np.testing.assert_allclose(strength, strength[0], rtol=1e-4)
    assert 0.8 <= strength[0] <= 1
    for distance in (1, 2, 3):
        fall = np.exp(-(distance**2) / (2 * 1.5**2))
        np.testing.assert_allclose(edges[20 - distance], edges[20] * fall, rtol=1e-4)
        np.testing.assert_allclose(edges[20 + distance], edges[20] * fall, rtol=1e-4)
    assert not edges[:13].any()


def test_false_edges_begin_farther_than_8_pixels_from_a_true_one() -> None:
    detected = np.full((40, 60), 0.8, np.float32)
    edges = degrade_edges(a_line(), detected, EdgeQuality(false=0.5, miss=0), 3)
    np.testing.assert_allclose(edges[:12], 0.4, rtol=1e-6)  # row 11 is 9 away
    assert not edges[12:14].any()  # 8 and 7 away: neither false nor within the blur
    np.testing.assert_allclose(edges[29:], 0.4, rtol=1e-6)


def test_without_true_edges_all_that_is_detected_is_false() -> None:
    detected = np.full((10, 12), 0.6, np.float32)
    edges = degrade_edges(np.zeros((10, 12), bool), detected, EdgeQuality(0.5, 0.3), 0)
    np.testing.assert_allclose(edges, 0.3, rtol=1e-6)


def test_holes_of_9_pixels_until_the_share_is_gone() -> None:
    true = a_line((40, 1000))
    nothing = np.zeros(true.shape, np.float32)
    edges = degrade_edges(true, nothing, EdgeQuality(0, miss=0.2), 1)
    untouched = degrade_edges(true, nothing, EdgeQuality(0, miss=0), 1)
    top = 0.26596 / 0.27
    gone = np.count_nonzero(edges[20] < 0.6 * edges[20].max())
    assert 0.8 * top < edges[20].max() <= top + 1e-4
    assert (untouched[20] > 0.75 * top).all()
    assert 0.15 * 1000 < gone < 0.21 * 1000  # at most one hole more; the blur fills its rim
    assert not degrade_edges(true, nothing, EdgeQuality(0, miss=1), 1).any()


def test_a_grid_averages_and_scales_by_the_top() -> None:
    detected = np.zeros((8, 8), np.float32)
    detected[:4, :4] = np.tile([0.2, 0.6], (4, 2))  # 0.4 on average
    detected[4:, 4:] = 0.2
    edges = degrade_edges(np.zeros((8, 8), bool), detected, EdgeQuality(1, 0, grid=2), 0)
    # Bilinear reading keeps the corners as the cells are: 0.4 and 0.2 of a top of 0.4.
    np.testing.assert_allclose(edges[0, 0], 1, rtol=1e-6)
    np.testing.assert_allclose(edges[7, 7], 0.5, rtol=1e-6)
    np.testing.assert_allclose([edges[0, 7], edges[7, 0]], 0, atol=1e-6)
    # Pixel 3 lies 3/8 of the way from the first cell's middle to the second's, in both axes.
    between = ((5 / 8) ** 2 * 0.4 + (3 / 8) ** 2 * 0.2) / 0.4
    np.testing.assert_allclose(edges[3, 3], between, rtol=1e-6)
    empty = degrade_edges(np.zeros((8, 8), bool), detected * 0, EdgeQuality(1, 0, grid=2), 0)
    assert not empty.any()


def test_what_is_refused() -> None:
    for wrong in ({"false": 1.1}, {"false": 0.5, "miss": -0.1}, {"false": 0.5, "grid": -1}):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            EdgeQuality(**wrong)
    with pytest.raises(ValueError, match="true edges of"):
        degrade_edges(a_line(), np.zeros((40, 61), np.float32), PERFECT, 0)


def write_inputs(folder: Path, stems: tuple[str, ...]) -> tuple[Path, Path]:
    for name in ("oracle", "detector"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for stem in stems:
        Image.fromarray(a_line().astype(np.uint8) * 255).save(folder / f"oracle/{stem}.png")
        write_edges(folder / f"detector/{stem}.png", rng.random((40, 60), np.float32))
    return folder / "oracle", folder / "detector"


def test_a_subset_gets_the_same_files(tmp_path: Path) -> None:
    quality = EdgeQuality(0.0, 0.2)
    every = write_inputs(tmp_path / "every", ("a", "b", "c"))
    some = write_inputs(tmp_path / "some", ("b",))
    write_degraded_edges(*every, tmp_path / "1", quality, progress=False)
    write_degraded_edges(*some, tmp_path / "2", quality, progress=False)
    assert [len(list((tmp_path / name).iterdir())) for name in "12"] == [3, 1]
    assert (tmp_path / "1/b.png").read_bytes() == (tmp_path / "2/b.png").read_bytes()
    assert (tmp_path / "1/b.png").read_bytes() != (tmp_path / "1/a.png").read_bytes()
    with Image.open(tmp_path / "1/a.png") as written:
        assert (written.mode, written.size) == ("L", (60, 40))


def test_files_at_fault_are_named(tmp_path: Path) -> None:
    oracle, detector = write_inputs(tmp_path, ("a",))
    output = tmp_path / "out"
    write_edges(detector / "a.png", np.zeros((5, 5), np.float32))
    with pytest.raises(ValueError, match=r"detector/a\.png does not fit .*oracle/a\.png"):
        write_degraded_edges(oracle, detector, output, PERFECT, progress=False)
    (detector / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"detector/a\.png"):
        write_degraded_edges(oracle, detector, output, PERFECT, progress=False)
    with pytest.raises(ValueError, match="no true edges"):
        write_degraded_edges(tmp_path / "empty", detector, output, PERFECT, progress=False)
