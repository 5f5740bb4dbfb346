"""The study of class maps along edges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from trace_d2.io.atomic import write_png
from trace_d2.io.categories import category_entries
from trace_d2.scenes.dataset import scene_categories


def test_edges_of_scenes_make_maps_better(load_tool, small_scenes: Path, tmp_path: Path) -> None:
    categories = tmp_path / "categories.json"
    categories.write_text(json.dumps(category_entries(scene_categories())))
    study = load_tool("semantic_refinement")
    command = ["--images", small_scenes / "images", "--truth", small_scenes / "semantic"]
    command += ["--categories", categories, "--output", tmp_path / "out", "--workers", 1]
    command += ["--edges", f"oracle={small_scenes / 'edges_oracle'}", "--level", 0.5]
    assert study.main([*map(str, command)]) == 0
    lines = (tmp_path / "out/results.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["none", "oracle", "oracle"]
    cells = [cell.split() for line in lines[3:5] for cell in line.split("|")[3:5]]
    before = [float(cell) for cell in lines[2].split("|")[3:5]]
    for (after, gain), own in zip(cells, 2 * before, strict=True):
        assert abs(float(after) - own - float(gain.strip("()"))) < 0.11  # of rounded figures
    specks = [float(line.split("|")[5]) for line in lines[2:5]]
    assert max(specks) < 10
    assert all(float(line.split("|")[6]) > 0 for line in lines[3:5])
    assert (
        study.main(
            ["--truth", str(tmp_path / "none"), *map(str, command[:2]), *map(str, command[4:])]
        )
        == 2
    )


def test_pieces_are_counted_of_odd_ranks(load_tool, tmp_path: Path) -> None:
    semantic = np.zeros((20, 30), np.uint8)
    semantic[2:6, 2:5] = 1  # 12 pixels
    semantic[10, 5:18] = 1  # 13
    semantic[0, 20], semantic[1, 21] = 1, 1  # apart: they touch at a corner
    for name, content in (("a", np.ones_like(semantic)), ("b", semantic)):
        write_png(tmp_path / f"{name}.png", content)
    assert load_tool("semantic_refinement").pieces(tmp_path, tmp_path) == 3
