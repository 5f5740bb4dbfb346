"""The refiner of class maps as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CATEGORIES = [
    {"id": 0, "name": "ground", "isthing": 0, "color": [90, 90, 90]},
    {"id": 3, "name": "cat", "isthing": 1, "color": [220, 20, 60]},
]
TRUTH = np.zeros((96, 128), np.uint8)
TRUTH[20:70, 30:90] = 3


@pytest.fixture
def job(tmp_path: Path, load_tool):
    """``job(*options)``: the tool on four images, whose maps are off by two pixels."""
    edges = np.zeros(TRUTH.shape, np.uint8)
    edges[:, :-1] |= (TRUTH[:, 1:] != TRUTH[:, :-1]).astype(np.uint8) * 255
    edges[:-1] |= (TRUTH[1:] != TRUTH[:-1]).astype(np.uint8) * 255
    off = np.roll(TRUTH, (2, 2), (0, 1))
    off[0, :5] = 255
    for name in ("images", "semantic", "edges"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    for stem in "abcd":
        pixels = rng.integers(0, 256, (*TRUTH.shape, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{stem}.png")
        Image.fromarray(edges).save(tmp_path / f"edges/{stem}.png")
        Image.fromarray(off).save(tmp_path / f"semantic/{stem}.png")
    (tmp_path / "categories.json").write_text(json.dumps(CATEGORIES))
    tool = load_tool("refine_semantic")
    folders = ["--images", tmp_path / "images", "--semantic", tmp_path / "semantic"]
    folders += ["--categories", tmp_path / "categories.json", "--output", tmp_path / "out"]

    def run(*options: object, edges: tuple = ("--edges", tmp_path / "edges")) -> int:
        return tool.main([*map(str, (*folders, *edges, "--workers", 1, "--quiet", *options))])

    return run


def refined(root: Path, stem: str) -> np.ndarray:
    return np.asarray(Image.open(root / f"out/semantic/{stem}.png"))


def journal(root: Path) -> dict[str, dict]:
    lines = (root / "out/journal.jsonl").read_text().splitlines()
    return {record["stem"]: record for record in map(json.loads, lines)}


def scores_of(semantic: np.ndarray) -> np.ndarray:
    """Scores at a quarter of the resolution."""
    cells = semantic[2::4, 2::4]
    return np.stack([cells != 3, cells == 3]).astype(np.float16)


def test_maps_and_scores_move_onto_the_edges(job, tmp_path: Path, capsys) -> None:
    given = np.asarray(Image.open(tmp_path / "semantic/a.png"))
    np.save(tmp_path / "semantic/b.npy", scores_of(given))
    np.savez(tmp_path / "semantic/c.npz", scores_of(given))
    for stem in "bcd":
        (tmp_path / f"semantic/{stem}.png").unlink()
    assert job("--report-images", 4) == 0
    assert "3 refined (0 of them before), 1 skipped, 0 failed" in capsys.readouterr().out
    for stem in "abc":
        known = refined(tmp_path, stem) != 255
        wrong = (refined(tmp_path, stem) != TRUTH)[known].mean()
        assert wrong < 0.3 * (given != TRUTH)[known].mean()
    assert np.array_equal(refined(tmp_path, "a") == 255, given == 255)
    facts = journal(tmp_path)["a"]["facts"]
    changed = np.count_nonzero(refined(tmp_path, "a") != given)
    assert (facts["changed"], facts["pixels"]) == (changed, given.size)
    assert journal(tmp_path)["d"]["reason"].startswith("no class map at ")
    page = (tmp_path / "out/report.html").read_text()
    assert "of the pixels changed" in page
    assert "what an edge near an outline of a class map means" in page
    calibration = json.loads((tmp_path / "out/calibration.json").read_text())
    assert (calibration["prior"], calibration["images"]) == (0.0, 3)


def test_shards_make_what_one_job_makes(job, tmp_path: Path, load_tool) -> None:
    assert job() == 0
    whole = {stem: refined(tmp_path, stem) for stem in "abcd"}
    (tmp_path / "out").rename(tmp_path / "whole")
    for shard in ("1/2", "2/2"):
        assert job("--shard", shard) == 0
    assert load_tool("refine_semantic").main(["--merge", str(tmp_path / "out")]) == 0
    assert all(np.array_equal(refined(tmp_path, stem), whole[stem]) for stem in "abcd")
    assert set(journal(tmp_path)) == set("abcd")


def test_without_edges_maps_stay_and_scores_become_maps(job, tmp_path: Path) -> None:
    given = np.asarray(Image.open(tmp_path / "semantic/a.png"))
    (tmp_path / "semantic/b.png").unlink()
    np.save(tmp_path / "semantic/b.npy", scores_of(given))
    assert job(edges=("--no-edges",)) == 0
    assert np.array_equal(refined(tmp_path, "a"), given)
    assert (refined(tmp_path, "b") == given)[given != 255].mean() > 0.95
    assert not (tmp_path / "out/calibration.json").exists()


def test_what_is_wrong_is_named(job, tmp_path: Path, capsys) -> None:
    (tmp_path / "semantic/a.png").unlink()
    np.save(tmp_path / "semantic/a.npy", np.zeros((5, 24, 32), np.float32))
    (tmp_path / "semantic/b.png").unlink()
    np.save(tmp_path / "semantic/b.npy", np.zeros((2, 24, 24), np.float32))
    assert job() == 3
    reasons = {stem: record["reason"] for stem, record in journal(tmp_path).items()}
    assert "a.npy has scores of 5 classes, but there are 2 categories" in reasons["a"]
    assert "b.npy has scores of 24x24 cells, but the image" in reasons["b"]
    np.save(tmp_path / "semantic/c.npy", np.zeros((2, 24, 32), np.float32))
    assert job("MODEL.TRACE.SEMANTIC.UNKNOWN", "drop") == 2
    said = capsys.readouterr().err
    assert "MODEL.TRACE.SEMANTIC.UNKNOWN must be one of keep, fill, not 'drop'" in said
    assert "c.npy and c.png" in said


@pytest.mark.parametrize(("png", "npy"), [("PNG", "NPY"), ("Png", "Npy")])
def test_capitals_in_endings(job, tmp_path: Path, png: str, npy: str) -> None:
    assert job() == 0
    plain = refined(tmp_path, "a")
    shutil.rmtree(tmp_path / "out")
    for name in ("semantic/a", "edges/a", "images/a"):
        (tmp_path / f"{name}.png").rename(tmp_path / f"{name}.{png}")
    np.save(tmp_path / "semantic/b.npy", scores_of(TRUTH))
    (tmp_path / "semantic/b.npy").rename(tmp_path / f"semantic/b.{npy}")
    (tmp_path / "semantic/b.png").unlink()
    assert job() == 0
    assert {record["status"] for record in journal(tmp_path).values()} == {"done"}
    np.testing.assert_array_equal(refined(tmp_path, "a"), plain)
