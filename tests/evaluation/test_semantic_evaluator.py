"""``SemanticEvaluator`` against Detectron2's own, on the same outputs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

from trace_d2.evaluation.semantic_evaluator import SemanticEvaluator
from trace_d2.io.atomic import write_png

NAMES = ["wall", "cat", "sky", "dog", "sea"]  # of which dog and sea are never true, sea nowhere


@pytest.fixture
def dataset(tmp_path):
    """A data set of three images, and scores of a model."""
    rng = np.random.default_rng(0)
    records, outputs = [], []
    for rank, size in enumerate([(5, 7), (4, 4), (1, 9)]):
        truth = rng.choice([0, 1, 2, 255], size).astype(np.uint8)
        path = str(tmp_path / f"{rank}.png")
        write_png(path, truth)
        records.append({"file_name": f"{rank}.jpg", "sem_seg_file_name": path, "image_id": rank})
        scores = rng.random((5, *size)).astype(np.float32)
        scores[4] = 0
        outputs.append({"sem_seg": torch.from_numpy(scores)})
    DatasetCatalog.register("semantic_test", lambda: records)
    MetadataCatalog.get("semantic_test").set(stuff_classes=NAMES, ignore_label=255)
    yield records, outputs
    DatasetCatalog.pop("semantic_test")
    MetadataCatalog.pop("semantic_test")


def test_same_results_as_detectron2(dataset, tmp_path):
    theirs = SemSegEvaluator("semantic_test", distributed=False)
    own = SemanticEvaluator("semantic_test", tmp_path / "out")
    for evaluator in (theirs, own):
        evaluator.reset()
        for record, output in zip(*dataset, strict=True):
            evaluator.process([record], [output])
    expected, result = theirs.evaluate()["sem_seg"], own.evaluate()["sem_seg"]
    assert list(result) == list(expected)
    assert result == pytest.approx(expected, nan_ok=True)
    assert math.isnan(result["IoU-sea"])
    report = json.loads((tmp_path / "out/semantic_results.json").read_text())
    assert 100 * report["mIoU"] == pytest.approx(expected["mIoU"])


def test_an_image_twice_counts_once(dataset):
    own = SemanticEvaluator("semantic_test")
    for _ in range(2):
        own.process(*dataset)
    once = SemanticEvaluator("semantic_test")
    once.process(*dataset)
    assert own.evaluate()["sem_seg"] == pytest.approx(once.evaluate()["sem_seg"], nan_ok=True)


def test_what_does_not_fit_is_named(dataset, tmp_path):
    records, outputs = dataset
    own = SemanticEvaluator("semantic_test")
    with pytest.raises(ValueError, match=r"0\.jpg: the model returned no maps"):
        own.process(records[:1], [{}])
    with pytest.raises(ValueError, match=r"returned 4 maps of scores .* has 5 classes"):
        own.process(records[:1], [{"sem_seg": outputs[0]["sem_seg"][:4]}])
    with pytest.raises(ValueError, match=r"0\.png and 0\.jpg: maps of different sizes"):
        own.process(records[:1], outputs[1:2])
    own.process(records[:1], outputs[:1])
    with pytest.raises(ValueError, match="the model's output has no prediction for 2 of 3 images"):
        own.evaluate()
    write_png(tmp_path / "1.png", np.full((4, 4), 5, np.uint8))
    with pytest.raises(ValueError, match=r"1\.png holds 5, which no class that 'semantic_test'"):
        SemanticEvaluator("semantic_test")
    for record in records:
        del record["sem_seg_file_name"]
    with pytest.raises(ValueError, match="lacks sem_seg_file_name in its metadata or records"):
        SemanticEvaluator("semantic_test")
