"""What can be known to be wrong before the first iteration."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from trace_d2.data.registration import check_categories
from trace_d2.engine.accumulation import check_accumulation
from trace_d2.engine.evaluators import build_evaluator, check_outputs
from trace_d2.engine.loaders import check_mapper

RCNN, MASK2FORMER = "GeneralizedRCNN", "TraceMask2Former"


def check_config(cfg: CfgNode, *, train: bool, resume: bool = False) -> None:
    """Raise for a config that cannot work, with the key named.

    Args:
        cfg: the whole config; its data sets are registered.
        train: whether training follows, rather than evaluation only.
        resume: whether the last checkpoint of ``OUTPUT_DIR``, if any, takes the place of
            ``MODEL.WEIGHTS``.

    Raises:
        ValueError: keys that contradict each other, the data sets or the machine.
        FileNotFoundError: the weights are missing.
    """
    _check_device(cfg, train)
    if not (resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()):
        _check_weights(cfg.MODEL.WEIGHTS)
    if train and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set")
    if not train and not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: there is nothing to evaluate on")
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if train else cfg.DATASETS.TEST
    if not cfg.INPUT.TRACE.CLASS_AGNOSTIC:  # that trains on all things as one class
        number = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        mask2former = cfg.MODEL.META_ARCHITECTURE == MASK2FORMER
        check_categories(list(names), number if mask2former else None)
    if train:
        check_mapper(cfg)
        check_accumulation(cfg)
        _check_rcnn_classes(cfg, cfg.DATASETS.TRAIN[0])
    for name in cfg.DATASETS.TEST:
        check_outputs(cfg, name)


def check_test_data(cfg: CfgNode) -> None:
    """Read the truth of ``DATASETS.TEST``, which training would come to at its end.

    Raises:
        ValueError, OSError: it is not there, or damaged; the message names the file.
        UnfinishedLabelsError: it is a folder of labels that is still being written.
    """
    for name in cfg.DATASETS.TEST:
        DatasetCatalog.get(name)
        build_evaluator(cfg, name)


def _check_device(cfg: CfgNode, train: bool) -> None:
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


def _check_weights(weights: str) -> None:
    if not weights or "://" in weights:  # fetched by Detectron2, which names the address
        return
    if not PathManager.isfile(weights):
        raise FileNotFoundError(
            f"MODEL.WEIGHTS: no file at {Path(weights).absolute()}; correct the path, or leave it "
            "empty to start from random weights"
        )


def _check_rcnn_classes(cfg: CfgNode, dataset_name: str) -> None:
    """R-CNNs say how many classes they have; more in the data would fail at some iteration."""
    if cfg.MODEL.META_ARCHITECTURE != RCNN:
        return
    classes = MetadataCatalog.get(dataset_name).get("thing_classes", [])
    known = 1 if cfg.INPUT.TRACE.CLASS_AGNOSTIC else len(classes)
    if known and known != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but "
            f"{dataset_name!r} has {known}: make them agree"
        )
