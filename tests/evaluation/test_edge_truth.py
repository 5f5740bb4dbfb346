"""Boundaries of panoptic maps."""

from __future__ import annotations

import numpy as np
import pytest

from trace_d2.data.oracle import boundaries
from trace_d2.data.scenes import make_scene
from trace_d2.evaluation import truth_boundaries
from trace_d2.evaluation.edge_thinning import thin


def test_a_straight_boundary_is_one_line_and_the_frame_none() -> None:
    ids = np.full((6, 8), 70000, np.int32)
    ids[:, 5:] = 3
    expected = np.zeros((6, 8), bool)
    expected[:, 4] = True
    np.testing.assert_array_equal(truth_boundaries(ids), expected)
    assert not truth_boundaries(np.full((6, 8), 9)).any()


def test_they_are_the_thinned_oracle_edges() -> None:
    for index in range(3):
        ids = make_scene(5, index, (96, 96)).segment_ids
        truth = truth_boundaries(ids)
        np.testing.assert_array_equal(truth, thin(boundaries(ids) > 0))
        assert truth.any()


def test_void() -> None:
    """A strip of void parts two segments below; above, they touch."""
    ids = np.ones((12, 9), np.int32)
    ids[:, 5:] = 2
    ids[6:, 4:6] = 0
    counted, ignored = truth_boundaries(ids), truth_boundaries(ids, void="ignore")
    assert ignored[:5, 4].all()
    assert not ignored[7:].any()
    assert counted[8].tolist() == [c in (3, 5) for c in range(9)]
    with pytest.raises(ValueError, match="choose one of count, ignore"):
        truth_boundaries(ids, void="edge")


@pytest.mark.parametrize("ids", [np.zeros((2, 3)), np.zeros((2, 3, 3), np.uint8)])
def test_not_a_map_of_ids(ids) -> None:
    with pytest.raises(ValueError, match="integers"):
        truth_boundaries(ids)
