from __future__ import annotations

import numpy as np

from trace_d2.evaluation.panoptic import summarize
from trace_d2.evaluation.tables import (
    category_table,
    comparison_table,
    quality_table,
)

COUNTS = np.array([[1.5, 2, 1, 3], [0, 0, 0, 0], [0, 0, 0, 0]])


def cells(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines() if not line.startswith("-")]


def test_quality_table_is_in_per_cent(categories):
    assert cells(quality_table(summarize(COUNTS, categories, 1))) == [
        ["PQ", "SQ", "RQ", "categories"],
        ["All", "37.5", "75.0", "50.0", "1"],
        ["Things", "37.5", "75.0", "50.0", "1"],
        ["Stuff", "-", "-", "-", "0"],
    ]


def test_category_table_lists_those_that_occur(categories):
    assert cells(category_table(summarize(COUNTS, categories, 1)))[1:] == [
        ["cat", "thing", "37.5", "75.0", "50.0", "2", "1", "3"]
    ]


def test_comparison_table(categories):
    results = {"TRACE": summarize(COUNTS, categories, 1)}
    assert cells(comparison_table(results)) == [
        ["PQ", "SQ", "RQ", "PQ^th", "PQ^st"],
        ["TRACE", "37.5", "75.0", "50.0", "37.5", "-"],
    ]


def test_nothing_occurs(categories):
    assert len(cells(category_table(summarize(np.zeros((3, 4)), categories, 0)))) == 1
