"""Edge scores of a Detectron2 model."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="the evaluator needs Detectron2")

from detectron2.data import DatasetCatalog

from trace_d2.evaluation import EdgeSettings, edge_counts, edge_scores, truth_boundaries
from trace_d2.evaluation import evaluators as module
from trace_d2.evaluation.evaluators import EdgeEvaluator
from trace_d2.io.coco_panoptic import write_panoptic_png
from trace_d2.scenes.oracle import boundaries
from trace_d2.scenes.procedural import make_scene

pytestmark = pytest.mark.detectron2


@pytest.fixture
def cases(tmp_path):
    """Four records, and edges that hold the true ones among noise."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(4):
        ids = make_scene(8, index, (40, 48)).segment_ids
        path = tmp_path / f"{index}.png"
        write_panoptic_png(path, ids)
        edges = np.maximum(rng.random(ids.shape) * 0.8, boundaries(ids) / 255).astype(np.float32)
        record = {"file_name": f"images/{index}.jpg", "pan_seg_file_name": str(path)}
        found.append((record, edges, ids))
    return found


def feed(evaluator, cases) -> None:
    for record, edges, _ in cases:
        evaluator.process([record], [{"edges": torch.from_numpy(edges)}])


def expected(cases) -> dict[str, float]:
    scores = edge_scores([edge_counts(e, truth_boundaries(ids)) for _, e, ids in cases])
    values = {"ODS": scores.ods, "OIS": scores.ois, "AP": scores.ap, "clDice": scores.cldice}
    return {key: 100 * value for key, value in values.items()}


def test_scores_are_those_of_the_counts(cases, tmp_path) -> None:
    evaluator = EdgeEvaluator("scenes", tmp_path / "out")
    feed(evaluator, cases)
    scores = evaluator.evaluate()
    assert scores == {"edges": expected(cases)}
    assert scores["edges"]["ODS"] == 100  # noise ends at 0.8
    report = json.loads((tmp_path / "out" / "edge_scores.json").read_text())
    assert report["scores"]["ods"] == 1
    assert list(report["images"]) == [record["file_name"] for record, _, _ in cases]


def test_processes_are_gathered_and_doubles_count_once(cases, monkeypatch) -> None:
    first, second = EdgeEvaluator("scenes"), EdgeEvaluator("scenes")
    feed(first, cases[:3])
    feed(second, cases[2:])
    monkeypatch.setattr(module.comm, "gather", lambda own: [own, second._results])
    assert first.evaluate() == {"edges": expected(cases)}
    monkeypatch.setattr(module.comm, "is_main_process", lambda: False)
    assert first.evaluate() is None


def test_reset_forgets(cases) -> None:
    evaluator = EdgeEvaluator("scenes")
    feed(evaluator, cases)
    evaluator.reset()
    with pytest.raises(ValueError, match="no image"):
        evaluator.evaluate()


def test_binary_edges_have_no_ap(cases) -> None:
    record, _, ids = cases[0]
    evaluator = EdgeEvaluator("scenes")
    evaluator.process([record], [{"edges": torch.from_numpy(boundaries(ids) / 255)}])
    scores = evaluator.evaluate()["edges"]
    assert (scores["ODS"], scores["clDice"]) == (100, 100)
    assert math.isnan(scores["AP"])


@pytest.fixture
def bands(tmp_path):
    """A registered picture of stuff, stuff, thing, thing, crowd, and edges at their borders."""
    ids = np.tile(np.repeat([1, 2, 3, 4, 5], 4), (10, 1))
    write_panoptic_png(tmp_path / "bands.png", ids)
    segments = [{"id": i, "isthing": i > 2, "iscrowd": int(i == 5)} for i in range(1, 6)]
    record = {"file_name": "images/a.jpg", "pan_seg_file_name": str(tmp_path / "bands.png")}
    DatasetCatalog.register("edge_bands", lambda: [record | {"segments_info": segments}])
    yield record, torch.from_numpy(boundaries(ids) / 255), segments
    DatasetCatalog.remove("edge_bands")


@pytest.mark.parametrize(
    ("kind", "name", "ods"),
    # 40 pixels are found. 10 of them, between the two segments of stuff, bound no thing.
    [
        ("panoptic", "boundaries of all segments", 100),
        ("things", "outlines of thing", 200 * 30 / 70),
    ],
)
def test_kinds_of_truth(bands, kind, name, ods, tmp_path, caplog) -> None:
    record, edges, _ = bands
    evaluator = EdgeEvaluator("edge_bands", tmp_path, settings=EdgeSettings(truth_kind=kind))
    evaluator.process([record], [{"edges": edges}])
    with caplog.at_level(logging.INFO, logger=module.logger.name):
        assert evaluator.evaluate()["edges"]["ODS"] == pytest.approx(ods)
    assert f"1 images against the {name}" in caplog.text
    report = json.loads((tmp_path / "edge_scores.json").read_text())
    assert report["settings"]["truth_kind"] == kind


def test_things_need_records_that_name_them(bands) -> None:
    settings = EdgeSettings(truth_kind="things")
    with pytest.raises(KeyError, match="not registered"):
        EdgeEvaluator("edge_bands_of_no_one", settings=settings)
    del bands[2][0]["isthing"]
    with pytest.raises(ValueError, match=r"images/a\.jpg has no segments_info with isthing"):
        EdgeEvaluator("edge_bands", settings=settings)


def test_bad_outputs_are_named(cases) -> None:
    evaluator = EdgeEvaluator("scenes")
    record, edges, _ = cases[0]
    bad = [
        ({"file_name": "a.jpg"}, {"edges": edges}, "a.jpg: its record has no pan_seg_file_name"),
        (record, {"sem_seg": edges}, "the model returned no edges"),
        (record, {"edges": edges[:20]}, "images/0.jpg gives edges of 48 x 20 pixels"),
        (record, {"edges": edges * 2}, "scale them to 0..1"),
    ]
    for one, output, message in bad:
        output = {key: torch.from_numpy(value) for key, value in output.items()}
        with pytest.raises(ValueError, match=message):
            evaluator.process([one], [output])
