from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from trace_d2.io import coco_panoptic as panoptic
from trace_d2.io.atomic import write_json
from trace_d2.io.categories import load_categories

TOOL = Path(__file__).parents[2] / "tools" / "evaluate_panoptic.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("evaluate_panoptic", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, maps, categories) -> None:
    (folder / "panoptic").mkdir(parents=True)
    annotations = []
    for image_id, ids in maps.items():
        panoptic.write_panoptic_png(folder / "panoptic" / f"{image_id}.png", ids)
        info = panoptic.segments_info(ids, {i: categories[i] for i in np.unique(ids).tolist()})
        annotations.append(panoptic.panoptic_annotation(image_id, f"{image_id}.png", info))
    content = panoptic.coco_dataset([], annotations, load_categories("voc"))
    write_json(folder / "panoptic.json", content)


@pytest.fixture
def arguments(tmp_path):
    """Two images of a cat (8) on background (0); in the second the cat is not found."""
    truth = np.array([[3, 3, 4, 4]], np.int32)
    write(tmp_path / "truth", {1: truth, 2: truth}, {3: 8, 4: 0})
    write(tmp_path / "out", {1: truth, 2: np.full_like(truth, 4)}, {3: 8, 4: 0})
    return [
        "--truth-json", str(tmp_path / "truth" / "panoptic.json"),
        "--truth-dir", str(tmp_path / "truth" / "panoptic"),
        "--predictions", str(tmp_path / "out"),
    ]  # fmt: skip


def test_table_and_json(tool, arguments, tmp_path, capsys):
    assert tool.main([*arguments, "--json", str(tmp_path / "pq.json"), "--per-category"]) == 0
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines()]
    # One of two cats; background: 1 match, 1 miss and 1 false, its IoU of 1/2 being too little.
    assert ["cat", "thing", "66.7", "100.0", "66.7", "1", "0", "1"] in rows
    assert ["background", "stuff", "50.0", "100.0", "50.0", "1", "1", "1"] in rows
    assert ["All", "58.3", "100.0", "58.3", "2"] in rows
    assert output.endswith("\n2 images\n")
    report = json.loads((tmp_path / "pq.json").read_text())
    assert report["Things"]["pq"] == pytest.approx(2 / 3)
    assert report["images"] == 2


def test_mean_over_images(tool, arguments, tmp_path, capsys):
    """The cat's PQ is 1 in one image and 0 in the other; so is the background's."""
    options = ["--average", "images", "--per-category", "--json", str(tmp_path / "pq.json")]
    assert tool.main([*arguments, *options]) == 0
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines()]
    assert ["cat", "thing", "50.0", "50.0", "50.0", "1", "0", "1"] in rows
    assert ["All", "50.0", "50.0", "50.0", "2"] in rows
    assert output.endswith("\n2 images, the mean over those of each category\n")
    assert json.loads((tmp_path / "pq.json").read_text())["average"] == "images"


def test_missing_predictions(tool, arguments, tmp_path, capsys):
    path = tmp_path / "out" / "panoptic.json"
    content = json.loads(path.read_text())
    write_json(path, content | {"annotations": content["annotations"][:1]})
    assert tool.main(arguments) == 2
    assert "no prediction for 1 of 2 images (2)" in capsys.readouterr().err
    assert tool.main([*arguments, "--missing", "skip"]) == 0
    assert "1 images; 1 more without prediction left out" in capsys.readouterr().out
    assert tool.main([*arguments, "--missing", "miss"]) == 0
    assert "2 images, 1 of them without prediction" in capsys.readouterr().out


def test_bad_input_is_named(tool, arguments, tmp_path, capsys):
    (tmp_path / "out" / "panoptic.json").unlink()
    assert tool.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("evaluate_panoptic: no panoptic JSON at")
    assert message.count("\n") == 1


@pytest.mark.parametrize("extra", [["--workers", "-1"], ["--missing", "all"], ["--unknown"]])
def test_usage(tool, arguments, extra, capsys):
    with pytest.raises(SystemExit) as caught:
        tool.main([*arguments, *extra])
    assert caught.value.code == 2
