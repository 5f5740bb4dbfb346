"""A tiny Mask2Former, a data set for it, and scenes as its inputs."""

from __future__ import annotations

import types
import uuid

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from trace_d2.config import add_trace_config
from trace_d2.scenes.procedural import make_scene

KEY = "MODEL.TRACE.MASK2FORMER"
TINY = {
    "MODEL.META_ARCHITECTURE": "TraceMask2Former",
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "build_swin_backbone",
    "MODEL.TRACE.SWIN.EMBED_DIM": 8,
    "MODEL.TRACE.SWIN.DEPTHS": [1, 1, 1, 1],
    "MODEL.TRACE.SWIN.NUM_HEADS": [1, 2, 2, 2],
    "MODEL.TRACE.SWIN.WINDOW_SIZE": 4,
    "MODEL.TRACE.SWIN.DROP_PATH": 0.0,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 6,
    f"{KEY}.HIDDEN_DIM": 32,
    f"{KEY}.NHEADS": 4,
    f"{KEY}.NUM_QUERIES": 12,
    f"{KEY}.ENC_LAYERS": 1,
    f"{KEY}.ENC_DIM_FEEDFORWARD": 32,
    f"{KEY}.DEC_LAYERS": 4,
    f"{KEY}.DIM_FEEDFORWARD": 32,
    f"{KEY}.TRAIN_NUM_POINTS": 128,
}
NARROW_RESNET = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
}


@pytest.fixture(scope="module")
def dataset():
    """A registered data set of four things and two stuff classes."""
    name = f"mask2former_{uuid.uuid4()}"
    classes = ["a", "b", "c", "d", "sky", "ground"]
    MetadataCatalog.get(name).set(
        thing_classes=classes,
        stuff_classes=classes,
        thing_dataset_id_to_contiguous_id={10: 0, 20: 1, 30: 2, 40: 3},
    )
    yield name
    MetadataCatalog.remove(name)


def tiny_cfg(dataset, changes=()):
    cfg = get_cfg()
    add_trace_config(cfg)
    cfg.DATASETS.TRAIN = (dataset,) if dataset else ()
    for key, value in (TINY | dict(changes)).items():
        cfg.merge_from_list([key, value])
    return cfg


def tiny_model(dataset, changes=(), seed=0):
    torch.manual_seed(seed)
    return build_model(tiny_cfg(dataset, changes))


def scene_record(index, size=(64, 64), kind="tensor"):
    scene = make_scene(3, index, size)
    masks = np.stack([scene.segment_ids == i + 1 for i in range(len(scene.category_ids))])
    instances = Instances(size)
    instances.gt_classes = torch.tensor(scene.category_ids) - 1
    masks = torch.from_numpy(masks)
    instances.gt_masks = BitMasks(masks) if kind == "bitmask" else masks
    image = torch.from_numpy(scene.image.transpose(2, 0, 1).copy())
    return {"image": image, "instances": instances, "file_name": f"scene_{index}.png"}


def empty_record(size=(64, 64)):
    instances = Instances(size)
    instances.gt_classes = torch.zeros(0, dtype=torch.int64)
    instances.gt_masks = torch.zeros(0, *size, dtype=torch.bool)
    return {"image": torch.full((3, *size), 90, dtype=torch.uint8), "instances": instances}


@pytest.fixture(scope="session")
def m2f():
    """The helpers of this file."""
    return types.SimpleNamespace(
        KEY=KEY,
        NARROW_RESNET=NARROW_RESNET,
        cfg=tiny_cfg,
        model=tiny_model,
        scene_record=scene_record,
        empty_record=empty_record,
    )
