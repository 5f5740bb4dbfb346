"""The mapper rows of tools/benchmarks/benchmark.py at small size."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")
pytestmark = pytest.mark.detectron2


def test_rows_compare_equal_results(load_tool) -> None:
    rows = load_tool("benchmark_mapper").mapper_rows(2, 32, repeats=1)
    assert len(rows) == 3
    for name, ours, plain, ratio, apart in rows:
        assert name.startswith("mapper, 32 x 32")
        assert float(ours.removesuffix(" images/s")) > 0
        assert float(plain.removesuffix(" images/s")) > 0
        assert ratio.endswith(" x")
        assert float(apart) == 0
