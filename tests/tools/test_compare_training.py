"""One arm of the comparison, from the scenes to the table."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("detectron2")

pytestmark = pytest.mark.detectron2

# As in the config, but smaller.
SMALL = {
    "SOLVER.MAX_ITER": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.TRACE.SOLVER.SAMPLES_PERIOD": 0,
}


def test_an_arm_is_labelled_trained_and_scored_once(
    load_tool, studies_train_here, tmp_path, capsys
):
    compare = load_tool("compare_training")
    command = ["instance", "--output", str(tmp_path), "--train-count", "2", "--val-count", "1"]
    command += ["--edges", str(tmp_path / "train" / "edges_oracle"), "--only", "merged masks"]
    command += ["--set", *(str(part) for pair in SMALL.items() for part in pair)]

    assert compare.main(command) == 0

    score = json.loads((tmp_path / "instance_merged_masks" / "results.json").read_text())
    row = rf"merged masks +{score['segm']['AP']:.1f} "
    assert re.search(row, capsys.readouterr().out)
    merged = json.loads((tmp_path / "merged.json").read_text())
    refined = json.loads((tmp_path / "refined.json").read_text())
    truth = json.loads((tmp_path / "train" / "instances.json").read_text())
    counts = [len(content["annotations"]) for content in (merged, refined, truth)]
    assert counts[0] < counts[1] <= counts[2]
    assert not (tmp_path / "comparison_instance.json").exists()  # two arms are missing

    weights = tmp_path / "instance_merged_masks" / "model_final.pth"
    written = weights.stat().st_mtime_ns
    assert compare.main(command) == 0
    assert weights.stat().st_mtime_ns == written
