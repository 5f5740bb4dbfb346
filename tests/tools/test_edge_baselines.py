"""tools/studies/edge_baselines.py on procedural scenes."""

from __future__ import annotations

import json

import pytest

from trace_d2.scenes.dataset import SceneSettings, write_scenes


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    scenes = tmp_path_factory.mktemp("scenes")
    write_scenes(scenes, 3, SceneSettings(7, (64, 64)), progress=False)
    inputs = ["--images", f"{scenes}/images", "--truth-json", f"{scenes}/panoptic.json"]
    inputs += ["--truth-dir", f"{scenes}/panoptic", "--workers", "1", "--thresholds", "3"]
    return [*inputs, "--detector", f"oracle={scenes}/edges_oracle"]


def test_figures_of_all_images_and_of_the_odd_ones(load_tool, command, tmp_path, capsys) -> None:
    tool = load_tool("edge_baselines")
    command = [*command, "--output", str(tmp_path / "study")]
    assert tool.main([*command, "--rows", "none", "canny-100-200", "oracle"]) == 0
    text = (tmp_path / "study/results.md").read_text()
    assert text in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line]
    figures = {tuple(row[:2]): row[2:] for row in rows[2:6]}
    assert figures["oracle", "all segments"] == ["100.0 / 100.0"] * 2 + ["- / -", "100.0 / 100.0"]
    fixed = figures["Canny, 100 and 200", "things"]
    assert fixed[2] == "- / -"  # one threshold is no curve
    assert 0 < float(fixed[0].split()[0]) < 90
    masks = dict(rows[8:11])
    assert list(masks) == ["none", "Canny, 100 and 200", "oracle"]
    assert float(masks["oracle"].split()[0]) > float(masks["none"].split()[0])
    assert "In %: 3 images / the 1 of odd rank. 3 thresholds.\n" in text
    assert [cell.split()[1] for cell in rows[-2][1:]] == ["s", "MiB"]  # of the one baseline

    path = tmp_path / "study/rows/none/figures.json"
    path.write_text(json.dumps({"masks": [0.123, None]}))
    assert tool.main([*command, "--rows", "none"]) == 0  # finished rows are read
    assert "| 12.3 / - " in capsys.readouterr().out


def test_rows_that_are_not_there(load_tool, command, tmp_path, capsys) -> None:
    output = ["--output", str(tmp_path / "study")]
    assert load_tool("edge_baselines").main([*command, *output, "--rows", "pidinet"]) == 2
    assert "no row pidinet: choose from none, canny" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()
