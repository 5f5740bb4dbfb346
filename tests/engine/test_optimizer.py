from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from trace_d2.config import add_trace_config
from trace_d2.engine.optimizer import build_optimizer


class Model(nn.Module):
    """A backbone with a frozen layer and a table of positions, and a head with an embedding."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.conv = nn.Conv2d(3, 4, 1)
        self.backbone.norm = nn.BatchNorm2d(4)
        self.backbone.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.backbone.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.backbone_like = nn.Linear(4, 4)
        self.queries = nn.Embedding(5, 4)
        self.norms = nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4))


def config(**changes):
    cfg = get_cfg()
    add_trace_config(cfg)
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.WEIGHT_DECAY = 0.05
    cfg.MODEL.TRACE.SOLVER.OPTIMIZER = "adamw"
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def test_adamw_rates_and_decays():
    model = Model()
    cfg = config(MODEL__TRACE__SOLVER__WEIGHT_DECAY_EMBED=0.02, SOLVER__WEIGHT_DECAY_NORM=0.01)
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is torch.optim.AdamW
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    expected = {
        "backbone.conv.weight": (0.001, 0.05),
        "backbone.conv.bias": (0.001, 0.05),
        "backbone.norm.weight": (0.001, 0.01),
        "backbone.norm.bias": (0.001, 0.01),
        "backbone.relative_position_bias_table": (0.001, 0.02),
        "backbone_like.weight": (0.01, 0.05),
        "backbone_like.bias": (0.01, 0.05),
        "queries.weight": (0.01, 0.02),
        "norms.0.weight": (0.01, 0.01),
        "norms.0.bias": (0.01, 0.01),
        "norms.1.weight": (0.01, 0.01),
        "norms.1.bias": (0.01, 0.01),
    }
    named = dict(model.named_parameters())
    assert len(found) == len(expected)
    for name, pair in expected.items():
        assert found[named[name]] == pytest.approx(pair), name


def test_a_shared_parameter_is_in_one_group():
    model = Model()
    model.tied = nn.Linear(4, 4)
    model.tied.weight = model.backbone_like.weight
    parameters = [p for g in build_optimizer(config(), model).param_groups for p in g["params"]]
    assert len(parameters) == len(set(parameters)) == 13


def step_of(cfg):
    """How far plain SGD moves each of two weights whose gradient is (3, 4)."""
    model = nn.Linear(2, 1, bias=False)
    cfg.SOLVER.MOMENTUM = 0.0
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    optimizer = build_optimizer(cfg, model)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    optimizer.step()
    return ((before - model.weight.detach()) / cfg.SOLVER.BASE_LR)[0].tolist()


def sgd(**changes):
    return config(MODEL__TRACE__SOLVER__OPTIMIZER="sgd", **changes)


FULL_MODEL = {
    "SOLVER__CLIP_GRADIENTS__ENABLED": True,
    "SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "full_model",
    "SOLVER__CLIP_GRADIENTS__CLIP_VALUE": 1.0,
}


def test_the_whole_gradient_is_clipped():
    assert step_of(sgd()) == pytest.approx([3, 4], rel=1e-4)
    assert step_of(sgd(MODEL__TRACE__SOLVER__CLIP_NORM=1.0)) == pytest.approx([0.6, 0.8], rel=1e-4)
    assert step_of(sgd(MODEL__TRACE__SOLVER__CLIP_NORM=9.0)) == pytest.approx([3, 4], rel=1e-4)
    assert step_of(sgd(**FULL_MODEL)) == pytest.approx([0.6, 0.8], rel=1e-4)
    by_value = FULL_MODEL | {"SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "value"}
    assert step_of(sgd(**by_value)) == pytest.approx([1, 1], rel=1e-4)


def test_clipping_spans_all_groups():
    model = Model()
    optimizer = build_optimizer(config(MODEL__TRACE__SOLVER__CLIP_NORM=0.5), model)
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert sum(p.grad.square().sum() for p in trained).sqrt().item() == pytest.approx(0.5, rel=1e-4)


def test_clipping_follows_the_unscaling_of_mixed_precision():
    model = nn.Linear(2, 1, bias=False)
    cfg = sgd(MODEL__TRACE__SOLVER__CLIP_NORM=1.0)
    optimizer = build_optimizer(cfg, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((model.weight * torch.tensor([[3.0, 4.0]])).sum()).backward()
    scaler.step(optimizer)
    assert model.weight.grad[0].tolist() == pytest.approx([0.6, 0.8], rel=1e-4)


def test_keys_of_the_official_mask2former():
    cfg = config(SOLVER__BASE_LR=0.01, **FULL_MODEL)
    cfg.MODEL.TRACE.SOLVER.OPTIMIZER = "sgd"
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.5
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    optimizer = build_optimizer(cfg, Model())
    assert type(optimizer) is torch.optim.AdamW
    assert {group["lr"] for group in optimizer.param_groups} == {0.01, 0.005}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL__TRACE__SOLVER__OPTIMIZER": "lion"}, r"TRACE\.SOLVER\.OPTIMIZER is lion"),
        ({"MODEL__TRACE__SOLVER__BACKBONE_MULTIPLIER": -1.0}, r"BACKBONE_MULTIPLIER is -1"),
        ({"MODEL__TRACE__SOLVER__CLIP_NORM": -1.0}, r"SOLVER\.CLIP_NORM is -1"),
        (FULL_MODEL | {"MODEL__TRACE__SOLVER__CLIP_NORM": 0.1}, r"CLIP_NORM .* use one of them"),
        (FULL_MODEL | {"SOLVER__CLIP_GRADIENTS__NORM_TYPE": 1.0}, r"NORM_TYPE 1\.0"),
    ],
)
def test_contradictions_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(config(**changes), Model())
