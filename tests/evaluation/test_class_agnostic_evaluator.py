from __future__ import annotations

import json
import math
import uuid

import pytest
import torch

pytest.importorskip("detectron2", reason="the evaluator needs Detectron2")

from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from trace_d2.evaluation import evaluators as module
from trace_d2.evaluation.evaluators import ClassAgnosticEvaluator
from trace_d2.io.atomic import write_json

pytestmark = pytest.mark.detectron2

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


@pytest.fixture
def dataset(tmp_path):
    """Name of a data set of two images with an object each, of different categories."""
    name = f"class_agnostic_{uuid.uuid4()}"
    images = [{"id": key, "height": 40, "width": 50} for key in (1, 2)]
    rows = [
        {"id": key, "image_id": key, "category_id": key, "segmentation": SQUARE} for key in (1, 2)
    ]
    write_json(tmp_path / "truth.json", {"images": images, "annotations": rows})
    MetadataCatalog.get(name).json_file = str(tmp_path / "truth.json")
    yield name
    MetadataCatalog.pop(name)


def output(*scores: float, masks: bool = True) -> dict:
    """Predictions exactly on the object."""
    instances = Instances((40, 50))
    instances.pred_boxes = Boxes(torch.tensor([[10.0, 10, 30, 30]] * len(scores)).reshape(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.arange(len(scores))
    if masks:
        instances.pred_masks = torch.zeros(len(scores), 40, 50, dtype=torch.bool)
        instances.pred_masks[:, 10:30, 10:30] = True
    return {"instances": instances}


def test_scores_and_files(dataset, tmp_path):
    evaluator = ClassAgnosticEvaluator(dataset, tmp_path / "out")
    evaluator.process([{"image_id": 1}, {"image_id": 2}], [output(0.5, 0.9), output()])
    scores = evaluator.evaluate()
    assert list(scores) == ["segm", "bbox"]
    for values in scores.values():
        assert values["AP"] == pytest.approx(100 * 51 / 101)
        assert values["AR_100"] == pytest.approx(50)
        assert math.isnan(values["APl"])
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [row["category_id"] for row in results] == [1, 1]
    assert results[0]["score"] == pytest.approx(0.5)
    report = json.loads((tmp_path / "out" / "class_agnostic_results.json").read_text())
    assert report["segm"]["AP"] == pytest.approx(51 / 101)
    evaluator.reset()
    assert evaluator.evaluate()["segm"]["AP"] == 0


def test_a_model_without_masks_gets_boxes_only(dataset):
    evaluator = ClassAgnosticEvaluator(dataset)
    evaluator.process([{"image_id": 1}], [output(0.9, masks=False)])
    assert list(evaluator.evaluate()) == ["bbox"]


def rewrite(dataset: str, change) -> None:
    """Change the content of the truth."""
    path = MetadataCatalog.get(dataset).json_file
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    change(content)
    write_json(path, content)


def test_the_truth_is_read_and_checked_at_once(dataset):
    evaluator = ClassAgnosticEvaluator(dataset)
    rewrite(dataset, lambda content: content["annotations"][1].update(image_id=7))
    with pytest.raises(ValueError, match=r"annotation 2 \(image 7\): image_id 7 is not in images"):
        ClassAgnosticEvaluator(dataset)
    evaluator.process([{"image_id": 1}, {"image_id": 2}], [output(0.9), output(0.9)])
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)


def test_swapped_sizes_of_the_truth(dataset, caplog):
    mask = {"size": [40, 50], "counts": [2000]}

    def swap(content: dict) -> None:
        for image in content["images"]:
            image.update(height=50, width=40)
        content["annotations"].append({"image_id": 1, "segmentation": mask})

    rewrite(dataset, swap)
    evaluator = ClassAgnosticEvaluator(dataset)
    assert "width and height of its images are swapped" in caplog.text
    evaluator.process([{"image_id": 1}], [output(0.9)])
    assert evaluator.evaluate()["segm"]["AP50"] > 0


def test_a_truth_without_masks_gets_boxes_only(dataset, caplog):
    def unmask(content: dict) -> None:
        row = content["annotations"][0]
        row.update(bbox=[10, 10, 20, 20])
        del row["segmentation"]

    rewrite(dataset, unmask)
    with pytest.raises(ValueError, match=r"\(image 1\): it has no mask"):
        ClassAgnosticEvaluator(dataset, iou_types=["segm"])
    ClassAgnosticEvaluator(dataset)
    assert "1 of 2 annotations have a box and no mask (segmentation)" in caplog.text
    rewrite(dataset, lambda content: content["annotations"].pop())
    with pytest.raises(ValueError, match="has no masks: give its annotations one"):
        ClassAgnosticEvaluator(dataset, iou_types=["segm"])
    evaluator = ClassAgnosticEvaluator(dataset)
    evaluator.process([{"image_id": 1}], [output(0.9)])
    with caplog.at_level("INFO"):
        assert list(evaluator.evaluate()) == ["bbox"]
    assert "AP and AR are those of boxes (AP^box, not AP^mk)" in caplog.text


def test_the_data_set_says_how_many_predictions_count(dataset):
    MetadataCatalog.get(dataset).max_detections = 300
    evaluator = ClassAgnosticEvaluator(dataset)
    evaluator.process([{"image_id": 1}, {"image_id": 2}], [output(0.9), output(0.8)])
    assert evaluator.evaluate()["segm"]["AR_300"] == pytest.approx(100)


def test_processes_are_joined_and_padded_images_count_once(dataset, monkeypatch):
    parts = []
    for image_ids in ((1, 2), (1,)):
        part = ClassAgnosticEvaluator(dataset)
        part.process([{"image_id": key} for key in image_ids], [output(0.9) for _ in image_ids])
        parts.append(part._results)
    monkeypatch.setattr(module.comm, "gather", lambda own: parts)
    assert part.evaluate()["segm"]["AP"] == pytest.approx(100)
    monkeypatch.setattr(module.comm, "is_main_process", lambda: False)
    assert part.evaluate() is None


def test_faults_are_named(dataset):
    with pytest.raises(ValueError, match="has no json_file"):
        ClassAgnosticEvaluator("a data set that nobody registered")
    evaluator = ClassAgnosticEvaluator(dataset)
    with pytest.raises(ValueError, match="image 1: the model returned no instances"):
        evaluator.process([{"image_id": 1}], [{"sem_seg": None}])
    evaluator.process([{"image_id": 8}], [output(0.9)])
    with pytest.raises(ValueError, match="1 predictions of 1 images"):
        evaluator.evaluate()


def test_ids_of_other_images_are_put_right_by_file_name(dataset, tmp_path, caplog):
    path = tmp_path / "truth.json"
    content = json.loads(path.read_text())
    for image, name in zip(content["images"], ("bear.jpg", "apple.jpg"), strict=True):
        image["file_name"] = name
    content["annotations"] = content["annotations"][:1]  # of the bear
    write_json(path, content)
    evaluator = ClassAgnosticEvaluator(dataset)
    records = [
        {"image_id": 1, "file_name": "x/apple.jpg"},
        {"image_id": 2, "file_name": "bear.jpg"},
    ]
    evaluator.process(records, [output(), output(0.9)])
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)
    assert "file name" in caplog.text
