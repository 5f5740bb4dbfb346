from __future__ import annotations

import math

import numpy as np
import pytest

from trace_d2.propagation.borders import Borders, measure_borders, merge_shallow
from trace_d2.propagation.regions import _TRUSTED, _UNTRUSTED, BorderMerger


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


def merger_of(
    table: Borders, area: list, peak: list, edges: list, trust: float = 1.0, scale: float = 50.0
) -> BorderMerger:
    """Of regions 1, 2, ...; the 0 outside has an area, too."""
    columns = (np.array([0, *values], float) for values in (area, peak, edges))
    return BorderMerger(table, *columns, trust, scale)


def test_coefficients_say_what_makes_a_border_likely():
    for _, evidence, neck, shortness, length, texture in (_TRUSTED, _UNTRUSTED):
        assert evidence > 0
        assert neck < 0
        assert shortness >= 0
        assert length > 0
        assert texture < 0
    assert _TRUSTED[1] > _UNTRUSTED[1]


@pytest.mark.parametrize("trust", [0.0, 0.3, 1.0])
def test_log_odds_by_hand(trust):
    table = borders((1, 2, 10, 24, 1))
    merger = merger_of(table, [100, 400], [4, 8], [21, 40.5], trust)
    # Evidence 24 / (10 + 2); neck 1 of the lower peak 4; length 10 to a side of 10, and ten times
    # it to an image of 50; texture 21 / (100 + 5) rather than 40.5 / (400 + 5).
    known = [1, 2, 0.25, 0, math.log(2), 0.2]
    expected = sum(w * k for w, k in zip(merger.weights, known, strict=True))
    assert merger.cost(1, 2) == pytest.approx(expected)
    assert merger.cost(2, 1) == merger.cost(1, 2)
    # Four times the smaller area: shortness -log 2, and a texture of 0.1.
    merger = merger_of(table, [400, 400], [4, 8], [21, 40.5], trust)
    known[3], known[5] = -math.log(2), 0.1
    expected = sum(w * k for w, k in zip(merger.weights, known, strict=True))
    assert merger.cost(1, 2) == pytest.approx(expected)


def test_trust_leads_from_one_set_of_coefficients_to_the_other():
    table = borders((1, 2, 1, 0, 0))
    ways = []
    for trust in np.linspace(0, 1, 11):
        weights = merger_of(table, [1, 1], [1, 1], [0, 0], float(trust)).weights
        way = [(w - u) / (t - u) for w, u, t in zip(weights, _UNTRUSTED, _TRUSTED, strict=True)]
        assert way == pytest.approx([way[0]] * len(way))
        ways.append(way[0])
    assert ways[0] == pytest.approx(0)
    assert ways[-1] == pytest.approx(1)
    assert (np.diff(ways) >= -1e-9).all()


def test_regions_without_a_peak_are_measured():
    merger = merger_of(borders((1, 2, 1, 1, 0)), [1, 1], [0, 0], [1, 1])
    assert math.isfinite(merger.cost(1, 2))


def parts_of(labels: np.ndarray) -> set[frozenset[int]]:
    """The regions that became one, by the label they share."""
    shared: dict[int, set[int]] = {}
    for region, label in enumerate(labels.tolist()):
        if region:
            shared.setdefault(label, set()).add(region)
    return {frozenset(part) for part in shared.values()}


def test_merging_takes_the_unlikely_borders_only():
    likely, unlikely = (40.0, 200.0, 0.0), (4.0, -20.0, 9.0)
    table = borders((1, 2, *likely), (2, 3, *unlikely), (3, 4, *likely))
    merger = merger_of(table, [900] * 4, [10] * 4, [0] * 4)
    assert merger.cost(1, 2) > 0 > merger.cost(2, 3)
    assert parts_of(merger.merge()) == {frozenset({1}), frozenset({2, 3}), frozenset({4})}


def test_what_joins_is_measured_anew():
    # 1 and 2 join; the border of both with 3 is longer, and as open as its wider pass.
    table = borders((1, 2, 4, -20, 9), (1, 3, 30, 150, 1), (2, 3, 20, 30, 5))
    merger = merger_of(table, [900, 400, 2500], [20, 10, 20], [9, 4, 50])
    labels = merger.merge()
    assert parts_of(labels) == {frozenset({1, 2}), frozenset({3})}
    joined = merger_of(borders((1, 2, 50, 180, 5)), [1300, 2500], [20, 20], [13, 50])
    assert merger.cost(labels[1], 3) == pytest.approx(joined.cost(1, 2))


def merge_naively(
    table: Borders, area: list, peak: list, edges: list, trust: float
) -> set[frozenset[int]]:
    """Join the least likely border and measure all borders again, until none is unlikely."""
    parts = {n + 1: {n + 1} for n in range(len(area))}
    rows = {
        tuple(pair): (length, strength, height)
        for pair, length, strength, height in zip(
            table.pairs.tolist(), table.length, table.strength, table.height, strict=True
        )
    }
    while rows:
        names = sorted(parts)
        number = {name: rank + 1 for rank, name in enumerate(names)}
        pairs = sorted(rows)
        again = borders(*((number[a], number[b], *rows[a, b]) for a, b in pairs))
        members = [[n - 1 for n in parts[name]] for name in names]
        merger = merger_of(
            again,
            [sum(area[n] for n in part) for part in members],
            [max(peak[n] for n in part) for part in members],
            [sum(edges[n] for n in part) for part in members],
            trust,
        )
        odds = [merger.cost(number[a], number[b]) for a, b in pairs]
        if min(odds) >= 0:
            break
        keep, gone = pairs[int(np.argmin(odds))]
        parts[keep] |= parts.pop(gone)
        old, rows = rows, {}
        for pair, row in old.items():
            a, b = sorted(keep if name == gone else name for name in pair)
            if a != b:
                other = rows.get((a, b), (0.0, 0.0, 0.0))
                rows[a, b] = (row[0] + other[0], row[1] + other[1], max(row[2], other[2]))
    return {frozenset(part) for part in parts.values()}


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_merging_equals_joining_one_border_after_the_other(seed, trust):
    rng = np.random.default_rng(seed)
    count = 9
    pairs = [(a, b) for a in range(1, count + 1) for b in range(a + 1, count + 1)]
    chosen = [pair for pair in pairs if rng.random() < 0.4]
    area, peak = rng.integers(20, 900, count).tolist(), rng.uniform(3, 15, count).tolist()
    edges = (rng.random(count) * 0.3 * np.array(area)).tolist()
    rows = [
        (a, b, length, length * rng.normal(0, 3), rng.uniform(0, 3))
        for (a, b), length in zip(chosen, rng.integers(1, 40, len(chosen)).tolist(), strict=True)
    ]
    table = borders(*rows)
    found = parts_of(merger_of(table, area, peak, edges, trust).merge())
    assert found == merge_naively(table, area, peak, edges, trust)
