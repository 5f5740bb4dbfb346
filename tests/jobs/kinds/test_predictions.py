"""What is shown and counted of a prediction, before and after a cut along edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trace_d2.io.atomic import write_json
from trace_d2.io.categories import Category
from trace_d2.io.coco_panoptic import segments_info
from trace_d2.io.images import Photograph
from trace_d2.jobs.coco_files import mask_annotations
from trace_d2.jobs.journal import DONE, ImageEntry, Record, encode_record
from trace_d2.jobs.kinds.predicted import Predicted, Prediction
from trace_d2.jobs.kinds.predictions import PredictInputs, PredictionJob
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.pictures import encode
from trace_d2.jobs.preview import read_preview
from trace_d2.jobs.report import counted

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


def test_what_is_of_another_class_is_drawn_in_another_colour(job):
    """Where panoptic segments are all sky, cats over it are no sky, nor each other."""
    ids = np.full(SIZE, 1, np.int32)
    found = Prediction(
        instances(box(10, 30), box(30, 50)), ids, tuple(segments_info(ids, {1: SKY.id})), best=0.9
    )
    uncut = Prediction(instances(box(10, 50)), ids, found.segments)
    shown = job.pictures(inputs(found, uncut), found)
    colors = [mark.color for mark in shown.panes["instances"].marks.values()]
    assert colors[0] == CAT.color
    assert len({*colors, SKY.color}) == 3
    assert shown.panes["segments"].marks[1].color == SKY.color
    assert shown.panes["uncut_instances"].marks[1].color == CAT.color
    assert (shown.cuts_of, shown.cuts) == ("instances", {(1, 2): 0.75})  # what is cut
    assert shown.pale == ["sky"]
    write_json(job.store.place("previews/{}.json", "a"), encode(shown))
    preview = read_preview(job.store, "a")
    assert preview.legend == {"sky": [SKY.color], "cat": colors}


def test_one_colour_is_given_once(job):
    """Two cats as instances where the panoptic segment is one: the better match follows it."""
    ids = np.where(box(10, 50), 2, 1).astype(np.int32)
    segments = tuple(segments_info(ids, {1: SKY.id, 2: CAT.id}))
    found = Prediction(instances(box(10, 20), box(20, 50)), ids, segments, best=0.9)
    marks = job.pictures(inputs(found), found).panes["instances"].marks
    assert marks[2].color == CAT.color
    assert marks[1].color not in (CAT.color, SKY.color)


def test_no_segment_at_all_is_explained(job):
    key = "MODEL.TRACE.MASK2FORMER.TEST.OBJECT_MASK_THRESHOLD"
    settings = {"score": 0.5, "MODEL.META_ARCHITECTURE": "TraceMask2Former", key: 0.4}
    job.store.open(settings)
    facts = {"instances": 1, "below": 0, "best": 123, "segments": 0, "things": 1, "slivers": 0}
    records = {"a": Record("a", "a.png", DONE, facts=facts)}
    outcome = Outcome(job.store, settings, [ImageEntry("a", "a.png", 1)], records, [])
    job.store.journal_path.write_bytes(encode_record(records["a"]))
    assert PredictionJob.report(outcome).notes == [
        "1 instance of a score of 0.5 or more, 0 below it left out",
        "0 panoptic segments",
        f"a lower {key} (0.4 now, the highest score of an instance is 0.123) "
        "shows more, or train longer",
    ]


def test_an_image_without_anything(job):
    for found in (Prediction([]), Prediction(None, np.zeros(SIZE, np.int32))):
        seen = inputs(found)
        facts = job.facts(seen, found)
        assert (facts["things"], facts["slivers"]) == (0, 0)
        (pane,) = job.pictures(seen, found).panes.values()
        assert not pane.numbers.any()
        assert not pane.marks


def test_numbers_and_names_agree():
    assert counted(1, "pieces added by edges") == "1 piece added by edges"
    assert counted(1, "panoptic segments") == "1 panoptic segment"
    assert counted(0, "slivers") == "0 slivers"
    assert counted(1234, "things") == "1,234 things"
