"""The whole way from bare images, at its smallest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as mask_api

from trace_d2.evaluation import class_agnostic_ap
from trace_d2.scenes.dataset import SceneSettings, write_scenes

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2

# As in the config, but smaller.
SMALL = {
    "SOLVER.MAX_ITER": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.TRACE.SOLVER.SAMPLES_PERIOD": 0,
}


def test_masks_are_scored_beside_the_whole_image(load_tool, tmp_path, capsys):
    study = load_tool("from_bare_images")
    scenes, output = tmp_path / "scenes", tmp_path / "study"
    write_scenes(scenes, 3, SceneSettings(21))
    truth = scenes / "instances.json"
    command = ["masks", "--images", str(scenes / "images"), "--truth", str(truth)]
    command += ["--edges", str(scenes / "edges_oracle"), "--output", str(output)]

    assert study.main(command) == 0

    results = json.loads((output / "results.json").read_text())
    assert list(results) == ["whole", "whole, refined", "edges"]
    for name, path in (("whole", "whole"), ("edges", "edges")):
        scores = class_agnostic_ap(truth, output / f"{path}.json", ["segm"]).scores["segm"]
        assert results[name]["AP"][0] == pytest.approx(100 * scores["AP"])
        assert results[name]["AR_100"][0] == pytest.approx(100 * scores["AR_100"])
    assert results["whole"]["AP"][0] < 5
    assert results["edges"]["AR_100"][0] > 60
    whole = json.loads((output / "whole.json").read_text())["annotations"]
    for row in whole:
        mask = mask_api.decode(mask_api.frPyObjects(row["segmentation"], 128, 128))
        assert np.all(mask == 1)
    assert "edges" in capsys.readouterr().out


def test_a_detector_learns_from_discovered_masks_once(load_tool, studies_train_here, tmp_path):
    study = load_tool("from_bare_images")
    command = ["training", "--output", str(tmp_path), "--train-count", "2", "--val-count", "1"]
    command += ["--edges", str(tmp_path / "train" / "edges_oracle"), "--only", "edges"]
    command += ["--set", *(str(part) for pair in SMALL.items() for part in pair)]

    assert study.main(command) == 0

    (row,) = json.loads((tmp_path / "training.json").read_text())
    score = json.loads((tmp_path / "trained" / "edges" / "results.json").read_text())
    assert (row["labels"], row["AP^mk"]) == ("edges", score["segm"]["AP"])

    weights = tmp_path / "trained" / "edges" / "model_final.pth"
    written = weights.stat().st_mtime_ns
    assert study.main(command) == 0
    assert weights.stat().st_mtime_ns == written
