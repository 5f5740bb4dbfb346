"""The switch in ``build_model``, on a tiny random Mask R-CNN."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

import detectron2.modeling
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, build_model
from detectron2.modeling.meta_arch import build
from fvcore.common.config import CfgNode

import trace_d2
from trace_d2.io.edge_maps import write_edges
from trace_d2.modeling.postprocessor import has_postprocessor
from trace_d2.plugin import PostProcessedRegistry, register

pytestmark = pytest.mark.detectron2


def tiny_mask_rcnn(with_trace: bool = True):
    cfg = get_cfg()
    if with_trace:
        trace_d2.add_trace_config(cfg)
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    cfg.merge_from_file(model_zoo.get_config_file(name))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 16
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    return cfg


RECORD = {
    "image": torch.randint(0, 256, (3, 64, 80), generator=torch.Generator().manual_seed(0)),
    "file_name": "dog.jpg",
    "height": 32,
    "width": 40,
}


def predict(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        return model, model([RECORD])[0]["instances"]


def same(one, other) -> bool:
    if one.get_fields().keys() != other.get_fields().keys():
        return False
    boxes = torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    names = ("scores", "pred_classes", "pred_masks")
    return boxes and all(torch.equal(one.get(name), other.get(name)) for name in names)


def test_off_is_the_model_as_it_was(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(build, "META_ARCH_REGISTRY", META_ARCH_REGISTRY)
        _, before = predict(tiny_mask_rcnn(with_trace=False))
    assert len(before) == 5
    for cfg in (tiny_mask_rcnn(with_trace=False), tiny_mask_rcnn()):
        model, found = predict(cfg)
        assert type(model) is GeneralizedRCNN
        assert not model._forward_hooks
        assert same(found, before)


def test_on_cuts_the_masks_of_any_architecture(tmp_path):
    cfg = tiny_mask_rcnn()
    _, before = predict(cfg)
    edges = np.zeros((32, 40), np.float32)
    edges[::5] = edges[:, ::7] = 1
    write_edges(tmp_path / "dog.png", edges)
    cfg.MODEL.TRACE.POSTPROCESSOR.ENABLED = True
    cfg.MODEL.TRACE.EDGES.SOURCE = "files"
    cfg.MODEL.TRACE.EDGES.DIR = str(tmp_path)
    cfg.MODEL.TRACE.BGP.MIN_AREA = 16  # pieces here are of some 30 pixels
    model, found = predict(cfg)
    assert type(model) is GeneralizedRCNN
    assert has_postprocessor(model)
    assert found.image_size == (32, 40)
    # Random heads predict much the same mask twice, so that pieces may also merge.
    assert len(found) > len(before)
    for category in before.pred_classes.unique():
        whole = before.pred_masks[before.pred_classes == category].any(0)
        assert torch.equal(found.pred_masks[found.pred_classes == category].any(0), whole)


def test_registering_twice_changes_nothing_and_others_keep_their_registry():
    first = build.META_ARCH_REGISTRY
    register()
    assert build.META_ARCH_REGISTRY is first
    assert isinstance(first, PostProcessedRegistry)
    assert detectron2.modeling.META_ARCH_REGISTRY is META_ARCH_REGISTRY is not first
    assert META_ARCH_REGISTRY.get("GeneralizedRCNN") is GeneralizedRCNN
    assert "TraceEdgePredictor" in META_ARCH_REGISTRY
    with pytest.raises(KeyError, match="NoSuchModel"):
        first.get("NoSuchModel")


def test_architectures_registered_later_are_known():
    class LateModel(torch.nn.Module):
        def __init__(self, cfg) -> None:
            super().__init__()

    META_ARCH_REGISTRY.register(LateModel)
    cfg = tiny_mask_rcnn()
    cfg.MODEL.META_ARCHITECTURE = "LateModel"
    assert type(build_model(cfg)) is LateModel


def test_a_config_of_detectron2_registers_and_others_do_not(monkeypatch):
    calls = []
    monkeypatch.setattr("trace_d2.plugin.register", lambda: calls.append(1))
    trace_d2.add_trace_config(CfgNode())
    assert calls == []
    trace_d2.add_trace_config(get_cfg())
    assert calls == [1]


def test_trace_files_merge_into_a_config_of_detectron2(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("VERSION: 2\nMODEL:\n  TRACE:\n    BACKBONE:\n      NAME: trace-tiny\n")
    cfg = get_cfg()
    trace_d2.add_trace_config(cfg)
    cfg.merge_from_file(str(path))
    assert cfg.MODEL.TRACE.BACKBONE.NAME == "trace-tiny"
    assert cfg.clone() == cfg


def test_importing_the_package_after_detectron2_registers():
    check = "from detectron2.modeling import META_ARCH_REGISTRY as r"
    lines = f"import detectron2, trace_d2; {check}; assert 'TraceEdgePredictor' in r"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
