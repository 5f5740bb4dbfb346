from __future__ import annotations

import numpy as np
import pytest

from trace_d2.propagation.borders import BorderMerger, Borders, measure_borders, merge_shallow
from trace_d2.propagation.regions import edge_width


def borders(*rows: tuple[int, int, float, float, float]) -> Borders:
    """Borders from rows of (label, label, length, summed strength, height)."""
    table = np.array(rows)
    return Borders(table[:, :2].astype(np.int64), table[:, 2], table[:, 3], table[:, 4])


def test_measure_borders_by_hand():
    regions = np.array([[1, 1, 2], [1, 3, 2], [0, 3, 2]], np.int32)
    edges = np.array([[0, 0.5, 1], [0, 0.25, 0], [1, 0, 0]], np.float32)
    height = np.array([[9, 3, 1], [9, 4, 2], [9, 9, 9]], np.float32)
    result = measure_borders(regions, edges, height)
    assert result.pairs.tolist() == [[1, 2], [1, 3], [2, 3]]
    # 1|2 faces once; 1|3 from the left and from above; 2|3 twice. The 0 faces nobody.
    assert result.length.tolist() == [1, 2, 2]
    assert result.strength.tolist() == [1.0, 0.75, 0.25]
    assert result.height.tolist() == [1, 4, 9]


def test_measure_borders_of_one_region():
    result = measure_borders(np.ones((2, 2), np.int32), np.ones((2, 2)), np.ones((2, 2)))
    assert result.pairs.shape == (0, 2)
    assert result.length.shape == (0,)


def test_merge_shallow_is_the_h_maxima_filter():
    # A chain of peaks 5, 3, 6 with passes 4 and 1.5, as on a line of heights 5 4 3 1.5 6 ...
    peaks = np.array([0, 5, 3, 6])
    chain = borders((1, 2, 1, 0, 2.0), (2, 3, 1, 0, 1.5))
    # Depth of region 2 above its pass to 1 is 1; then 1+2 (peak 5) rises 3.5 above the next pass.
    assert merge_shallow(chain, peaks, 0.5).tolist() == [0, 1, 2, 3]
    assert merge_shallow(chain, peaks, 2.0).tolist() == [0, 1, 1, 3]
    assert merge_shallow(chain, peaks, 4.0).tolist() == [0, 3, 3, 3]


def test_merge_shallow_never_joins_across_an_edge():
    walled = borders((1, 2, 1, 0, 0.0))
    assert merge_shallow(walled, np.array([0, 1, 1]), 50.0).tolist() == [0, 1, 2]


def merge(table: Borders, area: list, strength: list, evidence: float, contrast: float) -> list:
    merger = BorderMerger(table, np.array(area, float), np.array(strength, float), evidence)
    return merger.merge(contrast).tolist()


def test_border_counts_by_its_contrast_with_the_regions():
    table = borders((1, 2, 10, 6, 0))  # mean strength 0.6
    assert merge(table, [1, 100, 100], [0, 0, 10], 0, 0.49) == [0, 1, 2]  # 0.6 - 0.1
    assert len(set(merge(table, [1, 100, 100], [0, 0, 10], 0, 0.51)[1:])) == 1
    assert len(set(merge(table, [1, 100, 100], [0, 0, 40], 0, 0.49)[1:])) == 1


def test_short_border_needs_more_contrast():
    short, long = borders((1, 2, 4, 4, 0)), borders((1, 2, 40, 40, 0))
    for table, parts in ((short, 1), (long, 2)):
        assert len(set(merge(table, [1, 100, 100], [0, 0, 0], 4, 0.5)[1:])) == parts


def test_merging_measures_the_joint_border():
    # 1 and 2 join first (0 between them); their common border with 3 is (1 + 9) / 20.
    table = borders((1, 2, 10, 0, 0), (1, 3, 10, 1, 0), (2, 3, 10, 9, 0))
    parts = merge(table, [1, 50, 50, 50], [0] * 4, 0, 0.45)
    assert parts[1] == parts[2] != parts[3]
    assert len(set(merge(table, [1, 50, 50, 50], [0] * 4, 0, 0.55)[1:])) == 1


@pytest.mark.parametrize("width", [1, 4, 9])
def test_edge_width(width):
    edges = np.zeros((200, 100))
    edges[:, 40 : 40 + width] = 1
    assert edge_width(edges) == pytest.approx(width)
    assert edge_width(np.zeros((3, 3))) == 1
