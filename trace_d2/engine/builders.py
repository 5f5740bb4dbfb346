"""What a config says is built: mappers and whole batches, evaluators."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
)

from trace_d2.data.dataset_mapper import TraceDatasetMapper
from trace_d2.data.edge_mapper import TraceEdgeDatasetMapper
from trace_d2.data.tolerant_mapper import TolerantDatasetMapper
from trace_d2.engine.names import EDGE_PREDICTOR, RCNN
from trace_d2.evaluation.evaluators import (
    ClassAgnosticEvaluator,
    EdgeEvaluator,
    PanopticQualityEvaluator,
)
from trace_d2.evaluation.semantic_evaluator import SemanticEvaluator
from trace_d2.io.json_files import read_json

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]

MAPPERS: dict[str, Callable[..., Callable[[dict[str, Any]], dict[str, Any] | None]]] = {
    "trace": TraceDatasetMapper,
    "detectron2": TolerantDatasetMapper,
    "trace_edges": TraceEdgeDatasetMapper,
}
"""Values of ``INPUT.TRACE.MAPPER``: what turns a training record into the input of a model."""


EVALUATORS: dict[str, Callable[[str, str], DatasetEvaluator]] = {
    "class_agnostic": ClassAgnosticEvaluator,
    "coco": lambda name, folder: COCOEvaluator(name, output_dir=folder),
    "coco_panoptic_seg": PanopticQualityEvaluator,
    "lvis": lambda name, folder: LVISEvaluator(name, output_dir=folder),
    "pascal_voc": lambda name, _: PascalVOCDetectionEvaluator(name),
    "sem_seg": SemanticEvaluator,
    "cityscapes_sem_seg": SemanticEvaluator,  # without cityscapesscripts, on _labelTrainIds
}
"""The evaluator of each ``evaluator_type``, from the data set's name and a folder for results."""

EDGE_EVALUATORS: dict[str, Callable[[str, str], DatasetEvaluator]] = {
    "coco_panoptic_seg": EdgeEvaluator,
}
"""The same for models that predict edges, which are held against borders between segments."""


def _coco_of_panoptic(name: str, folder: str) -> COCOEvaluator:
    """AP of each class, on the things of a panoptic data set (its ``instances.json``)."""
    own, twin = MetadataCatalog.get(name), MetadataCatalog.get(f"{name}/instances")
    known = {row["id"]: row["name"] for row in read_json(own.json_file)["categories"]}
    twin.set(
        json_file=own.json_file,
        thing_classes=[known[key] for key in sorted(known)],
        # Classes are counted over things and stuff, of which R-CNNs predict none.
        thing_dataset_id_to_contiguous_id={
            **own.thing_dataset_id_to_contiguous_id,
            **own.stuff_dataset_id_to_contiguous_id,
        },
        evaluator_type="coco",
    )
    return COCOEvaluator(twin.name, output_dir=folder)


_OWN_EVALUATORS = {
    EDGE_PREDICTOR: EDGE_EVALUATORS,
    RCNN: {**EVALUATORS, "coco_panoptic_seg": _coco_of_panoptic},
}


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator of a registered data set; results go to ``OUTPUT_DIR/inference/<name>``."""
    known = _OWN_EVALUATORS.get(cfg.MODEL.META_ARCHITECTURE, EVALUATORS)
    metadata = MetadataCatalog.get(dataset_name)
    most, given = metadata.get("max_detections", 0), cfg.TEST.DETECTIONS_PER_IMAGE
    if most > given:
        logger.warning(
            "%s counts %d predictions of an image, and the model gives %d: set "
            "TEST.DETECTIONS_PER_IMAGE %d",
            dataset_name, most, given, most,
        )  # fmt: skip
    build = known[metadata.evaluator_type]
    return build(dataset_name, str(Path(cfg.OUTPUT_DIR) / "inference" / dataset_name))


def check_test_data(cfg: CfgNode) -> None:
    """Read the truth of ``DATASETS.TEST``, which training would come to at its end.

    Raises:
        ValueError, OSError: it is not there, or damaged; the message names the file.
        UnfinishedLabelsError: it is a folder of labels that is still being written.
    """
    for name in cfg.DATASETS.TEST:
        DatasetCatalog.get(name)
        build_evaluator(cfg, name)


class BatchLoader:
    """A data loader whose batches go through ``transforms``, and whose last batch can be seen."""

    def __init__(
        self, loader: Iterable[Batch], transforms: Iterable[Callable[[Batch], Batch]] = ()
    ) -> None:
        self.loader = loader
        self.transforms = tuple(transforms)
        self.last: Batch = []

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            for transform in self.transforms:
                batch = transform(batch)
            self.last = batch
            yield batch
