"""tools/studies/label_quality.py on procedural scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from trace_d2.scenes.dataset import SceneSettings, write_scenes

METRICS = ["ODS", "PQ^th perfect", "PQ^th noisy", "AP^mk class parts", "AP^mk all parts"]


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("label_quality")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 3, SceneSettings(7, (96, 96)), progress=False)
    return folder


@pytest.fixture
def command(scenes, tmp_path) -> list[str]:
    inputs = ["--images", f"{scenes}/images", "--truth-json", f"{scenes}/panoptic.json"]
    inputs += ["--truth-dir", f"{scenes}/panoptic", "--workers", "1"]
    return [*inputs, "--output", str(tmp_path / "study")]


def test_every_row_and_figure(tool, command, tmp_path, capsys) -> None:
    assert tool.main(command) == 0
    results = json.loads((tmp_path / "study/results.json").read_text())
    assert results["images"] == {"all": 3, "even": 2, "odd": 1}
    rows = results["rows"]
    assert list(rows) == [*tool.ROWS, "gradient"]
    for scores in rows.values():
        assert list(scores) == METRICS
        assert all(len(values) == 3 for values in scores.values())
    assert rows["none"]["ODS"] == [None, None, None]
    assert rows["oracle"]["ODS"] == [1, 1, 1]
    ods = [rows[name]["ODS"][0] for name in ("oracle", "soft-0.5", "gradient")]
    assert ods == sorted(ods, reverse=True)
    for metric in METRICS[1:]:
        assert 0 < rows["none"][metric][0] < rows["oracle"][metric][0]
    text = (tmp_path / "study/results.md").read_text()
    assert text in capsys.readouterr().out
    assert "19 thresholds" in text
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 2 + len(rows)


def test_finished_rows_are_kept_and_harm_is_marked(tool, command, scenes, tmp_path, capsys) -> None:
    edges = tmp_path / "mine"
    shutil.copytree(scenes / "edges_oracle", edges)
    command = [*command, "--detector", f"mine={edges}", "--rows", "mine"]
    assert tool.main(command) == 0
    path = tmp_path / "study/rows/mine/figures.json"
    figures = json.loads(path.read_text())
    assert "**" not in (tmp_path / "study/results.md").read_text().splitlines()[3]
    figures["scores"]["PQ^th noisy"][2] = 0.01234
    path.write_text(json.dumps(figures))
    capsys.readouterr()
    assert tool.main(command) == 0  # reads the file, and measures nothing
    out = capsys.readouterr().out
    assert "$ python" not in out
    assert "/ **1.2**)" in out
    assert "1 of 12 figures" in out


def test_a_detector_of_other_edges_is_refused(tool, command, scenes, tmp_path, capsys) -> None:
    rows = ["--rows", "second", "--detector", f"first={scenes}/edges_oracle", "--detector"]
    assert tool.main([*command, *rows, f"second={scenes}/edges_oracle"]) == 0
    shutil.copytree(scenes / "edges_oracle", tmp_path / "other")
    assert tool.main([*command, *rows, f"second={tmp_path}/other"]) == 2
    assert "rows/second was measured with the edges of" in capsys.readouterr().err


def test_one_image_has_no_odd_half(tool, command, scenes, tmp_path) -> None:
    truth = json.loads((scenes / "panoptic.json").read_text())
    first = {key: truth[key][:1] for key in ("images", "annotations")}
    (tmp_path / "one.json").write_text(json.dumps(truth | first))
    assert tool.main([*command, "--truth-json", f"{tmp_path}/one.json", "--rows", "oracle"]) == 0
    rows = json.loads((tmp_path / "study/results.json").read_text())["rows"]
    assert all(values[2] is None for values in rows["oracle"].values())
    assert rows["oracle"]["ODS"][:2] == [1, 1]


def test_bad_input_is_named(tool, command, tmp_path, capsys) -> None:
    assert tool.main([*command, "--truth-json", f"{tmp_path}/absent.json"]) == 2
    assert "no panoptic JSON" in capsys.readouterr().err
    assert tool.main([*command, "--rows", "sharp"]) == 2
    assert "no row sharp: choose from none, oracle" in capsys.readouterr().err
    assert tool.main([*command, "--rows", "none", "--opts", "NONSENSE", "1"]) == 2
    assert "NONSENSE" in capsys.readouterr().err
    for wrong in ("oracle=x", "mine", "../up=x", "=x"):
        with pytest.raises(SystemExit):
            tool.main([*command, "--detector", wrong])


def test_halves_table_marks_what_lies_below_the_floor(tool) -> None:
    rows = {
        "none": {"PQ": [0.5, 0.4, None], "ODS": [None] * 3},
        "edges": {"PQ": [0.4996, 0.4, 0.3], "ODS": [0.9, 0.8, 1.0]},
    }
    header, rule, *body = tool.halves_table(rows, "none", ["ODS", "PQ"]).splitlines()
    assert set(rule) <= set("|:-")
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["", "ODS", "PQ"]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in body] == [
        ["none", "- (- / -)", "50.0 (40.0 / -)"],
        ["edges", "90.0 (80.0 / 100.0)", "**50.0** (40.0 / 30.0)"],
    ]
