"""Loaders: the mapper by its name, transforms of batches."""

from __future__ import annotations

from detectron2.config import get_cfg

from trace_d2.config import add_trace_config
from trace_d2.data.tolerant_mapper import TolerantDatasetMapper
from trace_d2.engine.builders import BatchLoader, build_train_mapper


def test_batches_go_through_all_transforms_in_order():
    loader = BatchLoader(
        [[{"n": 1}], [{"n": 2}]],
        [
            lambda batch: [{"n": r["n"] + 1} for r in batch],
            lambda batch: [{"n": r["n"] * 10} for r in batch],
        ],
    )

    assert list(loader) == [[{"n": 20}], [{"n": 30}]]
    assert loader.last == [{"n": 30}]


def test_mapper_by_name():
    cfg = get_cfg()
    add_trace_config(cfg)
    cfg.INPUT.TRACE.MAPPER = "detectron2"
    assert isinstance(build_train_mapper(cfg), TolerantDatasetMapper)
