"""Boundaries of panoptic maps."""

from __future__ import annotations

import numpy as np
import pytest

from trace_d2.evaluation import truth_boundaries
from trace_d2.evaluation.edge_pixels import thin
from trace_d2.evaluation.edges import thing_instances
from trace_d2.scenes.oracle import boundaries
from trace_d2.scenes.procedural import make_scene


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


def bands(*ids: int) -> np.ndarray:
    """Upright bands, four pixels wide: band k ends at column 4 k + 3."""
    return np.tile(np.repeat(ids, 4), (10, 1))


@pytest.mark.parametrize(
    ("kind", "void", "columns"),
    [
        ("panoptic", "count", [3, 7, 11, 15, 19, 23]),
        ("panoptic", "ignore", [3, 7, 11]),
        ("things", "count", [7, 11, 15]),
        ("things", "ignore", [7, 11]),
    ],
)
def test_kinds(kind, void, columns) -> None:
    """Stuff 1, stuff 2, thing 3, thing 4, void, stuff 5, void; the frame comes next."""
    truth = truth_boundaries(bands(1, 2, 3, 4, 0, 5, 0), void, kind, {3, 4})
    expected = np.zeros((10, 28), bool)
    expected[:, columns] = True
    np.testing.assert_array_equal(truth, expected)


def test_outlines_of_things() -> None:
    """The line between two segments of stuff stops at the thing that lies on it."""
    ids = np.ones((12, 12), np.int32)
    ids[:, 6:] = 2
    ids[4:8, 3:9] = 3
    expected = np.zeros((12, 12), bool)
    expected[4:8, 2] = expected[4:8, 8] = True
    expected[3, 3:9] = expected[7, 3:9] = True
    np.testing.assert_array_equal(truth_boundaries(ids, kind="things", things=[3]), thin(expected))
    assert truth_boundaries(ids)[:3, 5].all()
    assert not truth_boundaries(ids, kind="things", things=[]).any()
    # Where all segments are things, both kinds are the same.
    every = truth_boundaries(ids, kind="things", things=[1, 2, 3])
    np.testing.assert_array_equal(every, truth_boundaries(ids))


def test_unknown_kinds_and_missing_things() -> None:
    with pytest.raises(ValueError, match="choose one of panoptic, things"):
        truth_boundaries(bands(1, 2), kind="stuff")
    with pytest.raises(ValueError, match="give things"):
        truth_boundaries(bands(1, 2), kind="things")


def test_crowds_and_stuff_are_no_instances() -> None:
    segments = [
        {"id": 3, "isthing": 1, "iscrowd": 0},
        {"id": 4, "isthing": True},
        {"id": 5, "isthing": 1, "iscrowd": 1},
        {"id": 6, "isthing": 0, "iscrowd": 0},
    ]
    assert thing_instances(segments) == {3, 4}


@pytest.mark.parametrize("ids", [np.zeros((2, 3)), np.zeros((2, 3, 3), np.uint8)])
def test_not_a_map_of_ids(ids) -> None:
    with pytest.raises(ValueError, match="integers"):
        truth_boundaries(ids)
