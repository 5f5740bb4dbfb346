"""Checkpoints: torchvision's ResNets load exactly, and those of other models are refused."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn
from torchvision.models import resnet18, resnet50

from trace_d2.engine.checkpointer import TraceCheckpointer, UnfitCheckpointError


def build_model(depth: int) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth == 18 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.RESNETS.NORM = "BN"
    model = nn.Module()
    model.backbone = build_backbone(cfg)
    return model.eval()


@pytest.mark.parametrize(("depth", "build"), [(18, resnet18), (50, resnet50)])
def test_torchvision_weights_give_torchvision_features(tmp_path, depth, build):
    torch.manual_seed(0)
    theirs = build(weights=None).eval()
    for buffer in theirs.buffers():  # statistics that matter
        if buffer.dtype.is_floating_point:
            buffer.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    ours = build_model(depth)

    TraceCheckpointer(ours).load(str(tmp_path / "resnet.pth"))

    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.children())[:-2])(image)
        torch.testing.assert_close(ours.backbone(image)["res5"], expected)


def test_a_checkpoint_of_another_backbone_is_refused(tmp_path):
    torch.save({"model": build_model(18).state_dict()}, tmp_path / "r18.pth")

    with pytest.raises(UnfitCheckpointError, match=r"r18\.pth fits .*MODEL\.WEIGHTS"):
        TraceCheckpointer(build_model(50)).load(str(tmp_path / "r18.pth"))


def test_a_checkpoint_without_heads_is_welcome(tmp_path):
    source = build_model(18)
    torch.save({"model": source.state_dict()}, tmp_path / "r18.pth")
    model = build_model(18)
    model.head = nn.Linear(100, 100)

    TraceCheckpointer(model).load(str(tmp_path / "r18.pth"))

    name = "backbone.res4.0.conv1.weight"
    assert torch.equal(model.state_dict()[name], source.state_dict()[name])


def test_evaluation_wants_the_heads_as_well(tmp_path):
    torch.save({"model": build_model(18).state_dict()}, tmp_path / "r18.pth")
    model = build_model(18)
    model.head = nn.Linear(100, 100)

    with pytest.raises(UnfitCheckpointError, match=r"0 of the 2 tensors of the heads"):
        TraceCheckpointer(model, whole=True).load(str(tmp_path / "r18.pth"))
