"""The training command: resuming, averaging, tables, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2")

pytestmark = pytest.mark.detectron2

CONFIGS = Path(__file__).parents[2] / "configs"
MASK_RCNN = CONFIGS / "instance" / "mask_rcnn_R50_FPN.yaml"
MASK2FORMER = CONFIGS / "panoptic" / "coco_mask2former_R50.yaml"


@pytest.fixture(scope="module")
def train_net(load_tool):
    return load_tool("train_net")


def test_options_are_those_of_detectron2(train_net):
    from detectron2.engine import default_argument_parser

    def options(parser):
        traits = ("option_strings", "dest", "default", "type", "nargs", "const", "required")
        return [[getattr(action, trait) for trait in traits] for action in parser._actions]

    assert options(train_net.build_parser()) == options(default_argument_parser())


def test_resumed_training_keeps_the_average(train_net, small_options, tmp_path):
    command = ["--config-file", str(MASK2FORMER), *small_options(MASK2FORMER, tmp_path)]
    command += ["MODEL.TRACE.SOLVER.EMA_DECAY", "0.5", "SOLVER.CHECKPOINT_PERIOD", "1"]
    assert train_net.main([*command, "SOLVER.MAX_ITER", "1"]) == 0
    first = torch.load(tmp_path / "model_averaged.pth")["model"]

    # The weights named in the config are not needed any more.
    command += ["MODEL.WEIGHTS", "absent.pth", "SOLVER.MAX_ITER", "2"]
    assert train_net.main(["--resume", *command]) == 0

    trained = torch.load(tmp_path / "model_final.pth", weights_only=False)
    averaged = torch.load(tmp_path / "model_averaged.pth")["model"]
    assert trained["iteration"] == 1
    name = "sem_seg_head.class_predictor.weight"
    expected = (first[name] + trained["model"][name]) / 2
    torch.testing.assert_close(averaged[name], expected)
    assert not torch.equal(averaged[name], trained["model"][name])


def test_the_log_has_the_table(train_net, small_options, tmp_path):
    command = ["--config-file", str(MASK_RCNN), *small_options(MASK_RCNN, tmp_path)]
    assert train_net.main([*command, "SOLVER.MAX_ITER", "1"]) == 0

    log = (tmp_path / "log.txt").read_text()
    assert "AR_100" in log
    assert f"results: {tmp_path / 'results.json'}" in log
    predictions = tmp_path / "inference" / "small_instances" / "coco_instances_results.json"
    assert isinstance(json.loads(predictions.read_text()), list)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.WEIGHTS", "absent.pth"], "MODEL.WEIGHTS: no file at"),
        (["MODEL.TRACE.NOTHING", "1"], "MODEL.TRACE.NOTHING"),
        (["DATASETS.TRAIN", "('nobody',)"], "no data set 'nobody'"),
        (["DATASETS.TEST", "('voc_2012_val_panoptic',)"], "voc_2012_val_panoptic"),
        (["INPUT.TRACE.MAPPER", "trace"], "INPUT.TRACE.MAPPER must be detectron2"),
        (["INPUT.TRACE.CLASS_AGNOSTIC", "True"], "INPUT.TRACE.CLASS_AGNOSTIC"),
        (["DATASETS.TRACE.INSTANCES", "[['bad']]"], "DATASETS.TRACE.INSTANCES holds ['bad']"),
    ],
)
def test_mistakes_end_with_status_2_and_the_key(
    options, message, train_net, small_options, tmp_path, capsys
):
    command = ["--config-file", str(MASK_RCNN), *small_options(MASK_RCNN, tmp_path), *options]

    assert train_net.main(command) == 2

    assert message in capsys.readouterr().err


def test_truth_that_is_damaged_ends_before_training(train_net, small_options, tmp_path, capsys):
    truth = tmp_path / "truth.json"
    truth.write_text("{")
    command = ["--config-file", str(MASK_RCNN), *small_options(MASK_RCNN, tmp_path)]
    images = command[command.index("DATASETS.TRACE.INSTANCES") + 1]
    entry = f"[{images[1:-1]}, ['damaged_truth', '{truth}', '{tmp_path}']]"
    command += ["DATASETS.TRACE.INSTANCES", entry, "DATASETS.TEST", "('damaged_truth',)"]

    assert train_net.main(command) == 2

    assert str(truth) in capsys.readouterr().err
    assert not (tmp_path / "model_final.pth").exists()


def test_a_checkpoint_of_another_model_is_refused(train_net, small_options, tmp_path, capsys):
    torch.save({"model": {"backbone.other": torch.zeros(1)}}, tmp_path / "other.pth")
    command = ["--config-file", str(MASK_RCNN), *small_options(MASK_RCNN, tmp_path)]
    command += ["MODEL.WEIGHTS", str(tmp_path / "other.pth")]

    assert train_net.main(command) == 2

    assert "it belongs to another model" in capsys.readouterr().err
