"""Edge counts and scores on cases with known answers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain.edge_metrics import edge_counts_plainly

from trace_d2.evaluation import EdgeCounts, edge_counts, edge_scores, truth_boundaries
from trace_d2.evaluation.edge_metrics import (
    THRESHOLDS,
    average_precision,
    even_thresholds,
    f_measure,
)

SIZE = (30, 40)  # its diagonal is 50
TWO = np.array([0.25, 0.75])


def line(column: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[:, column] = True
    return mask


def made(matched, predictions, truth, inside=None, truth_inside=None) -> EdgeCounts:
    """Counts at the thresholds of ``TWO``."""
    arrays = [matched, predictions, inside or matched, truth_inside or matched]
    m, p, i, t = (np.array(values) for values in arrays)
    return EdgeCounts(m, p, truth, i, t, TWO)


def test_thresholds_are_those_of_bsds() -> None:
    np.testing.assert_allclose(even_thresholds(99), THRESHOLDS, rtol=1e-12)
    assert even_thresholds(1).tolist() == [0.5]
    with pytest.raises(ValueError, match="one threshold at least"):
        even_thresholds(0)


@pytest.mark.parametrize(("shift", "found"), [(0, 30), (2, 30), (3, 0)])
def test_a_shifted_line(shift, found) -> None:
    counts = edge_counts(line(10 + shift).astype(np.float32), line(10), max_distance=2.2 / 50)
    assert (counts.matched == found).all()
    assert (counts.predictions == 30).all()
    assert counts.truth == 30
    scores = edge_scores([counts])
    perfect = float(found == 30)
    assert (scores.ods, scores.ois, scores.cldice) == (perfect, perfect, perfect)
    assert math.isnan(scores.ap)  # one point is no curve


def test_strengths_are_cut_at_the_threshold_itself() -> None:
    edges = np.zeros(SIZE, np.float32)
    edges[:, 10], edges[:, 30] = 0.5, 0.3
    counts = edge_counts(edges, line(10), max_distance=0.02)
    at = {round(t, 2): i for i, t in enumerate(THRESHOLDS)}
    assert counts.predictions[[at[0.3], at[0.31], at[0.5], at[0.51]]].tolist() == [60, 30, 30, 0]
    assert counts.matched[[at[0.3], at[0.31], at[0.5], at[0.51]]].tolist() == [30, 30, 30, 0]
    scores = edge_scores([counts])
    assert (scores.ods, scores.ods_threshold) == (1, pytest.approx(0.31))  # of 0.31 ... 0.5
    assert counts.to_dict()["best_threshold"] == 0.5


def test_thick_edges_are_thinned_before_matching() -> None:
    edges = (line(9) | line(10) | line(11)).astype(np.float32)
    counts = edge_counts(edges, line(10), max_distance=0.02)
    assert counts.predictions[0] <= 30
    assert counts.matched[0] == counts.predictions[0] >= 28
    assert counts.truth_inside[0] == 30


def test_empty_maps_do_not_divide() -> None:
    empty = np.zeros(SIZE, bool)
    nothing = edge_scores([edge_counts(empty.astype(np.float32), empty)])
    assert (nothing.ods, nothing.ois, nothing.cldice) == (1, 1, 1)
    missed = edge_scores([edge_counts(empty.astype(np.float32), line(3))])
    false = edge_scores([edge_counts(line(3).astype(np.float32), empty)])
    for scores in (missed, false):
        assert (scores.ods, scores.ois, scores.cldice, scores.cldice_half) == (0, 0, 0, 0)
        assert math.isnan(scores.ap)
        assert scores.to_dict()["ap"] is None
        json.dumps(scores.to_dict(), allow_nan=False)


def test_scores_by_hand() -> None:
    # Image a is best at 0.75 (F 8/10), b at 0.25 (F 12/14); at 0.25 both together have F 20/32.
    a = made(matched=[4, 4], predictions=[13, 5], truth=5)
    b = made(matched=[6, 2], predictions=[7, 2], truth=7)
    scores = edge_scores([a, b])
    assert a.f_measure.tolist() == pytest.approx([8 / 18, 8 / 10])
    assert (a.best, b.best) == (1, 0)
    assert scores.f.tolist() == pytest.approx([20 / 32, 12 / 19])
    # Between the two points, as in BSDS.
    shares = np.linspace(0, 1, 100)
    p, r = 10 / 20 + (6 / 7 - 10 / 20) * shares, 10 / 12 + (6 / 12 - 10 / 12) * shares
    best = int(np.argmax(2 * p * r / (p + r)))
    assert scores.ods == pytest.approx(float(np.max(2 * p * r / (p + r))))
    assert scores.ods > scores.f.max()
    assert scores.ods_threshold == pytest.approx(0.25 + 0.5 * shares[best])
    assert scores.ois == pytest.approx(2 * (4 + 6) / (5 + 7 + 12))
    assert scores.precision.tolist() == pytest.approx([10 / 20, 6 / 7])
    assert scores.recall.tolist() == pytest.approx([10 / 12, 6 / 12])
    # Read off at 0.50, 0.51, ..., 0.83, on the line between the two points.
    line_between = [6 / 7 + (r / 100 - 0.5) / (1 / 3) * (1 / 2 - 6 / 7) for r in range(50, 84)]
    assert scores.ap == pytest.approx(sum(line_between) / 100)
    assert scores.images == 2


def test_average_precision_of_known_curves() -> None:
    recall = np.linspace(0, 1, 5)
    assert average_precision(np.ones(5), recall) == pytest.approx(1.01)
    assert average_precision(1 - recall, recall) == pytest.approx(0.505)
    assert average_precision(np.ones(2), np.array([0, 0.5])) == pytest.approx(0.51)
    # Of two points of one recall the more precise one counts, in whichever order they come.
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        precision, ends = np.array([1, 0, 1.0])[order], np.array([0, 1, 1.0])[order]
        assert average_precision(precision, ends) == pytest.approx(1.01)


def test_of_equal_thresholds_the_lowest_counts_for_ods_and_the_highest_for_ois() -> None:
    one = made(matched=[6, 6], predictions=[8, 8], truth=10)
    scores = edge_scores([one])
    assert (scores.ods, scores.ods_threshold) == (pytest.approx(12 / 18), 0.25)
    assert one.best == 1


def max_f_as_in_bsds(thresholds, recall, precision):
    """maxF of the benchmark's code, line by line."""

    def f_measure(r, p):
        return 2 * p * r / (p + r + ((p + r) == 0))

    best_t, best_f = thresholds[0], f_measure(recall[0], precision[0])
    for i in range(1, len(thresholds)):
        for d in np.linspace(0, 1, 100):
            r = recall[i] * d + recall[i - 1] * (1 - d)
            p = precision[i] * d + precision[i - 1] * (1 - d)
            if f_measure(r, p) > best_f + 1e-12:
                best_t, best_f = thresholds[i] * d + thresholds[i - 1] * (1 - d), f_measure(r, p)
    return best_f, best_t


def test_ods_is_that_of_bsds_on_any_curve() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        predictions = np.sort(rng.integers(0, 60, 9))[::-1]
        matched = (predictions * rng.random(9)).astype(int)
        one = EdgeCounts(matched, predictions, 60, matched, matched, even_thresholds(9))
        scores = edge_scores([one])
        expected = max_f_as_in_bsds(one.thresholds, scores.recall, scores.precision)
        assert (scores.ods, scores.ods_threshold) == pytest.approx(expected)


def test_pooled_ois_may_fall_below_ods() -> None:
    """Image b gains one pixel at the cost of a hundred: its own F rises, the sum's does not."""
    a = made(matched=[50, 50], predictions=[50, 50], truth=50)
    b = made(matched=[1, 0], predictions=[100, 0], truth=10)
    scores = edge_scores([a, b])
    assert scores.ods == pytest.approx(100 / 110)
    assert scores.ois == pytest.approx(102 / 210)


def test_an_image_without_edges_takes_the_threshold_of_fewest_false_ones() -> None:
    assert made(matched=[0, 0], predictions=[9, 0], truth=0).best == 1
    assert made(matched=[0, 0], predictions=[9, 3], truth=0).best == 1


def test_cldice_by_hand() -> None:
    """A line found over two thirds, with an equally long one far away; no tolerance."""
    edges = np.zeros(SIZE, np.float32)
    edges[:20, 10], edges[10:, 30] = 1, 1
    counts = edge_counts(edges, line(10), cldice_distance=0)
    assert (counts.skeleton_inside[0], counts.predictions[0], counts.truth_inside[0]) == (
        20,
        40,
        20,
    )
    assert edge_scores([counts]).cldice == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))


def test_cldice_widens_by_the_tolerance() -> None:
    shifted = line(12).astype(np.float32)
    assert edge_scores([edge_counts(shifted, line(10), cldice_distance=0)]).cldice == 0
    assert edge_scores([edge_counts(shifted, line(10), cldice_distance=2 / 50)]).cldice == 1
    # The predicted mask counts as thick as it is: the truth lies in it, its skeleton does not.
    thick = np.zeros(SIZE, np.float32)
    thick[:, 10:21] = 1
    counts = edge_counts(thick, line(10), cldice_distance=0)
    assert counts.truth_inside[0] == 30
    assert counts.skeleton_inside[0] < 5


def test_cldice_is_reported_at_one_half_too() -> None:
    edges = np.where(line(10), 0.4, 0).astype(np.float32)
    scores = edge_scores([edge_counts(edges, line(10))])
    assert (scores.cldice, scores.cldice_half) == (1, 0)
    assert scores.cldice_threshold == pytest.approx(0.4)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(2, 32), st.integers(2, 32)),
    levels=st.sampled_from([2, 5, 1000]),
    distance=st.sampled_from([0.0, 0.0075, 0.05, 0.12]),
)
def test_counts_equal_the_plain_ones(seed, size, levels, distance) -> None:
    rng = np.random.default_rng(seed)
    edges = (np.floor(rng.random(size) * levels) / (levels - 1)).clip(0, 1).astype(np.float32)
    truth = truth_boundaries(
        rng.integers(0, 3, (size[0] // 2 + 1, size[1] // 2 + 1))
        .repeat(2, 0)
        .repeat(2, 1)[: size[0], : size[1]]
    )
    thresholds = even_thresholds(19)
    counts = edge_counts(edges, truth, thresholds=thresholds, max_distance=distance)
    expected = edge_counts_plainly(edges, truth, thresholds, distance)
    found = (counts.matched, counts.predictions, counts.skeleton_inside, counts.truth_inside)
    np.testing.assert_array_equal(np.stack(found), expected)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.tuples(st.integers(0, 9), st.integers(0, 9))] * 2, st.integers(9, 20)),
        min_size=1,
        max_size=6,
    )
)
def test_scores_lie_in_their_range(rows) -> None:
    counts = [
        made([m for m, _ in pair], [m + extra for m, extra in pair], truth) for *pair, truth in rows
    ]
    scores = edge_scores(counts)
    assert 0 <= scores.ods <= 1
    assert 0 <= scores.ois <= 1
    assert math.isnan(scores.ap) or 0 <= scores.ap <= 1.01 + 1e-9
    assert scores.ods >= scores.f.max() - 1e-12
    # What does hold for own thresholds: the mean F of the images is the largest there.
    own = np.mean([one.f_measure.max() for one in counts])
    assert own >= np.mean([one.f_measure for one in counts], axis=0).max() - 1e-12
    if len(counts) == 1:
        assert scores.ois == scores.f.max()


def test_ois_is_no_less_than_ods_where_images_differ_in_strength_only() -> None:
    """The same edges at half the strength: each image has a perfect threshold, no one has both."""
    strong, weak = np.zeros((2, *SIZE), np.float32)
    strong[:, 10], strong[:, 30] = 0.9, 0.6
    weak[:, 10], weak[:, 30] = 0.45, 0.3
    scores = edge_scores([edge_counts(edges, line(10)) for edges in (strong, weak)])
    assert scores.ois == 1
    assert scores.ods == pytest.approx(2 * 60 / (90 + 60))


def test_f_of_arrays() -> None:
    expected = [1.0, 0.0, 0.5]
    assert f_measure(np.array([0, 0, 1]), np.array([0, 3, 2]), np.array([0, 0, 2])).tolist() == (
        expected
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": np.zeros((3, 4), np.float32)}, "edges of .3, 4. for a truth of .30, 40."),
        ({"edges": np.full(SIZE, np.nan)}, "NaN"),
        ({"truth": np.zeros(SIZE, int)}, "bool map, not int64"),
        ({"thresholds": np.array([0.5, 0.5])}, "each of them once"),
        ({"thresholds": np.array([])}, "one at least"),
        ({"thresholds": np.array([0.0, 0.5])}, "0, 1"),
        ({"max_distance": -0.1}, "share of the diagonal"),
        ({"cldice_distance": 1.5}, "share of the diagonal"),
    ],
)
def test_bad_input(change, message) -> None:
    inputs = {"edges": np.zeros(SIZE, np.float32), "truth": line(3)} | change
    with pytest.raises(ValueError, match=message):
        edge_counts(inputs.pop("edges"), inputs.pop("truth"), **inputs)


def test_counts_that_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="no image"):
        edge_scores([])
    other = edge_counts(np.zeros(SIZE, np.float32), line(3))
    with pytest.raises(ValueError, match="different thresholds"):
        edge_scores([made([1, 1], [1, 1], 1), other])
