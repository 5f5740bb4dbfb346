from __future__ import annotations

import json

import pytest

from trace_d2.io.atomic import write_json

IMAGE = {"id": 1, "height": 8, "width": 8, "file_name": "1.jpg"}
SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]


@pytest.fixture
def job(tmp_path, load_tool):
    """Run the tool on one label and one prediction in the same place."""
    rows = [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": SQUARE}]
    write_json(tmp_path / "labels.json", {"images": [IMAGE], "annotations": rows})
    write_json(tmp_path / "results.json", [{"image_id": 1, "score": 0.6, "segmentation": SQUARE}])
    arguments = ["--predictions", str(tmp_path / "results.json")]
    arguments += ["--labels", str(tmp_path / "labels.json")]
    arguments += ["--output", str(tmp_path / "next.json")]
    return lambda *extra: load_tool("make_self_training").main([*arguments, *extra])


def test_labels_and_summary(job, tmp_path, capsys):
    assert job() == 0
    assert "1 labels: 0 new predictions, 1 earlier labels kept" in capsys.readouterr().out
    assert job("--threshold", "0.6") == 0
    assert "1 labels: 1 new predictions, 0 earlier labels kept" in capsys.readouterr().out
    content = json.loads((tmp_path / "next.json").read_text())
    assert content["annotations"][0]["bbox"] == [1, 1, 4, 4]


@pytest.mark.parametrize("name", ["labels", "results", "link"])
def test_an_output_that_is_an_input_is_refused_before_anything_is_read(job, tmp_path, name, capsys):
    (tmp_path / "link.json").symlink_to(tmp_path / "labels.json")
    before = (tmp_path / "results.json").read_text()
    (tmp_path / "labels.json").write_text("{")  # not even read
    assert job("--output", str(tmp_path / f"{name}.json")) == 2
    option = {"results": "predictions"}.get(name, "labels")
    assert f"is --{option} as well, which would be lost" in capsys.readouterr().err
    assert (tmp_path / "labels.json").read_text() == "{"
    assert (tmp_path / "results.json").read_text() == before


def test_bad_input_writes_nothing(job, tmp_path, capsys):
    assert job("--threshold", "7") == 2
    (tmp_path / "labels.json").unlink()
    assert job() == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "make_self_training: threshold is 7.0; it must lie in 0..1"
    assert lines[1].startswith("make_self_training: no file at")
    assert not (tmp_path / "next.json").exists()
