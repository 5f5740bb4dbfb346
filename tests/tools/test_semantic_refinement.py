"""The study of class maps along edges."""

from __future__ import annotations

import json
from pathlib import Path

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
    assert (
        study.main(
            ["--truth", str(tmp_path / "none"), *map(str, command[:2]), *map(str, command[4:])]
        )
        == 2
    )
