from __future__ import annotations

import sys
import types
import uuid

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances, PolygonMasks

from trace_d2.modeling import add_official_mask2former_config
from trace_d2.modeling.mask2former.official import adopt_official_input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5}, r"NUM_CLASSES is 5, but .* has 6 classes"),
        ({"HIDDEN_DIM": 48}, r"MASK2FORMER\.HIDDEN_DIM is 48"),
        ({"NHEADS": 5}, r"MASK2FORMER\.NHEADS, which is 5"),
        ({"DEC_LAYERS": 1}, r"MASK2FORMER\.DEC_LAYERS must be 2 or more, not 1"),
        ({"TRAIN_NUM_POINTS": 0}, r"TRAIN_NUM_POINTS must be 1 or more"),
        (
            {"IMPORTANCE_SAMPLE_RATIO": 1.5},
            r"IMPORTANCE_SAMPLE_RATIO must be in 0\.\.1, not 1\.5",
        ),
        (
            {"TEST.OVERLAP_THRESHOLD": 2.0},
            r"TEST\.OVERLAP_THRESHOLD must be in 0\.\.1, not 2\.0",
        ),
        ({"IN_FEATURES": ["res2", "p3"]}, r"IN_FEATURES has p3"),
        (
            {"IN_FEATURES": ["res3", "res4", "res5"]},
            r"must be four features",
        ),
        (
            {"MODEL.BACKBONE.NAME": "build_resnet_backbone"},
            r"IN_FEATURES has res2, res3, res5, but the backbone gives res4",
        ),
        (
            {f"TEST.{name}_ON": False for name in ("SEMANTIC", "PANOPTIC", "INSTANCE")},
            r"TEST: SEMANTIC_ON, PANOPTIC_ON and INSTANCE_ON are all False",
        ),
    ],
)
def test_contradictions_fail_at_build_time(m2f, dataset, changes, message):
    prefixed = {
        key if key.startswith("MODEL.") else f"{m2f.KEY}.{key}": value
        for key, value in changes.items()
    }
    with pytest.raises(ValueError, match=message):
        m2f.model(dataset, prefixed)


def test_panoptic_results_need_things_and_stuff(m2f):
    with pytest.raises(ValueError, match=r"TEST\.PANOPTIC_ON needs the thing classes"):
        m2f.model("")


def test_a_thing_id_out_of_range(m2f):
    name = f"out_of_range_{uuid.uuid4()}"
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {1: 6}
    with pytest.raises(ValueError, match="a thing class with the contiguous id 6"):
        m2f.model(name)
    MetadataCatalog.remove(name)


def test_targets_that_cannot_be_used_are_named(m2f, dataset):
    model = m2f.model(dataset)
    record = m2f.scene_record(0)
    with pytest.raises(ValueError, match=r"scene_0\.png: training needs `instances`"):
        model([{"image": record["image"], "file_name": "scene_0.png"}])
    record["instances"].gt_classes[0] = 6
    with pytest.raises(ValueError, match=r"scene_0\.png: classes .*6, but .*NUM_CLASSES is 6"):
        model([record])
    instances = Instances((64, 64))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    record["instances"] = instances
    with pytest.raises(ValueError, match=r"scene_0\.png: `instances` has classes and no gt_masks"):
        model([record])
    instances.gt_masks = PolygonMasks([[np.array([0.0, 0, 9, 0, 9, 9])]])
    with pytest.raises(ValueError, match=r"scene_0\.png: .*INPUT\.MASK_FORMAT to bitmask"):
        model([record])


@pytest.fixture
def official_config(tmp_path):
    path = tmp_path / "official.yaml"
    (tmp_path / "base.yaml").write_text("MODEL:\n  MASK_FORMER:\n    NHEADS: 4\n")
    path.write_text("_BASE_: base.yaml\nMODEL:\n  META_ARCHITECTURE: MaskFormer\n")
    return path


def test_official_package_adds_its_keys(official_config, tmp_path, monkeypatch):
    def add_maskformer2_config(cfg):
        cfg.MODEL.MASK_FORMER = type(cfg)({"NHEADS": 8})
        cfg.SOLVER.OPTIMIZER = "ADAMW"

    package = types.SimpleNamespace(add_maskformer2_config=add_maskformer2_config)
    monkeypatch.setitem(sys.modules, "mask2former", package)
    cfg = get_cfg()
    assert add_official_mask2former_config(cfg, official_config)
    cfg.merge_from_file(str(official_config))
    assert (cfg.MODEL.MASK_FORMER.NHEADS, cfg.SOLVER.OPTIMIZER) == (4, "ADAMW")

    ours = tmp_path / "ours.yaml"
    ours.write_text("MODEL:\n  META_ARCHITECTURE: TraceMask2Former\n")
    cfg = get_cfg()
    assert not add_official_mask2former_config(cfg, ours)
    assert "MASK_FORMER" not in cfg.MODEL


def test_official_config_without_the_package(official_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "mask2former", None)
    with pytest.raises(ImportError, match=r"official\.yaml is a config of the official"):
        add_official_mask2former_config(get_cfg(), official_config)


def test_official_image_size_reaches_our_mapper_unless_it_is_set(make_cfg):
    cfg = make_cfg()
    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE = 512, 0.5, 1.5
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.INPUT.TRACE.MAX_SCALE = 1.0

    adopt_official_input(cfg)

    node = cfg.INPUT.TRACE
    assert (node.IMAGE_SIZE, node.MIN_SCALE, node.MAX_SCALE) == (512, 0.5, 1.0)
    assert node.COLOR_JITTER
