"""What is shown and counted of a prediction, before and after a cut along edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trace_d2.io.categories import Category
from trace_d2.io.coco_panoptic import segments_info
from trace_d2.io.images import Photograph
from trace_d2.jobs.coco_files import mask_annotations
from trace_d2.jobs.kinds.predicted import Predicted, Prediction
from trace_d2.jobs.kinds.predictions import PredictInputs, PredictionJob

CAT, SKY = Category(3, "cat", True, (220, 20, 60)), Category(7, "sky", False, (20, 60, 220))
SIZE = 40, 60


@pytest.fixture
def job(tmp_path) -> PredictionJob:
    return PredictionJob(
        lambda store: None, tmp_path, tmp_path / "out", [], (CAT, SKY), {"score": 0.5}
    )


def box(left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[10:30, left:right] = True
    return mask


def instances(*masks: np.ndarray) -> list[dict]:
    scores = [0.9 - 0.1 * rank for rank in range(len(masks))]
    return mask_annotations(np.stack(masks), [CAT.id] * len(masks), scores)


def inputs(found: Prediction, uncut: Prediction | None = None) -> PredictInputs:
    edges = None if uncut is None else np.zeros(SIZE, np.float32)
    if edges is not None:
        edges[:, 30] = 0.75
    photograph = Photograph(Path("a.png"), np.full((*SIZE, 3), 99, np.uint8), 1)
    return PredictInputs(photograph, None, (), Predicted(found, uncut, edges))


def test_instances_before_and_after_the_cut(job):
    uncut = Prediction(instances(box(10, 50)))
    found = Prediction(instances(box(10, 30), box(30, 50)), below=4, best=0.9)
    seen = inputs(found, uncut)

    facts = job.facts(seen, found)
    expected = {"instances": 2, "below": 4, "best": 900, "things": 2, "slivers": 0, "uncut": 1}
    assert facts == expected
    shown = job.pictures(seen, found)
    assert set(shown.panes) == {"instances", "uncut_instances", "edges"}
    assert shown.cuts_of == "instances"
    assert shown.cuts == {(1, 2): 0.75}
    marks = shown.panes["instances"].marks
    assert [mark.name for mark in marks.values()] == ["cat", "cat"]
    assert marks[1].text == "no. 1, score 0.90, 16.7% of the image"
    assert marks[1].color == CAT.color
    assert marks[2].color != CAT.color
    assert shown.panes["uncut_instances"].marks[1].color in {m.color for m in marks.values()}


def test_panoptic_segments_give_instances_their_colours(job):
    ids = np.where(box(10, 30), 70_000, 5).astype(np.int32)  # as large as some models' ids are
    ids[0] = 0
    segments = tuple(segments_info(ids, {5: SKY.id, 70_000: CAT.id}))
    found = Prediction(instances(box(10, 30)), ids, segments, best=0.9)
    seen = inputs(found)

    assert job.facts(seen, found)["segments"] == 2
    shown = job.pictures(seen, found)
    assert set(shown.panes) == {"instances", "segments"}
    numbers, marks = shown.panes["segments"].numbers, shown.panes["segments"].marks
    assert np.unique(numbers).tolist() == [0, 1, 2]
    assert {n: (m.name, m.color) for n, m in marks.items()} == {
        1: ("sky", SKY.color),
        2: ("cat", CAT.color),
    }
    assert shown.panes["instances"].marks[1].color == CAT.color
    assert "score 0.90" in shown.panes["instances"].marks[1].text
    assert shown.cuts == {}


def test_an_image_without_anything(job):
    for found in (Prediction([]), Prediction(None, np.zeros(SIZE, np.int32))):
        seen = inputs(found)
        facts = job.facts(seen, found)
        assert (facts["things"], facts["slivers"]) == (0, 0)
        (pane,) = job.pictures(seen, found).panes.values()
        assert not pane.numbers.any()
        assert not pane.marks
