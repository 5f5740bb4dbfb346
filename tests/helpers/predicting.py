"""Small models of Detectron2 that have learned nothing, and the command that predicts by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def command(folder: Path, images: Path | str, output: Path, *more: str) -> list[str]:
    """The options of ``predict.py`` for the model in ``folder``."""
    return [
        *("--config-file", str(folder / "config.yaml")),
        *("--weights", str(folder / "model_final.pth")),
        *("--images", str(images), "--output", str(output), "--quiet", "--workers", "1"),
        *more,
    ]


def rcnn_cfg(name: str = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", **changes: Any):
    """A tiny model of Detectron2's zoo, without any of our keys."""
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(name))
    cfg.merge_from_list([part.replace('""', "") for part in TINY_RCNN.split()])
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


TINY_RCNN = """
MODEL.DEVICE cpu MODEL.RESNETS.RES2_OUT_CHANNELS 16 MODEL.RESNETS.STEM_OUT_CHANNELS 16
MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 8
MODEL.ROI_MASK_HEAD.NUM_CONV 1 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 TEST.DETECTIONS_PER_IMAGE 4
INPUT.MIN_SIZE_TEST 64 MODEL.RPN.POST_NMS_TOPK_TEST 20 MODEL.SEM_SEG_HEAD.CONVS_DIM 16
MODEL.SEM_SEG_HEAD.NORM "" MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH 0.0
MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT 1
"""


def save_model(cfg, folder: Path, **more: Any) -> Path:
    """The two files of a trained model, as somebody else's training leaves them."""
    import torch
    from detectron2.modeling import build_model

    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    state = build_model(cfg.clone()).state_dict()
    torch.save({"model": state, **more}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def predicted(output: Path) -> dict:
    """The file of instances that was written."""
    return json.loads((output / "predictions.json").read_text())
