"""Which evaluators a data set gets, by the ``evaluator_type`` of its metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
)

from trace_d2.engine.loaders import EDGE_PREDICTOR
from trace_d2.evaluation.class_agnostic_evaluator import ClassAgnosticEvaluator
from trace_d2.evaluation.edge_evaluator import EdgeEvaluator
from trace_d2.evaluation.panoptic_evaluator import PanopticQualityEvaluator

EVALUATORS: dict[str, tuple[Callable[[str, str], DatasetEvaluator], ...]] = {
    "class_agnostic": (lambda name, folder: ClassAgnosticEvaluator(name, folder),),
    "coco": (lambda name, folder: COCOEvaluator(name, output_dir=folder),),
    "coco_panoptic_seg": (lambda name, folder: PanopticQualityEvaluator(name, folder),),
    "lvis": (lambda name, folder: LVISEvaluator(name, output_dir=folder),),
    "pascal_voc": (lambda name, _: PascalVOCDetectionEvaluator(name),),
}
"""The evaluators of each ``evaluator_type``, from the data set's name and a folder for results."""

EDGE_EVALUATORS: dict[str, tuple[Callable[[str, str], DatasetEvaluator], ...]] = {
    "coco_panoptic_seg": (lambda name, folder: EdgeEvaluator(name, folder),),
}
"""The same for models that predict edges, which are held against borders between segments."""


# What evaluators need that a config may switch off: evaluator_type -> (its key, the output).
_MASK2FORMER_SWITCHES = {
    "class_agnostic": ("INSTANCE_ON", "instances"),
    "coco": ("INSTANCE_ON", "instances"),
    "coco_panoptic_seg": ("PANOPTIC_ON", "panoptic segments"),
}


def check_outputs(cfg: CfgNode, dataset_name: str) -> None:
    """Raise unless the model of ``cfg`` gives what the data set's evaluators look at.

    Raises:
        ValueError: nothing evaluates data sets of this type, or a key must be another.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if cfg.MODEL.META_ARCHITECTURE == EDGE_PREDICTOR and kind not in EDGE_EVALUATORS:
        raise ValueError(
            f"DATASETS.TEST has {dataset_name!r} with evaluator_type {kind!r}, but the edges of "
            f"MODEL.META_ARCHITECTURE {EDGE_PREDICTOR} are evaluated on panoptic truth: name a "
            "data set of DATASETS.TRACE.PANOPTIC or a built-in panoptic one"
        )
    if kind not in EVALUATORS:
        raise ValueError(
            f"DATASETS.TEST has {dataset_name!r} with evaluator_type {kind!r}; it must be one of "
            f"{', '.join(EVALUATORS)}. A data set without truth cannot be evaluated"
        )
    if kind == "coco_panoptic_seg" and cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        raise ValueError(
            f"DATASETS.TEST has the panoptic {dataset_name!r}, but MODEL.META_ARCHITECTURE "
            "GeneralizedRCNN predicts instances: test on its instances.json by "
            "DATASETS.TRACE.INSTANCES"
        )
    if kind in _MASK2FORMER_SWITCHES and cfg.MODEL.META_ARCHITECTURE == "TraceMask2Former":
        key, output = _MASK2FORMER_SWITCHES[kind]
        if not cfg.MODEL.TRACE.MASK2FORMER.TEST[key]:
            raise ValueError(
                f"MODEL.TRACE.MASK2FORMER.TEST.{key} is False, but {dataset_name!r} of "
                f"DATASETS.TEST is evaluated by {output}: switch it on"
            )


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """All evaluators of a registered data set; results go to ``OUTPUT_DIR/inference/<name>``.

    The config must have passed ``check_outputs``.
    """
    known = EDGE_EVALUATORS if cfg.MODEL.META_ARCHITECTURE == EDGE_PREDICTOR else EVALUATORS
    builders = known[MetadataCatalog.get(dataset_name).evaluator_type]
    folder = str(Path(cfg.OUTPUT_DIR) / "inference" / dataset_name)
    return DatasetEvaluators([build(dataset_name, folder) for build in builders])
