"""Loaders: transforms of batches."""

from __future__ import annotations

from trace_d2.engine.builders import BatchLoader


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
