"""What can be known to be wrong before the first iteration."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from trace_d2.data.registration import check_categories
from trace_d2.engine.loaders import MAPPERS


def check_config(cfg: CfgNode, *, train: bool) -> None:
    """Raise for a config that cannot work, with the key named.

    Args:
        cfg: the whole config; its data sets are registered.
        train: whether training follows, rather than evaluation only.

    Raises:
        ValueError: keys that contradict each other, the data sets or the machine.
        FileNotFoundError: the weights are missing.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but no CUDA device is visible: put "
            "`MODEL.DEVICE cpu` at the end of the command, or mend the driver"
        )
    if train and cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ValueError(
            f"SOLVER.AMP.ENABLED needs CUDA, but MODEL.DEVICE is {cfg.MODEL.DEVICE}: put "
            "`SOLVER.AMP.ENABLED False` at the end of the command"
        )
    if train and cfg.INPUT.TRACE.MAPPER not in MAPPERS:
        raise ValueError(
            f"INPUT.TRACE.MAPPER is one of {', '.join(MAPPERS)}, not {cfg.INPUT.TRACE.MAPPER!r}"
        )
    _check_weights(cfg.MODEL.WEIGHTS)
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if train else cfg.DATASETS.TEST
    if train and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set")
    if not cfg.INPUT.TRACE.CLASS_AGNOSTIC:  # that trains on all things as one class
        check_categories(list(names))
    _check_class_number(cfg, names[0] if names else "")


def _check_weights(weights: str) -> None:
    if not weights or "://" in weights:  # fetched by Detectron2, which names the address
        return
    if not PathManager.isfile(weights):
        raise FileNotFoundError(
            f"MODEL.WEIGHTS: no file at {Path(weights).absolute()}; correct the path, or leave it "
            "empty to start from random weights"
        )


def _check_class_number(cfg: CfgNode, dataset_name: str) -> None:
    """R-CNNs say how many classes they have; more in the data would fail at some iteration."""
    if not dataset_name or cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        return
    classes = MetadataCatalog.get(dataset_name).get("thing_classes", [])
    known = 1 if cfg.INPUT.TRACE.CLASS_AGNOSTIC else len(classes)
    if known and known != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but "
            f"{dataset_name!r} has {known}: make them agree"
        )
