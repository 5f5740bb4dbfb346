"""Jobs on large images that are read in tiles, and the study of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trace_d2.edges.detector import EdgeDetector
from trace_d2.io.edge_maps import read_edges
from trace_d2.scenes.procedural import make_scene

CONFIG = Path(__file__).parents[2] / "configs/edges/trace_tiny.yaml"
TILES = "MODEL.TRACE.EDGES.TILES"
FAST = ("--config-file", str(CONFIG), "--workers", "1", "--quiet")
SMALL = ("MODEL.TRACE.BACKBONE.RESOLUTION", "32", "MODEL.TRACE.EDGES.SOURCE", "student")


def settings_of(output: Path) -> dict:
    return json.loads((output / "settings.json").read_text())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for stem, size in (("large", (80, 100)), ("small", (32, 60))):
        Image.fromarray(make_scene(3, 0, size).image).save(folder / f"{stem}.png")
    return folder


def test_a_job_tells_what_was_read_in_tiles(
    load_tool, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture
) -> None:
    tool, output = load_tool("predict_edges"), tmp_path / "out"
    command = ["--images", str(images), "--output", str(output), *FAST]
    keys = ["MODEL.TRACE.BACKBONE.RESOLUTION", "32", f"{TILES}.MODE", "auto"]
    assert tool.main([*command, *keys]) == 0
    lines = (output / "journal.jsonl").read_text().splitlines()
    facts = {record["stem"]: record["facts"] for record in map(json.loads, lines)}
    assert facts["large"]["tiles"] == 12  # three rows of four
    assert "tiles" not in facts["small"]
    page = (output / "report.html").read_text()
    assert "edges read in 12 tiles" in page
    assert "1 of 2 images" in page
    assert settings_of(output)["MODEL.TRACE.EDGES.TILES.MODE"] == "auto"
    # What was read one way is not continued in another.
    capsys.readouterr()
    assert tool.main([*command, *keys[:2]]) == 2
    assert "TILES.MODE" in capsys.readouterr().err


def test_what_is_never_tiled_is_as_before_there_were_keys(
    load_tool, tmp_path: Path, images: Path
) -> None:
    output = tmp_path / "out"
    command = ["--images", str(images), "--output", str(output), *FAST]
    keys = ["MODEL.TRACE.BACKBONE.RESOLUTION", "32"]
    assert load_tool("predict_edges").main([*command, *keys]) == 0
    assert not [key for key in settings_of(output) if "TILES" in key or "SCALE" in key]


@pytest.mark.parametrize("mode", ["always", "never"])
def test_labels_measure_edges_at_the_scale_of_what_they_were_read_in(
    load_tool, tmp_path: Path, images: Path, mode: str
) -> None:
    semantic = tmp_path / "semantic"
    semantic.mkdir()
    for path in images.iterdir():
        height, width = np.asarray(Image.open(path)).shape[:2]
        Image.fromarray(make_scene(3, 0, (height, width)).semantic()).save(semantic / path.name)
    (tmp_path / "classes.json").write_text(
        json.dumps([{"id": i, "name": str(i), "isthing": int(i < 5)} for i in range(1, 7)])
    )
    output = tmp_path / "out"
    command = ["--images", str(images), "--semantic", str(semantic), "--output", str(output)]
    command += ["--categories", str(tmp_path / "classes.json"), "--save-edges", *FAST, *SMALL]
    assert load_tool("make_pseudo_panoptic").main([*command, f"{TILES}.MODE", mode]) == 0
    settings = settings_of(output)
    assert settings.get("MODEL.TRACE.EDGES.SCALE") == (32 if mode == "always" else None)
    lines = (output / "journal.jsonl").read_text().splitlines()
    # The calibration looked at both first, and kept how they were read.
    tiles = [record["facts"].get("tiles") for record in map(json.loads, lines)]
    assert tiles == ([12, 3] if mode == "always" else [None, None])
    assert read_edges(output / "edges/large.png").shape == (80, 100)


def test_the_side_of_a_tile_must_be_known(
    load_tool, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["--images", str(images), "--output", str(tmp_path / "out"), *FAST]
    command += [f"{TILES}.MODE", "auto", "MODEL.TRACE.BACKBONE.NAME", str(tmp_path)]
    assert load_tool("predict_edges").main(command) == 2
    assert "set MODEL.TRACE.EDGES.TILES.SIZE" in capsys.readouterr().err


def test_the_study_prints_a_table_and_continues(
    load_tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    study: ModuleType = load_tool("tiles")
    command = ["--output", str(tmp_path / "study"), "--count", "1", "--teacher-count", "0"]
    command += ["--size", "96", "--area", "0.02", "0.05", *SMALL[:2]]
    command += ["--overlap", "0.25", "--overlap", "0.5"]
    assert study.main(command) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 7
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    assert rows[2][:3] == ["2 to 5 %", "none", "1"]
    assert float(rows[-1][3]) > float(rows[2][3])  # perfect edges help
    assert len(list((tmp_path / "study").glob("*/*.json"))) == 7  # scores of its own for each
    monkeypatch.setattr(study, "run_tool", None)
    assert study.main(command) == 0
    again = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert again == table
    assert study.main([*command, "--series", "1"]) == 2
    assert "give another --output" in capsys.readouterr().err


def test_the_study_compares_overlaps_and_searched_tiles(load_tool) -> None:
    study: ModuleType = load_tool("tiles")
    rows = study._rows([0.0, 0.5], True)
    overlaps = {title: row[-1] for title, row in rows.items() if "overlap" in title}
    names = [f"{source}, tiled, overlap {n}" for source in ("student", "teacher") for n in (0, 0.5)]
    assert overlaps == dict(zip(names, (0, 0.5, 0, 0.5), strict=True))
    assert all(rows[name][-2] == f"{TILES}.OVERLAP" for name in names)
    assert "teacher, tiled, each tile searched" in rows
    plain = study._rows([], False)
    assert "student, tiled" in plain
    assert not [title for title in plain if "overlap" in title or "searched" in title]


def test_tiles_are_searched_one_by_one_for_the_study_alone(
    load_tool, build_tiny: Callable[..., Any]
) -> None:
    study: ModuleType = load_tool("tiles")
    detector = EdgeDetector(build_tiny("flux"))
    with study._searched_tiles():
        assert detector.at(500.0).searches
    assert not detector.at(500.0).searches
