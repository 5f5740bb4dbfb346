"""Configs that cannot work are refused before training."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

from detectron2.config import get_cfg

from trace_d2.config import add_trace_config
from trace_d2.data.registration import register_class_agnostic
from trace_d2.engine.checks import check_config

pytestmark = pytest.mark.detectron2


@pytest.fixture
def cfg(tmp_path):
    register_class_agnostic("checks_agnostic", "/nowhere/checks.json", "/nowhere/images")
    cfg = get_cfg()
    add_trace_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.DATASETS.TRAIN = ("checks_agnostic",)
    cfg.DATASETS.TEST = ("checks_agnostic",)
    return cfg


def test_a_good_config_passes(cfg):
    check_config(cfg, train=True)
    check_config(cfg, train=False)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("SOLVER.AMP.ENABLED", True, ValueError, r"SOLVER\.AMP\.ENABLED needs CUDA"),
        ("MODEL.WEIGHTS", "absent.pth", FileNotFoundError, r"MODEL\.WEIGHTS: no file at .*absent"),
        ("DATASETS.TRAIN", (), ValueError, r"DATASETS\.TRAIN is empty"),
        ("DATASETS.TEST", ("nobody",), ValueError, r"no data set 'nobody'"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 80, ValueError, r"NUM_CLASSES is 80, but .* has 1"),
        ("INPUT.TRACE.MAPPER", "none", ValueError, r"INPUT\.TRACE\.MAPPER"),
    ],
)
def test_mistakes_are_named(cfg, key, value, error, message):
    cfg.merge_from_list([key, value])

    with pytest.raises(error, match=message):
        check_config(cfg, train=True)


def test_cuda_without_a_device_says_what_to_add(cfg, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cfg.MODEL.DEVICE = "cuda"

    with pytest.raises(ValueError, match=r"MODEL\.DEVICE cpu"):
        check_config(cfg, train=False)
