"""A round of self-training: what a model predicts becomes a data set to train on."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2")
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from trace_d2.data.registration import register_class_agnostic
from trace_d2.evaluation.evaluators import ClassAgnosticEvaluator
from trace_d2.io.atomic import write_json

pytestmark = pytest.mark.detectron2


def prediction(score: float, *box: int) -> Instances:
    """One instance that fills a box x0, y0, x1, y1 of an image of 20 x 30 (height x width)."""
    x0, y0, x1, y1 = box
    instances = Instances((20, 30))
    instances.pred_boxes = Boxes(torch.tensor([box], dtype=torch.float32))
    instances.scores = torch.tensor([score])
    instances.pred_classes = torch.tensor([0])
    instances.pred_masks = torch.zeros(1, 20, 30, dtype=torch.bool)
    instances.pred_masks[:, y0:y1, x0:x1] = True
    return instances


def boxes(name: str) -> dict[int, list[list[float]]]:
    """The boxes of a registered data set by image id."""
    return {
        record["image_id"]: [row["bbox"] for row in record["annotations"]]
        for record in DatasetCatalog.get(name)
    }


def test_predictions_become_labels(tmp_path: Path, load_tool) -> None:
    """Image 1: a confident prediction replaces the label; 2: a weak one does not; 3: a new one."""
    images = []
    for key in (1, 2, 3):
        Image.new("RGB", (30, 20)).save(tmp_path / f"{key}.jpg")
        # Swapped, as MaskCut writes them.
        images.append({"id": key, "file_name": f"{key}.jpg", "height": 30, "width": 20})
    mask = {"size": [20, 30], "counts": [100, 10, 10, 10, 10, 10, 450]}  # x 5..8, y 0..10
    rows = [{"id": key, "image_id": key, "segmentation": mask, "iscrowd": 0} for key in (1, 2)]
    write_json(tmp_path / "round1.json", {"images": images, "annotations": rows})
    names = [f"round{number}_{uuid.uuid4()}" for number in (1, 2)]
    try:
        register_class_agnostic(names[0], tmp_path / "round1.json", tmp_path)
        assert boxes(names[0]) == {1: [[5, 0, 3, 10]], 2: [[5, 0, 3, 10]], 3: []}
        evaluator = ClassAgnosticEvaluator(names[0], tmp_path / "inference")
        found = [prediction(0.9, 5, 0, 9, 10), prediction(0.3, 5, 0, 8, 9)]
        found.append(prediction(0.8, 20, 5, 30, 20))
        records = DatasetCatalog.get(names[0])
        evaluator.process(records, [{"instances": instances} for instances in found])
        assert evaluator.evaluate() is not None
        arguments = ["--labels", str(tmp_path / "round1.json")]
        arguments += [
            "--predictions", str(tmp_path / "inference" / "coco_instances_results.json"),
            "--output", str(tmp_path / "round2.json"),
        ]  # fmt: skip
        assert load_tool("make_self_training").main(arguments) == 0
        register_class_agnostic(names[1], tmp_path / "round2.json", tmp_path)
        assert boxes(names[1]) == {1: [[5, 0, 4, 10]], 2: [[5, 0, 3, 10]], 3: [[20, 5, 10, 15]]}
        assert {(record["height"], record["width"]) for record in DatasetCatalog.get(names[1])} == {
            (20, 30)
        }
    finally:
        for name in names:
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
            MetadataCatalog.pop(name, None)
