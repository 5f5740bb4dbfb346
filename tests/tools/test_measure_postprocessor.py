from __future__ import annotations

import json

import pytest

pytest.importorskip("detectron2")

from trace_d2.scenes.dataset import SceneSettings, write_scenes

pytestmark = pytest.mark.detectron2


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("measure_postprocessor")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 4, SceneSettings(series=7), progress=False)
    return folder


def test_oracle_edges_double_the_precision_of_merged_masks(tool, scenes, tmp_path, capsys):
    output = tmp_path / "figures.json"
    assert tool.main(["--scenes", str(scenes), "--json", str(output)]) == 0
    assert "oracle" in capsys.readouterr().out
    figures = json.loads(output.read_text())
    assert list(figures) == ["things", "classes", "none"]
    for merge in ("things", "classes"):
        before, oracle = figures[merge]["before"], figures[merge]["oracle"]
        assert oracle["AP"] > 2 * before["AP"]
        assert oracle["predictions"] > before["predictions"]
    # Perfect masks stay what they are.
    assert figures["none"]["before"]["AP"] == pytest.approx(1)
    assert figures["none"]["oracle"]["AP"] > 0.95


def test_options_and_the_number_of_images(tool, scenes, tmp_path):
    output = tmp_path / "figures.json"
    arguments = ["--scenes", str(scenes), "--json", str(output), "--count", "1"]
    keys = ["MODEL.TRACE.POSTPROCESSOR.MAX_INSTANCES", "1"]
    assert tool.main([*arguments, *keys]) == 0
    assert json.loads(output.read_text())["things"]["oracle"]["predictions"] == 1


def test_bad_input_is_named(tool, scenes, tmp_path, capsys):
    assert tool.main(["--scenes", str(tmp_path / "absent")]) == 2
    assert "no panoptic JSON" in capsys.readouterr().err
    assert tool.main(["--scenes", str(scenes), "--edges", f"mine={tmp_path}/absent"]) == 2
    assert "MODEL.TRACE.EDGES.DIR" in capsys.readouterr().err
    assert tool.main(["--scenes", str(scenes), "MODEL.TRACE.NONSENSE", "1"]) == 2
    assert "NONSENSE" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(["--scenes", str(scenes), "--edges", "before=x"])
