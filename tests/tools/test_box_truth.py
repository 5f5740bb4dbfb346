"""The training command on data sets of boxes alone, as KITTI and Objects365 are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

pytestmark = pytest.mark.detectron2

MASK_RCNN = Path(__file__).parents[2] / "configs/instance/mask_rcnn_R50_FPN.yaml"


@pytest.fixture
def command(small_options, small_scenes, tmp_path):
    """A command line whose data set is scenes without their masks."""
    content = json.loads((small_scenes / "instances.json").read_text())
    for row in content["annotations"]:
        del row["segmentation"]
    truth = tmp_path / "boxes.json"
    truth.write_text(json.dumps(content))
    keys = small_options(MASK_RCNN, tmp_path / "out")
    place = keys.index("DATASETS.TRACE.INSTANCES") + 1
    entries = [["small_boxes", str(truth), str(small_scenes / "images")]]
    keys[place] = str(entries)
    return ["--config-file", str(MASK_RCNN), *keys]


def test_boxes_alone_are_scored(command, load_tool, tmp_path):
    options = ["--eval-only", *command, "DATASETS.TEST", "('small_boxes',)"]
    assert load_tool("train_net").main(options) == 0
    assert list(json.loads((tmp_path / "out/results.json").read_text())) == ["bbox"]
    log = (tmp_path / "out/log.txt").read_text()
    assert "boxes.json lacks masks: boxes alone are scored" in log
    assert "AP and AR are those of boxes (AP^box, not AP^mk)" in log
