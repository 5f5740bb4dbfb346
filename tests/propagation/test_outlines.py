"""What edges mean beside outlines that are off."""

from __future__ import annotations

import numpy as np
import pytest

from trace_d2.propagation.calibration import EdgeCalibration
from trace_d2.propagation.outlines import OutlineStatistics, at_outlines, grid_stride

SIDE = 128  # a cell a pixel


def squares(rng: np.random.Generator, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """A map of a square on ground that is off by ``shift``, and true edges of strength 0.9."""
    y, x = (int(v) for v in rng.integers(30, 50, 2))
    semantic, edges = np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.float32)
    semantic[y + shift : y + 40 + shift, x : x + 40] = 1
    for row in (y, y + 40):
        edges[row, x : x + 41] = 0.9
    for column in (x, x + 40):
        edges[y : y + 41, column] = 0.9
    return semantic, edges


def counted(shift: int, false: float, reach: float = 5.0) -> OutlineStatistics:
    """Six maps whose edges have false ones of strength ``false`` everywhere, a grid of them."""
    total = OutlineStatistics()
    for seed in range(6):
        semantic, edges = squares(np.random.default_rng(seed), shift)
        if false:
            edges[::8] = np.maximum(edges[::8], false)
        total.add(semantic, edges, reach)
    return total


@pytest.mark.parametrize("shift", [0, 4])
def test_perfect_edges_are_trusted_though_outlines_are_off(shift: int) -> None:
    found = counted(shift, 0).calibrate()
    assert found.images == 6
    assert found.trust > 0.8
    assert np.exp(found(np.float32([[0.0, 0.9]])).log_odds)[0].tolist() == pytest.approx(
        [0, 1], abs=0.1
    )


def test_edges_that_are_as_dense_everywhere_say_nothing() -> None:
    false = counted(4, 0.5).calibrate()
    assert np.exp(false(np.float32([[0.5]])).log_odds).item() < 0.1
    assert np.exp(false(np.float32([[0.9]])).log_odds).item() > 0.7
    noise = OutlineStatistics()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        semantic, _ = squares(rng, 0)
        noise.add(semantic, rng.random((SIDE, SIDE)).astype(np.float32), 5.0)
    assert noise.calibrate().trust < 0.1


def test_the_share_near_outlines_by_hand() -> None:
    statistics = OutlineStatistics(near_cells=100, far_cells=200, outline=80, images=1)
    statistics.near[40], statistics.far[40] = 48, 18  # 9 of 48, and 2 of each more for prudence
    found = statistics.calibrate()
    assert np.exp(found.log_odds[-1]) == pytest.approx(1 - 11 / 50)
    assert found.trust == pytest.approx((50 - 11) * (1 - 11 / 50) / 80)
    assert found.log_odds[0] == -8


def test_counts_add_up_and_too_few_are_assumed() -> None:
    one, other = counted(0, 0), counted(4, 0.5)
    total = OutlineStatistics()
    total += one
    total += other
    assert (total.near == one.near + other.near).all()
    assert (total.images, total.outline) == (12, one.outline + other.outline)
    bare = OutlineStatistics()
    bare.add(np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.float32), 5.0)
    assert bare.images == 0
    assert bare.calibrate() == EdgeCalibration.assumed()


def test_a_calibration_inside_masks_becomes_one_at_outlines() -> None:
    inside = EdgeCalibration((0.0, 0.5, 1.0), (-8.0, -4.0, 0.0), -4.0, 0.5, 3)
    near = at_outlines(inside)
    # The odds are the likelihood ratio: 1 to 1 at the prior, e^4 to 1 at log-odds of 0.
    odds = np.exp([-4.0, 0.0, 4.0])
    assert np.exp(near.log_odds) == pytest.approx(odds / (1 + odds))
    assert (near.trust, near.images, near.prior) == (0.5, 3, 0.0)
    assert at_outlines(near) is near


def test_cells_are_four_pixels_in_a_photograph() -> None:
    assert grid_stride((480, 640)) == 4
    assert grid_stride((6000, 8000)) == 50
    assert grid_stride((24, 32)) == 1
