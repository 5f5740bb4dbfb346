"""Attention blocks that do not exist are named before the first image."""

from __future__ import annotations

import pytest

from trace_d2.attention import AttentionSettings
from trace_d2.backbones import AttentionBackbone, build_backbone
from trace_d2.backbones.blocks import check_blocks
from trace_d2.config import get_trace_cfg
from trace_d2.edges import EdgeDetector, EdgeStudent


@pytest.fixture(scope="module")
def tiny():
    cfg = get_trace_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.TRACE.BACKBONE.NAME = "cpu", "trace-tiny"
    return cfg


@pytest.fixture(scope="module")
def backbone(tiny) -> AttentionBackbone:
    return build_backbone(tiny)


def test_those_that_exist_pass_and_the_others_are_named(backbone):
    config = backbone.network.config
    count = config.num_layers + config.num_single_layers
    check_blocks(backbone, range(count), "KEY")
    check_blocks(backbone, (), "KEY")
    message = rf"^KEY names blocks that do not exist: \[{count}, 99\]\. .* 0 to {count - 1}$"
    with pytest.raises(ValueError, match=message):
        check_blocks(backbone, (99, 0, count), "KEY")


def test_teacher_and_student_are_refused_when_they_are_built(tiny, backbone):
    cfg = tiny.clone()
    cfg.MODEL.TRACE.ATTENTION.BLOCKS = cfg.MODEL.TRACE.STUDENT.BLOCKS = [99]
    with pytest.raises(ValueError, match=r"MODEL\.TRACE\.ATTENTION\.BLOCKS names blocks"):
        EdgeDetector.from_config(cfg, backbone)
    with pytest.raises(ValueError, match=r"MODEL\.TRACE\.STUDENT\.BLOCKS names blocks"):
        EdgeStudent.from_config(cfg, backbone)


def test_they_are_counted_from_0():
    with pytest.raises(ValueError, match=r"ATTENTION\.BLOCKS must be 0 or more, not -1"):
        AttentionSettings(blocks=(-1,))
