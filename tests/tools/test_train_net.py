"""The training command: resuming, averaging, tables, and what it says of mistakes."""

from __future__ import annotations

import ast
import json
import os
import re
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

    *theirs, fresh = options(train_net.build_parser())
    assert theirs == options(default_argument_parser())
    assert fresh[0] == ["--fresh"]


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

    (events,) = tmp_path.glob("events.out.tfevents.*")  # of TensorBoard
    assert b"total_loss" in events.read_bytes()
    log = (tmp_path / "log.txt").read_text()
    assert "AR_100" in log
    assert "\x1b" not in log  # no colours in a file
    assert log.count("Running with full config") == 1
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


def test_the_same_command_goes_on_and_another_is_refused(
    train_net, small_options, tmp_path, capsys, monkeypatch
):
    from trace_d2.engine.trainer import TraceTrainer

    command = ["--config-file", str(MASK_RCNN), *small_options(MASK_RCNN, tmp_path)]
    command += ["SOLVER.CHECKPOINT_PERIOD", "1"]

    class KilledError(Exception):
        pass

    def die(self):
        if self.iter == 1:
            raise KilledError
        run_step(self)

    run_step = TraceTrainer.run_step
    with monkeypatch.context() as patch:
        patch.setattr(TraceTrainer, "run_step", die)
        with pytest.raises(KilledError):
            train_net.main(command)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"
    first = torch.load(tmp_path / "model_0000000.pth")["model"]

    assert train_net.main([*command, "SOLVER.BASE_LR", "0.5"]) == 2
    assert re.search(r"SOLVER\.BASE_LR: \S+ there, 0\.5 now", capsys.readouterr().err)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth"

    iterations = []
    with monkeypatch.context() as patch:
        patch.setattr(
            TraceTrainer, "run_step", lambda self: (iterations.append(self.iter), run_step(self))
        )
        assert train_net.main(command) == 0
        assert iterations == [1]
        capsys.readouterr()
        final = (tmp_path / "model_final.pth").read_bytes()
        assert train_net.main(command) == 0  # nothing is left to do
    assert iterations == [1]
    said = capsys.readouterr().out
    assert "this training is finished (2 iterations)" in said
    assert "train on: add --resume, and SOLVER.MAX_ITER N at the end, N > 2\n" in said
    assert (tmp_path / "model_final.pth").read_bytes() == final

    assert train_net.main(["--fresh", *command, "SOLVER.BASE_LR", "0.5"]) == 0
    assert (tmp_path / "before-1" / "model_final.pth").read_bytes() == final
    kept = torch.load(tmp_path / "before-1" / "model_0000000.pth")["model"]
    assert all(torch.equal(kept[name], tensor) for name, tensor in first.items())
    assert (tmp_path / "model_final.pth").is_file()


def test_an_interrupted_evaluation_at_the_end_is_made_up_for(
    train_net, small_options, tmp_path, monkeypatch, capsys
):
    from trace_d2.engine.trainer import TraceTrainer

    command = ["--config-file", str(MASK_RCNN), *small_options(MASK_RCNN, tmp_path)]
    command += ["SOLVER.MAX_ITER", "1"]

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TraceTrainer, "evaluate", die)
        assert train_net.main(command) == 130
    assert capsys.readouterr().err.endswith(
        f"interrupted: the same command goes on from {tmp_path / 'model_final.pth'}\n"
    )
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert not (tmp_path / "results.json").exists()
    assert train_net.main(command) == 0
    assert (tmp_path / "results.json").is_file()
    assert json.loads((tmp_path / "training.json").read_text())["finished"] is True


def test_evaluation_alone_leaves_the_training_as_it_is(train_net, small_options, tmp_path):
    command = ["--config-file", str(MASK_RCNN), *small_options(MASK_RCNN, tmp_path)]
    command += ["SOLVER.MAX_ITER", "1"]
    assert train_net.main(command) == 0
    note = (tmp_path / "training.json").read_bytes()
    weights = ["MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]
    assert train_net.main(["--eval-only", *command, *weights, "TEST.AUG.ENABLED", "False"]) == 0
    assert (tmp_path / "training.json").read_bytes() == note
    assert train_net.main(command) == 0


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (["--num-gpus", "2"], [], "--num-gpus is 2, but 0 CUDA devices are visible"),
        (["--fresh", "--eval-only"], [], "--fresh starts a training over"),
        ([], ["MODEL.TRACE.SED", "1"], "did you mean MODEL.TRACE.SEED?"),
        ([], ["SOLVER.MAX_ITR", "1"], "did you mean SOLVER.MAX_ITER?"),
        ([], ["--resume"], "options come before them"),
        ([], ["MODEL.TRACE.BGP.BETA", "[1]"], "MODEL.TRACE.BGP.BETA must be a number"),
    ],
)
def test_mistakes_of_the_command_line(
    before, after, message, train_net, small_options, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    options = small_options(MASK_RCNN, tmp_path)
    assert train_net.main([*before, "--config-file", str(MASK_RCNN), *options, *after]) == 2
    assert message in capsys.readouterr().err


def test_without_a_config_file_that_is_what_is_said(train_net, capsys):
    assert train_net.main([]) == 2
    assert capsys.readouterr().err.startswith("error: --config-file: it is missing: name a file")
    assert train_net.main(["--config-file", "nowhere.yaml"]) == 2
    assert "--config-file: no config file at nowhere.yaml" in capsys.readouterr().err


def test_one_of_several_processes_ends_with_status_2(train_net, monkeypatch, capsys):
    from trace_d2.engine.checkpointer import UnfitCheckpointError

    def fail(args):
        raise UnfitCheckpointError("weights of another model")

    monkeypatch.setattr(train_net, "run", fail)
    with pytest.raises(SystemExit) as caught:
        train_net.run_apart(None)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: weights of another model\n"


def test_python_in_a_config_is_not_run(train_net, tmp_path, capsys):
    trace = tmp_path / "trace"
    config = tmp_path / "evil.yaml"
    config.write_text(f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {trace}']")
    assert train_net.main(["--config-file", str(config)]) == 2
    assert "is no config" in capsys.readouterr().err
    assert not trace.exists()


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_a_folder_in_use_is_left_alone(fresh, train_net, small_options, tmp_path, capsys):
    from trace_d2.jobs.locks import Shard, folder_lock

    (tmp_path / "metrics.json").write_text("another's")
    command = [*fresh, "--config-file", str(MASK_RCNN), *small_options(MASK_RCNN, tmp_path)]
    with folder_lock(tmp_path, Shard()):
        assert train_net.main(command) == 2
    said = capsys.readouterr().err
    assert f"OUTPUT_DIR {tmp_path} is in use by another training or job (" in said
    assert f"process {os.getpid()} on " in said
    assert (tmp_path / "metrics.json").read_text() == "another's"
    assert not (tmp_path / "before-1").exists()


def test_a_training_holds_its_folder(train_net, small_options, tmp_path, capsys, monkeypatch):
    from trace_d2.jobs.locks import is_locked

    seen = []

    def interrupted(args):
        seen.append(is_locked(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(train_net, "run", interrupted)
    command = ["--config-file", str(MASK_RCNN), *small_options(MASK_RCNN, tmp_path)]
    assert train_net.main(command) == 130
    assert "interrupted: there is no checkpoint yet" in capsys.readouterr().err
    assert train_net.main(["--eval-only", *command]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert seen == [True, False]
    assert not is_locked(tmp_path)
    with pytest.raises(SystemExit) as ended:
        train_net.run_apart(None)
    assert ended.value.code == 130


@pytest.mark.parametrize("more", [[], ["--eval-only"]])
def test_a_folder_that_cannot_be_made(more, train_net, small_options, tmp_path, capsys):
    (tmp_path / "file").touch()
    for folder in (Path("/proc/nowhere/out"), tmp_path / "file" / "out"):
        command = [*more, "--config-file", str(MASK_RCNN), *small_options(MASK_RCNN, folder)]
        assert train_net.main(command) == 2
        assert f"OUTPUT_DIR: cannot write to {folder}" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["truth", "images", "weights"])
def test_what_is_missing_is_said_without_a_traceback(
    what, train_net, small_options, tmp_path, capsys, monkeypatch
):
    # Handlers of the tests before hold streams that are closed by now.
    monkeypatch.setattr("logging.raiseExceptions", False)
    command = ["--config-file", str(MASK_RCNN), *small_options(MASK_RCNN, tmp_path / "out")]
    images = command[command.index("DATASETS.TRACE.INSTANCES") + 1]
    _, truth, folder = ast.literal_eval(images)[0]
    name = f"missing_{what}"
    gone = str(tmp_path / "nowhere")
    entry = [name, gone if what == "truth" else truth, gone if what == "images" else folder]
    command += ["DATASETS.TRACE.INSTANCES", str([entry])]
    command += ["DATASETS.TRAIN", str((name,)), "DATASETS.TEST", str((name,))]
    if what == "weights":
        command += ["MODEL.WEIGHTS", gone + ".pth"]
    assert train_net.main(command) == 2
    out, err = capsys.readouterr()
    assert "nowhere" in err
    assert "Traceback" not in out + err
