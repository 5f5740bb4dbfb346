"""A trained model stands alone: its classes are in its config and checkpoints, not in its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor

import trace_d2
from trace_d2.io.atomic import write_json
from trace_d2.io.categories import load_categories, parse_categories
from trace_d2.io.json_files import read_json

MASK2FORMER = Path(__file__).parents[2] / "configs" / "panoptic" / "coco_mask2former_R50.yaml"
NAME = "small_panoptic"
CATEGORIES = "MODEL.TRACE.CATEGORIES"


def forget() -> None:
    """As if the data set had never been registered in this process."""
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
    MetadataCatalog.pop(NAME, None)


@pytest.fixture(scope="module")
def command(small_options, tmp_path_factory):
    """The command line of a training, which was run."""
    output = tmp_path_factory.mktemp("trained")
    options = small_options(MASK2FORMER, output)
    options += ["MODEL.TRACE.SOLVER.EMA_DECAY", "0.5", "SOLVER.MAX_ITER", "1"]
    import train_net

    made = ["--config-file", str(MASK2FORMER), *options]
    assert train_net.main(made) == 0
    yield made
    forget()


@pytest.fixture
def output(command) -> Path:
    """The folder of the training."""
    return Path(command[command.index("OUTPUT_DIR") + 1])


@pytest.fixture
def truth(small_scenes):
    """The categories of the data."""
    return load_categories(small_scenes / "categories.json")


def cfg_of(output: Path):
    cfg = get_cfg()
    trace_d2.add_trace_config(cfg)
    cfg.merge_from_file(str(output / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(output / "model_final.pth")
    return cfg


@pytest.mark.parametrize("name", ["model_final", "model_averaged"])
def test_checkpoints_tell_the_categories(output, truth, name):
    content = torch.load(output / f"{name}.pth", weights_only=True)
    assert parse_categories(content["trace_categories"], name) == truth


def test_default_predictor_needs_no_label(output, truth, small_scenes):
    forget()
    predictor = DefaultPredictor(cfg_of(output))
    assert predictor.model.thing_ids == {n for n, c in enumerate(truth) if c.isthing}
    assert predictor.metadata.thing_classes == [c.name for c in truth]
    assert [tuple(color) for color in predictor.metadata.stuff_colors] == [c.color for c in truth]
    ids, segments = predictor(np.zeros((48, 64, 3), np.uint8))["panoptic_seg"]
    assert ids.shape == (48, 64)
    assert all(segment["isthing"] == truth[segment["category_id"]].isthing for segment in segments)


def test_classes_have_names_where_nothing_is_tested_on(output, truth):
    forget()
    cfg = cfg_of(output)
    cfg.DATASETS.TEST = ()
    DefaultPredictor(cfg)
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    assert names == [category.name for category in truth]


def test_they_travel_through_evaluation(command, output, truth, tmp_path, capsys):
    import train_net

    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth"), "OUTPUT_DIR", str(tmp_path)]
    assert train_net.main(["--eval-only", *command, *weights]) == 0
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    told = written["MODEL"]["TRACE"]["CATEGORIES"]
    assert parse_categories(told, "config.yaml") == truth

    told[0]["name"] = "another"
    assert train_net.main(["--eval-only", *command, *weights, CATEGORIES, str(told)]) == 2
    message = capsys.readouterr().err
    assert "the config (MODEL.TRACE.CATEGORIES) has 6 categories" in message
    assert f"number 0 is another (id {truth[0].id}" in message
    assert f"{output / 'model_final.pth'} has 6" in message


def test_a_training_that_is_told_others_than_its_data_is_refused(command, truth, capsys):
    import train_net

    told = [{"id": c.id, "name": c.name.upper(), "isthing": int(c.isthing)} for c in truth]
    assert train_net.main([*command, CATEGORIES, str(told)]) == 2
    assert f"the data set {NAME} of DATASETS.TRAIN has 6" in capsys.readouterr().err


def test_trainings_from_before_go_on(command, output, capsys):
    import train_net

    note = read_json(output / "training.json")
    del note["settings"][CATEGORIES]
    write_json(output / "training.json", note)
    assert train_net.main(command) == 0
    assert "this training is finished" in capsys.readouterr().out
