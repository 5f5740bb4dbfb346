"""The OUTPUT_DIR of trainings: what the same and another command find there."""

from __future__ import annotations

import json

import pytest

from trace_d2.config import ConfigError
from trace_d2.engine.run_folder import FINISHED, GO_ON, NEW, how_to_start, move_aside, note


@pytest.fixture
def cfg(tmp_path, make_cfg):
    made = make_cfg()
    made.OUTPUT_DIR = str(tmp_path / "output")
    return made


@pytest.fixture
def begun(cfg, tmp_path):
    """The folder of a training with a checkpoint."""
    folder = tmp_path / "output"
    folder.mkdir()
    note(cfg, finished=False)
    (folder / "model_0000009.pth").write_bytes(b"x")
    (folder / "last_checkpoint").write_text("model_0000009.pth")
    return folder


@pytest.fixture
def start(make_cfg):
    return lambda cfg, resume=False: how_to_start(cfg, make_cfg, resume=resume)


def test_a_folder_without_a_checkpoint_is_free(cfg, start, tmp_path):
    assert start(cfg) == NEW
    (tmp_path / "output").mkdir()
    note(cfg, finished=False)  # a training that ended before its first checkpoint
    cfg.SOLVER.BASE_LR = 7.0
    assert start(cfg) == NEW
    assert start(cfg, resume=True) == NEW


def test_the_same_settings_go_on(cfg, start, begun):
    assert start(cfg) == GO_ON
    assert start(cfg, resume=True) == GO_ON


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.DEVICE", "cpu"),
        ("MODEL.TRACE.DEVICE", "cpu"),
        ("DATALOADER.NUM_WORKERS", 0),
        ("SOLVER.CHECKPOINT_PERIOD", 3),
        ("TEST.EVAL_PERIOD", 3),
        ("MODEL.TRACE.SOLVER.SAMPLES_PERIOD", 3),
    ],
)
def test_keys_that_decide_nothing_may_change(cfg, start, begun, key, value):
    cfg.merge_from_list([key, value])
    assert start(cfg) == GO_ON


def test_other_settings_are_refused_by_name(cfg, start, begun):
    cfg.SOLVER.BASE_LR, cfg.MODEL.TRACE.SEED = 7.0, 3
    cfg.DATASETS.TRAIN = ("other",)
    with pytest.raises(ConfigError) as caught:
        start(cfg)
    message = str(caught.value)
    assert "DATASETS.TRAIN: [] there, ['other'] now" in message
    assert "MODEL.TRACE.SEED: 0 there, 3 now" in message
    assert "SOLVER.BASE_LR: 0.001 there, 7.0 now" in message
    assert "--resume" in message
    assert "--fresh" in message
    assert start(cfg, resume=True) == GO_ON


def test_a_finished_training_is_finished(cfg, start, begun):
    note(cfg, finished=True)
    assert start(cfg) == FINISHED
    assert start(cfg, resume=True) == FINISHED
    cfg.SOLVER.MAX_ITER += 1
    assert start(cfg, resume=True) == GO_ON
    with pytest.raises(ConfigError, match=r"SOLVER\.MAX_ITER: 40000 there, 40001 now"):
        start(cfg)


def test_trainings_from_before_the_note_are_known_by_their_config(cfg, start, begun):
    (begun / "training.json").unlink()
    with pytest.raises(ConfigError, match=r"whose settings nothing tells"):
        start(cfg)
    assert start(cfg, resume=True) == GO_ON
    (begun / "config.yaml").write_text(cfg.dump())
    assert start(cfg) == GO_ON
    cfg.SOLVER.GAMMA = 0.5
    with pytest.raises(ConfigError, match=r"SOLVER\.GAMMA: 0\.1 there, 0\.5 now"):
        start(cfg)


def test_a_key_that_came_since_counts_by_its_default(cfg, start, begun):
    path = begun / "training.json"
    content = json.loads(path.read_text())
    del content["settings"]["MODEL.TRACE.SEED"]
    content["settings"]["MODEL.TRACE.GONE"] = 1
    path.write_text(json.dumps(content))
    assert start(cfg) == GO_ON
    cfg.MODEL.TRACE.SEED = 1
    with pytest.raises(ConfigError, match=r"TRACE\.SEED: 0 there, 1 now"):
        start(cfg)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 3}'])
def test_a_damaged_note_is_named(cfg, start, begun, text):
    (begun / "training.json").write_text(text)
    with pytest.raises(ValueError, match=r"training\.json"):
        start(cfg)


def test_checkpoints_without_a_last_one_are_not_written_over(cfg, start, begun):
    (begun / "last_checkpoint").unlink()
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"holds model_0000009\.pth of a former training.*no"):
            start(cfg, resume)


def test_starting_over_moves_what_is_the_training_s(cfg, begun, start):
    for name in ("samples", "student", "inference", "label_cache", "mine"):
        (begun / name).mkdir()
        (begun / name / "a").write_text(name)
    (begun / "notes.txt").write_text("mine")
    (begun / "log.txt").write_text("log")
    before = {path.name for path in begun.iterdir()}

    assert move_aside(cfg) == begun / "before-1"

    left = {path.name for path in begun.iterdir()}
    assert left == {"label_cache", "mine", "notes.txt", "before-1"}
    assert {path.name for path in (begun / "before-1").iterdir()} == before - left
    assert (begun / "before-1" / "student" / "a").read_text() == "student"
    assert start(cfg) == NEW
    assert move_aside(cfg) is None
    (begun / "last_checkpoint").write_text("model_0000001.pth")
    assert move_aside(cfg) == begun / "before-2"


def test_what_the_new_training_starts_from_is_not_moved(cfg, begun):
    (begun / "student").mkdir()
    for key, name in (
        ("MODEL.WEIGHTS", "model_0000009.pth"),
        ("MODEL.TRACE.STUDENT.WEIGHTS", "student"),
    ):
        changed = cfg.clone()
        changed.merge_from_list([key, str(begun / name)])
        with pytest.raises(ConfigError, match=rf"{key} is .*copy it elsewhere"):
            move_aside(changed)
    assert (begun / "last_checkpoint").is_file()
