"""The benchmark's rows about edge scores."""

from __future__ import annotations


def test_a_row_says_that_the_counts_are_the_same(load_tool) -> None:
    rows = load_tool("benchmark_edges").edge_metric_rows(((32, 40),), repeats=1)
    assert len(rows) == 1
    assert rows[0][0] == "edge scores, 40 x 32, 99 thresholds"
    assert rows[0][-1] == "0.0e+00"
