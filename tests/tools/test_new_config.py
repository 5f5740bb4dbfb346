"""tools/new_config.py: what it writes trains as it is, from wherever it is put."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2")

pytestmark = pytest.mark.detectron2

# A training of a moment: nothing but its length, and the part of the machine it takes.
SHORT = [
    *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"),
    *("MODEL.TRACE.SOLVER.SAMPLES_PERIOD", "0"),
]


@pytest.fixture(scope="module")
def own_data(tmp_path_factory, load_tool) -> Path:
    """Still lifes, labels made of their masks, and refined masks; classes are a text."""
    from trace_d2.scenes.dataset import SceneSettings, write_scenes

    root = tmp_path_factory.mktemp("own_data")
    write_scenes(root / "fruits", 3, SceneSettings(0, (48, 64), style="still-life"), progress=False)
    common = ["--images", f"{root}/fruits/images", "--no-edges", "--quiet", "--workers", "1"]
    command = ["--semantic", f"{root}/fruits/semantic", "--output", f"{root}/labels"]
    command += ["--categories", f"{root}/fruits/classes.txt", *common]
    assert load_tool("make_pseudo_panoptic").main(command) == 0
    command = ["--masks", f"{root}/fruits/instances.json", "--output", f"{root}/refined.json"]
    assert load_tool("refine_masks").main([*command, *common]) == 0
    return root


@pytest.fixture
def new_config(load_tool, capsys):
    """``new_config(*arguments)``: its exit status, what it printed, and errors; random weights."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = load_tool("new_config").main([*map(str, arguments), "--weights", "none"])
        return status, *capsys.readouterr()

    return run


def train(load_tool, config: Path, output: Path) -> dict:
    """What a short training by ``config`` evaluates."""
    command = ["--config-file", str(config), *SHORT, "OUTPUT_DIR", str(output)]
    assert load_tool("train_net").main(command) == 0
    assert (output / "model_final.pth").is_file()
    results = output / "results.json"
    return json.loads(results.read_text()) if results.is_file() else {}


def load(config: Path):
    from trace_d2.engine.configs import load_cfg

    return load_cfg(str(config), [])


def test_panoptic_labels_train_a_mask2former_from_wherever_the_file_is(
    own_data, new_config, load_tool, tmp_path, monkeypatch
):
    written = tmp_path / "own fruits.yaml"
    truth = own_data / "fruits"
    status, out, _ = new_config(own_data / "labels", "--output", written, "--val", truth)
    assert status == 0
    assert "categories: things 1 apple, 2 orange, 3 lemon; stuff 0 background" in out
    assert "3 images of about 64 x 48" in out
    train_command, predict_command = (shlex.split(line) for line in out.splitlines()[-2:])
    assert train_command == ["python", "tools/train_net.py", "--config-file", str(written)]
    assert predict_command[:2] == ["python", "tools/predict.py"]
    assert str(truth / "images") in predict_command

    moved = tmp_path / "elsewhere" / "fruits_moved.yaml"
    moved.parent.mkdir()
    written.rename(moved)
    monkeypatch.chdir(moved.parent)
    cfg = load(moved)
    assert cfg.MODEL.META_ARCHITECTURE == "TraceMask2Former"
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 4
    assert cfg.INPUT.TRACE.IMAGE_SIZE == 128
    assert cfg.INPUT.MIN_SIZE_TEST == 96
    assert cfg.SOLVER.MAX_ITER == 600
    assert cfg.OUTPUT_DIR == "output/own_fruits"
    assert cfg.TEST.EVAL_PERIOD == 150
    results = train(load_tool, moved, tmp_path / "out")
    assert 0 <= results["panoptic_seg"]["PQ"] <= 100


def test_panoptic_labels_train_a_mask_rcnn_with_its_classes(
    own_data, new_config, load_tool, tmp_path
):
    config = tmp_path / "boxes.yaml"
    arguments = ["--model", "mask_rcnn", "--output", config, "--val", own_data / "fruits"]
    assert new_config(own_data / "labels", *arguments)[0] == 0
    cfg = load(config)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4
    assert not cfg.MODEL.TRACE.ROI_HEADS.DROP_LOSS
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES[0] == [11]
    results = train(load_tool, config, tmp_path / "out")
    assert {"AP", "AP-apple", "AP-lemon"} <= set(results["segm"])


@pytest.mark.parametrize("model", ["mask_rcnn", "mask2former"])
def test_refined_masks_train_a_model_of_one_class(model, own_data, new_config, load_tool, tmp_path):
    config = tmp_path / f"refined_{model}.yaml"
    truth = [
        "--val",
        own_data / "fruits/instances.json",
        "--val-images",
        own_data / "fruits/images",
    ]
    command = [own_data / "refined.json", "--output", config, "--model", model, *truth]
    assert new_config(*command)[0] == 0
    assert load(config).DATASETS.TRACE.INSTANCES[0][2] == str(own_data / "fruits/images")
    results = train(load_tool, config, tmp_path / "out")
    assert "AR_100" in results["segm"]


def test_truth_of_boxes_alone_evaluates_and_names_that_are_lost_are_told(
    own_data, new_config, load_tool, tmp_path
):
    content = json.loads((own_data / "fruits/instances.json").read_text())
    content["categories"] = [{"id": 1, "name": "Red Box"}]
    for row in content["annotations"]:
        row["category_id"] = 1
    named, boxes, config = (tmp_path / name for name in ("named.json", "boxes.json", "x.yaml"))
    named.write_text(json.dumps(content))
    for row in content["annotations"]:
        del row["segmentation"]
    boxes.write_text(json.dumps(content))
    images = ["--images", own_data / "fruits/images", "--val-images", own_data / "fruits/images"]
    status, out, _ = new_config(named, *images, "--val", boxes, "--output", config)
    assert status == 0
    assert "note: one class is learned of instances, called object: all of Red Box" in out
    assert "NUM_CLASSES: 1  # object, as is all of Red Box" in config.read_text()
    assert list(train(load_tool, config, tmp_path / "out")) == ["bbox"]
    status, _, err = new_config(boxes, *images, "--output", tmp_path / "y.yaml")
    assert status == 2
    assert "boxes.json has no annotation that can be used" in err


@pytest.mark.parametrize(
    ("labels", "model", "gpus", "expected"),
    [
        ("labels", "mask2former", 1, ("Base-Mask2Former-R50.yaml", 16, 0.0001)),
        ("labels", "mask_rcnn", 8, ("Base-RCNN-R50-FPN.yaml", 16, 0.01)),
        ("refined.json", "mask_rcnn", 3, ("Base-RCNN-R50-FPN.yaml", 15, 0.01)),
    ],
)
def test_gpus_get_the_published_recipe(
    labels, model, gpus, expected, own_data, new_config, tmp_path
):
    config = tmp_path / "gpus.yaml"
    status, out, _ = new_config(
        own_data / labels, "--model", model, "--gpus", gpus, "--output", config
    )
    assert status == 0
    assert (f"--num-gpus {gpus}" in out) == (gpus > 1)
    cfg = load(config)
    base, images, rate = expected
    assert base in config.read_text()
    assert images == cfg.SOLVER.IMS_PER_BATCH
    assert cfg.SOLVER.BASE_LR * 16 / images == pytest.approx(rate)
    assert cfg.SOLVER.MAX_ITER == 2000
    assert cfg.SOLVER.STEPS == (1778, 1926)
    assert cfg.MODEL.DEVICE == "cuda"


def test_weights_of_torchvision_are_started_from(own_data, load_tool, tmp_path, caplog):
    import torchvision

    weights = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    config = tmp_path / "pretrained.yaml"
    command = [str(own_data / "labels"), "--output", str(config), "--weights", str(weights)]
    assert load_tool("new_config").main(command) == 0
    cfg = load(config)
    assert cfg.MODEL.RESNETS.NORM == "FrozenBN"
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    train(load_tool, config, tmp_path / "out")


def test_weights_that_cannot_be_had_are_told(own_data, load_tool, tmp_path, capsys, monkeypatch):
    tool = load_tool("new_config")
    monkeypatch.setattr(tool, "why_out_of_reach", lambda address: "no network")
    config = tmp_path / "offline.yaml"
    assert tool.main([str(own_data / "labels"), "--output", str(config), "--gpus", "1"]) == 0
    assert "ImageNet's are out of reach (no network)" in capsys.readouterr().out
    cfg = load(config)
    assert cfg.MODEL.WEIGHTS == ""
    assert cfg.MODEL.RESNETS.NORM == "SyncBN"
    monkeypatch.setattr(tool, "why_out_of_reach", lambda address: "")
    command = [str(own_data / "labels"), "--output", str(config), "--overwrite"]
    assert tool.main([*command, "--gpus", "1"]) == 0
    assert load(config).MODEL.WEIGHTS == "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
    assert tool.main([*command, "--gpus", "0"]) == 0
    assert load(config).MODEL.WEIGHTS.endswith("resnet18-f37072fd.pth")


def test_what_is_wrong_is_said(own_data, new_config, load_tool, tmp_path, capsys):
    config = tmp_path / "x.yaml"
    labels, fruits = own_data / "labels", own_data / "fruits"
    for arguments, message in [
        ([tmp_path / "nothing"], "no labels at"),
        ([tmp_path], "no panoptic.json in"),
        ([fruits / "instances.json"], "does not say where its images are: give --images DIR"),
        ([labels, "--images", tmp_path], "no image scene_000000.png in"),
        ([labels, "--val", tmp_path / "x"], "no labels at"),
        ([labels, "--gpus", "-1"], "--gpus is -1"),
        ([labels, "--val", own_data / "refined.json"], "have other categories"),
        ([labels, "--output", tmp_path / "a/b.yaml"], "no folder"),
    ]:
        status, _, err = new_config(
            *arguments, *([] if "--output" in arguments else ["--output", config])
        )
        assert (status, err.startswith("error: ")) == (2, True), arguments
        assert message in err
        assert not config.exists()
    assert new_config(labels, "--output", config)[0] == 0
    status, _, err = new_config(labels, "--output", config)
    assert status == 2
    assert "is there already" in err
    command = [str(labels), "--output", str(config), "--weights", "nowhere.pth", "--overwrite"]
    assert load_tool("new_config").main(command) == 2
    assert "no weights at nowhere.pth" in capsys.readouterr().err


def test_all_that_is_wrong_is_said_at_once(own_data, load_tool, tmp_path, capsys):
    command = [str(own_data / "labels"), "--output", str(tmp_path / "a/b.yaml"), "--gpus", "-2"]
    command += ["--weights", "nowhere.pth", "--val", str(tmp_path / "none")]
    assert load_tool("new_config").main(command) == 2
    said = capsys.readouterr().err
    for part in (
        "several things are wrong",
        "no folder",
        "nowhere.pth",
        "--gpus is -2",
        "no labels",
    ):
        assert part in said


def test_a_config_that_cannot_be_written_names_the_option(own_data, new_config, tmp_path):
    config = tmp_path / f"{'x' * 300}.yaml"
    status, _, err = new_config(own_data / "refined.json", "--output", config)
    assert status == 2
    assert f"cannot write {config} (File name too long): choose another --output" in err


def test_labels_of_before_with_two_categories_of_one_name(own_data, new_config, tmp_path):
    import shutil

    labels = tmp_path / "labels"
    shutil.copytree(own_data / "labels", labels)
    settings = labels / "settings.json"
    settings.write_text(settings.read_text().replace("orange", "apple"))
    status, _, err = new_config(labels, "--output", tmp_path / "twins.yaml")
    assert status == 2
    assert "categories 1 and 2 are both called 'apple': rename one" in err


def test_labels_that_are_not_finished_are_refused(own_data, new_config, tmp_path):
    import shutil

    labels = tmp_path / "half"
    shutil.copytree(own_data / "labels", labels)
    journal = labels / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    status, _, err = new_config(labels, "--output", tmp_path / "half.yaml")
    assert status == 2
    assert "lacks the labels of 1 of 3 images" in err


def test_classes_that_no_label_shows_are_told(own_data, new_config, load_tool, tmp_path):
    text = tmp_path / "classes.txt"
    text.write_text((own_data / "fruits/classes.txt").read_text() + "pear\n")
    command = ["--semantic", f"{own_data}/fruits/semantic", "--output", f"{tmp_path}/labels"]
    command += ["--images", f"{own_data}/fruits/images", "--no-edges", "--quiet"]
    command += ["--categories", str(text), "--workers", "1"]
    assert load_tool("make_pseudo_panoptic").main(command) == 0
    _, out, _ = new_config(tmp_path / "labels", "--output", tmp_path / "pear.yaml")
    assert "no label shows pear" in out
