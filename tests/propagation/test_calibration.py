"""What strengths of edges mean: by hand, between the knots, and by masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from edge_statistics import BORDERS, PRIOR, RIDGES, at, halves, outlined, statistics_of, street
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_d2.propagation.calibration import _SURE, EdgeCalibration, EdgeStatistics, paint_masks


class TestByHand:
    def test_outlines_and_nothing_else(self):
        statistics = statistics_of(halves(), outlined(0.75))
        assert (statistics.outline[45], statistics.outline.sum()) == (100, 100)
        assert statistics.inside.sum() == 0
        # Without the outline itself and a column on either side of it.
        assert statistics.area == pytest.approx(0.97)
        assert statistics.images == 1
        calibration = statistics.calibrate()
        # An edge is met on outlines only: as likely as can be. None is met inside only.
        assert calibration.strengths == pytest.approx((0, 45.5 / 60))
        assert calibration.log_odds == (-8.0, 1.0)
        # Half of it for want of more cells than a hundred.
        assert calibration.trust == pytest.approx(0.5)
        assert calibration.images == 1

    def test_ridges_as_strong_as_outlines_are_a_crowd(self):
        edges = outlined(0.75)
        edges[:, [10, 20, 30, 80]] = 0.75
        statistics = statistics_of(halves(), edges)
        assert (statistics.inside[45], statistics.inside.sum()) == (4.0, 4.0)
        calibration = statistics.calibrate()
        # All four are found to be borders, and half of them believed.
        assert at(calibration, 45.5 / 60) == pytest.approx([math.log(0.5)], abs=1e-2)
        assert calibration.trust == pytest.approx(0.5, rel=1e-3)  # of so few cells
        assert calibration.prior == pytest.approx(math.log(0.5 * 4 / 0.97 / RIDGES), abs=1e-2)

    def test_more_ridges_inside_than_borders_could_be(self):
        edges = outlined(0.75)
        edges[:, 5:96:5] = 0.75
        statistics = statistics_of(halves(), edges)
        count = statistics.inside.sum()
        assert count > 12
        calibration = statistics.calibrate()
        log_odds = math.log(BORDERS / (count / statistics.area))
        assert at(calibration, 45.5 / 60) == pytest.approx([log_odds], abs=1e-2)
        assert calibration.prior == pytest.approx(PRIOR)

    def test_ridges_of_another_strength_do_not_matter(self):
        edges = outlined(0.75)
        edges[:, [10, 20, 30]] = 0.3
        calibration = statistics_of(halves(), edges).calibrate()
        assert at(calibration, 0, 18.5 / 60, 45.5 / 60) == pytest.approx([-8, -8, 1], abs=0.02)
        assert calibration.trust == pytest.approx(0.5)

    def test_no_edge_anywhere_says_what_was_known_before(self):
        calibration = statistics_of(halves(), np.zeros((100, 100))).calibrate()
        evidence = calibration(np.zeros((3, 4), np.float32))
        assert evidence.log_odds == pytest.approx(PRIOR, abs=1e-3)
        assert evidence.likelihood == pytest.approx(0, abs=1e-3)
        assert evidence.probability == pytest.approx(BORDERS / RIDGES, rel=1e-2)
        assert calibration.trust == 0
        assert calibration.prior == pytest.approx(PRIOR)

    def test_an_outline_counts_by_the_strongest_edge_near_it(self):
        edges = np.zeros((100, 100))
        edges[:50, 48] = 0.5
        edges[:, 52] = 0.9  # two columns away
        statistics = statistics_of(halves(), edges)
        assert {bin_: int(n) for bin_, n in enumerate(statistics.outline) if n} == {0: 48, 30: 52}

    def test_what_is_no_object_has_outlines_but_no_inside(self):
        edges = outlined(0.75)
        edges[:, 80] = 0.75
        statistics = EdgeStatistics()
        labels = halves()
        statistics.add(labels, labels == 1, edges.astype(np.float32))
        assert statistics.outline.sum() == 100
        assert statistics.inside.sum() == 0
        assert statistics.area == pytest.approx(0.48)

    def test_a_plateau_has_no_ridge(self):
        edges = np.full((100, 100), 0.75)
        assert statistics_of(halves(), edges).inside.sum() == 0

    @pytest.mark.parametrize(("left", "right"), [(-1, 1), (-1, -2)])
    def test_next_to_the_unknown_there_is_no_outline_and_no_inside(self, left, right):
        edges = outlined(0.75)
        edges[:, 50] = 0.5
        statistics = statistics_of(halves(left, right), edges)
        assert statistics.outline.sum() == 0
        assert statistics.inside.sum() == 0
        assert statistics.calibrate() == EdgeCalibration.assumed()

    def test_what_the_image_border_cuts_off_is_no_outline(self):
        statistics = statistics_of(np.ones((100, 100), int), np.zeros((100, 100)))
        assert statistics.outline.sum() == 0
        assert statistics.area == pytest.approx(1)

    def test_too_little_to_go_by(self):
        labels = np.ones((49, 100), int)
        labels[:, 50:] = 2
        assert statistics_of(labels, np.zeros((49, 100))).calibrate() == EdgeCalibration.assumed()
        labels = np.vstack([labels, labels[:1]])
        assert statistics_of(labels, np.zeros((50, 100))).calibrate().images == 1
        assert EdgeStatistics().calibrate() == EdgeCalibration.assumed()

    def test_outlines_without_an_inside(self):
        statistics = EdgeStatistics()
        statistics.add(halves(), np.zeros((100, 100), bool), np.zeros((100, 100), np.float32))
        assert statistics.calibrate() == EdgeCalibration.assumed()

    def test_more_borders_to_expect(self):
        calibration = EdgeCalibration((0.0, 0.5, 1.0), (-8.0, -3.0, 0.8), -4.0, 0.7, 3)
        more = calibration.expecting(2.0)
        two = math.log(2)
        assert more.log_odds == pytest.approx((-8 + two, -3 + two, 1.0))  # 1 is the most
        assert (more.prior, more.trust, more.images) == (pytest.approx(-4 + two), 0.7, 3)
        evidence = [c(np.full((2, 2), 0.5, np.float32)).likelihood for c in (calibration, more)]
        assert np.allclose(*evidence, atol=1e-3)  # what the edge itself says is the same

    def test_what_is_assumed(self):
        calibration = EdgeCalibration.assumed()
        assert (calibration.trust, calibration.images) == (1.0, 0)
        assert calibration.prior == pytest.approx(PRIOR)
        # Around a half, edges fade out.
        values = at(calibration, 0, 0.4, 0.5, 0.6, 1)
        assert values == pytest.approx([-8, -8, -1.2, 0, 1], abs=2e-3)
        probability = calibration(np.array([[0.5, 1.0]], np.float32)).probability
        assert probability[0] == pytest.approx([math.exp(-1.2), 1], abs=1e-3)


class TestEvidence:
    CALIBRATION = EdgeCalibration((0.2, 0.4, 0.8), (-5.0, -1.0, 0.5), -4.0, 0.7, 3)

    def test_log_odds_lie_on_lines_between_the_knots(self):
        values = at(self.CALIBRATION, 0, 0.2, 0.3, 0.4, 0.6, 0.8, 1)
        assert values == pytest.approx([-5, -5, -3, -1, -0.25, 0.5, 0.5], abs=1e-3)

    def test_a_crop_keeps_the_scale_of_the_image(self):
        edges = np.random.default_rng(0).random((40, 90), dtype=np.float32)
        whole = self.CALIBRATION(edges)
        assert (whole.scale, whole.trust, whole.prior) == (60, 0.7, -4)
        np.testing.assert_array_equal(whole.likelihood, whole.log_odds + 4)
        assert whole.log_odds.dtype == np.float32
        box = np.s_[5:20, 30:70]
        part = whole.crop(box)
        np.testing.assert_array_equal(part.log_odds, whole.log_odds[box])
        assert (part.scale, part.trust, part.prior) == (60, 0.7, -4)

    def test_double_precision_gives_the_same(self):
        edges = np.random.default_rng(0).integers(0, 65536, (30, 20)) / 65535
        np.testing.assert_array_equal(
            self.CALIBRATION(edges).log_odds, self.CALIBRATION(edges.astype(np.float32)).log_odds
        )

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.booleans())
    def test_stronger_edges_are_never_less_likely(self, seed, spread, sparse):
        rng = np.random.default_rng(seed)
        edges = rng.random((80, 90)) ** spread
        if sparse:
            edges *= rng.random((80, 90)) < 0.1
        labels = np.kron(rng.integers(-1, 4, (4, 5)), np.ones((20, 18), int))
        calibration = statistics_of(labels, edges).calibrate()
        assert (np.diff(calibration.strengths) > 0).all()
        assert (np.diff(calibration.log_odds) >= 0).all()
        assert -8 <= calibration.log_odds[0] <= calibration.log_odds[-1] <= 1
        assert 0 <= calibration.trust <= 1
        every = calibration(np.linspace(0, 1, 500, dtype=np.float32)[None]).log_odds[0]
        assert (np.diff(every) >= 0).all()


def prior_of(found: float) -> float:
    return math.log(max(BORDERS, _SURE * found) / RIDGES)


class TestHowManyBorders:
    """Edges that agree with each other say how many borders there are, part of which counts."""

    def test_ridges_as_strong_as_outlines_are_borders(self):
        edges = outlined(0.75)
        edges[:, 20] = 0.75
        calibration = statistics_of(halves(), edges).calibrate()
        assert calibration.prior == pytest.approx(prior_of(1 / 0.97))
        # An edge is believed as far as the borders are that were found.
        assert at(calibration, 45.5 / 60) == pytest.approx([math.log(_SURE)], abs=1e-2)
        assert calibration.trust == pytest.approx(0.5, rel=1e-3)

    def test_ridges_that_no_outline_has_do_not_count(self):
        edges = outlined(0.75)
        edges[:, 20] = 0.75
        edges[:, [10, 30, 70, 80, 90]] = 0.3
        calibration = statistics_of(halves(), edges).calibrate()
        assert calibration.prior == pytest.approx(prior_of(1 / 0.97))

    @pytest.mark.parametrize(("columns", "agree"), [([10], True), ([10, 30], False)])
    def test_edges_that_are_more_frequent_the_weaker_they_are_disagree(self, columns, agree):
        # Half of the outline is strong, and a quarter of its length inside is. All edges together
        # are two and a half times as frequent as those, or four and a half times.
        edges = outlined(0.75)
        edges[50:, 49] = 0.3
        edges[:25, 20] = 0.75
        edges[:, columns] = 0.3
        calibration = statistics_of(halves(), edges).calibrate()
        borders = (0.25 + len(columns)) / 0.97 if agree else 0
        assert calibration.prior == pytest.approx(prior_of(borders), rel=0.02)

    def test_there_are_never_fewer_than_usual(self):
        edges = outlined(0.75)
        edges[:10, 20] = 0.75
        calibration = statistics_of(halves(), edges).calibrate()
        assert calibration.prior == pytest.approx(PRIOR)

    def test_what_stuff_has_as_well_is_no_border(self):
        priors = []
        for strength in (0.0, 0.75):
            edges = outlined(0.75)
            edges[:, 20], edges[:, 80] = 0.75, strength
            statistics, labels = EdgeStatistics(), halves()
            statistics.add(labels, labels == 1, edges.astype(np.float32), labels == 2)
            assert statistics.stuff.sum() == (strength > 0)
            assert statistics.stuff_area == pytest.approx(0.49)
            priors.append(statistics.calibrate().prior)
        assert priors == pytest.approx([prior_of(1 / 0.48), PRIOR])


def measured(masks: np.ndarray, edges: np.ndarray) -> EdgeCalibration:
    """The calibration of one image by its masks."""
    statistics = EdgeStatistics()
    statistics.add_masks(masks, edges)
    return statistics.calibrate()


class TestMasks:
    def test_the_smallest_mask_is_on_top(self):
        masks = np.zeros((3, 4, 6), bool)
        masks[0, 1:3, 1:3] = masks[1, :, :5] = masks[2, 2, 2:4] = True
        assert paint_masks(masks, (4, 6)).tolist() == [
            [2, 2, 2, 2, 2, 0], [2, 1, 1, 2, 2, 0], [2, 1, 3, 3, 2, 0], [2, 2, 2, 2, 2, 0],
        ]  # fmt: skip
        assert not paint_masks([], (4, 6)).any()

    def test_outlines_of_masks_and_insides_of_them(self):
        labels, edges = street(0)
        masks = np.stack([labels == number for number in range(1, 5)])
        assert measured(masks, edges) == statistics_of(labels, edges).calibrate()
        assert measured(masks[:0], edges) == EdgeCalibration.assumed()

    def test_outlines_of_classes_and_insides_of_things(self):
        semantic = np.zeros((100, 100), np.uint8)
        semantic[:, 40:] = 5
        semantic[:, 80:] = 200
        semantic[:50, 95:] = 255
        edges = np.zeros((100, 100), np.float32)
        edges[:, 39], edges[:, 79], edges[:50, 94] = 0.25, 0.75, 1.0
        edges[:, 10] = edges[:, 60] = 0.5
        found = EdgeStatistics()
        found.add_semantic(semantic, {0: False, 5: True, 200: False}, edges)
        # Stuff has outlines like any other class, the unknown has none; ridges count in things.
        assert {n: int(count) for n, count in enumerate(found.outline) if count} == {
            15: 100, 45: 100,
        }  # fmt: skip
        assert {n: count for n, count in enumerate(found.inside) if count} == {30: 1.0}
        assert found.area == pytest.approx(0.38, abs=0.011)
        assert found.stuff[30] == 1
        assert found.stuff[1:].sum() == 1
        assert found.stuff_area == pytest.approx(0.39 + 0.16, abs=0.03)
