"""The calibration of a training set: what is measured, on which records, and when it is not."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from trace_d2.data import target_generator
from trace_d2.data.bad_records import BadRecordError
from trace_d2.data.target_generator import calibrate_records
from trace_d2.io.categories import parse_categories
from trace_d2.io.images import Photograph, Sample
from trace_d2.propagation.calibration import (
    EdgeCalibration,
    EdgeStatistics,
)

NAME = "trace_test_target_calibration"
CATEGORIES = parse_categories(
    [{"id": 1, "name": "cat", "isthing": 1}, {"id": 0, "name": "ground", "isthing": 0}], "the test"
)


def sample_of(record: dict) -> Sample:
    """A cat on ground, outlined by edges of a strength that the record's number gives."""
    number = int(Path(record["file_name"]).stem)
    if number == 3:
        raise BadRecordError("a/3.jpg is torn")
    semantic = np.zeros((60, 80), np.uint8)
    semantic[10:50, 10 + number : 60] = 1
    edges = np.zeros(semantic.shape, np.float32)
    edges[:, 9 + number] = edges[9, 10:60] = 0.5 + number / 100
    photograph = Photograph(Path(record["file_name"]), np.zeros((60, 80, 3), np.uint8), 1)
    return Sample(photograph, edges, (), semantic)


@pytest.fixture
def cfg(make_cfg):
    records = [{"file_name": f"a/{number}.jpg"} for number in range(8)]
    DatasetCatalog.register(NAME, lambda: records)
    made = make_cfg()
    made.DATASETS.TRAIN = (NAME,)
    made.INPUT.TRACE.EDGES = "record"
    yield made
    DatasetCatalog.remove(NAME)
    MetadataCatalog.pop(NAME, None)


def measured(numbers) -> EdgeCalibration:
    statistics = EdgeStatistics()
    for number in numbers:
        sample = sample_of({"file_name": f"a/{number}.jpg"})
        statistics.add_semantic(sample.semantic, {1: True, 0: False}, sample.edges)
    return statistics.calibrate()


def test_all_records_but_the_bad_one_are_measured(cfg, caplog):
    with caplog.at_level(logging.INFO):
        found = calibrate_records(cfg, CATEGORIES, sample_of)
    assert found == measured([0, 1, 2, 4, 5, 6, 7])
    assert found.images == 7
    assert "a/3.jpg is torn" in caplog.text
    assert f"edges measured on 7 images: trust {found.trust:.2f}" in caplog.text


def test_the_sample_hangs_on_names_and_seed_alone(cfg, monkeypatch):
    monkeypatch.setattr(target_generator, "SAMPLE_IMAGES", 3)
    seen: list[list[str]] = []
    records = DatasetCatalog.get(NAME)
    for seed, order in ((0, 1), (0, -1), (5, 1)):
        records.sort(key=lambda record, order=order: order * int(Path(record["file_name"]).stem))
        cfg.MODEL.TRACE.SEED = seed
        seen.append([record["file_name"] for record in target_generator._sample(cfg)])
    assert len(seen[0]) == 3
    assert seen[0] == seen[1] != seen[2]


def test_a_given_calibration_is_taken(cfg, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(measured([1, 2]).to_json()))
    cfg.MODEL.TRACE.EDGES.CALIBRATION = str(path)
    found = calibrate_records(cfg, CATEGORIES, sample_of)
    assert found.to_json() == measured([1, 2]).to_json()


@pytest.mark.parametrize(
    ("key", "value"), [("MODEL.TRACE.LABELS.CUT", "components"), ("INPUT.TRACE.EDGES", "none")]
)
def test_nothing_is_measured_where_nothing_is_needed(cfg, key, value):
    cfg.merge_from_list([key, value])
    assert calibrate_records(cfg, CATEGORIES, sample_of) is None


def test_a_data_set_that_is_not_registered(cfg, caplog):
    cfg.DATASETS.TRAIN = ("trace_test_absent",)
    assert calibrate_records(cfg, CATEGORIES, sample_of) is None
    assert "trace_test_absent is not registered" in caplog.text
