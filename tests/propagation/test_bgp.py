from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_d2.config import get_trace_cfg
from trace_d2.propagation import (
    BgpSettings,
    BoundaryGuidedPropagation,
    boundary_guided_propagation,
)
from trace_d2.propagation.calibration import EdgeCalibration
from trace_d2.propagation.grid import grid_size, pool, pool_labels, upsample


def _two_halves(gap: slice | None = None) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((1, 48, 64), bool)
    mask[0, 4:44, 4:60] = True
    edges = np.zeros((48, 64), np.float32)
    edges[:, 31:33] = 1
    if gap is not None:
        edges[gap, 31:33] = 0
    return mask, edges


def test_an_edge_splits_a_mask_in_two_and_the_halves_share_its_pixels():
    mask, edges = _two_halves()
    found = boundary_guided_propagation(mask, edges)
    assert found.masks.shape == (2, 48, 64)
    np.testing.assert_array_equal(found.masks.sum(0), mask[0])
    assert found.masks[0, 4:44, 4:31].all()
    assert found.masks[1, 4:44, 33:60].all()
    np.testing.assert_array_equal(found.sources, [0, 0])


def test_no_edge_leaves_the_mask_alone():
    mask, edges = _two_halves()
    found = boundary_guided_propagation(mask, np.zeros_like(edges))
    np.testing.assert_array_equal(found.masks, mask)


def test_one_mask_twice_is_one_set_of_instances_with_the_higher_score():
    mask, edges = _two_halves()
    both = np.concatenate([mask, mask])
    found = boundary_guided_propagation(both, edges, np.array([0.3, 0.8]))
    np.testing.assert_array_equal(found.masks, boundary_guided_propagation(mask, edges).masks)
    np.testing.assert_allclose(found.scores, [0.8, 0.8])
    np.testing.assert_array_equal(found.sources, [0, 0])


def test_two_fragments_of_one_closed_region_become_one_instance():
    # Two pieces of a mask that no edge divides: both walks fill the box around them.
    edges = np.zeros((48, 64), np.float32)
    edges[2, 2:62] = edges[45, 2:62] = edges[2:46, 2] = edges[2:46, 61] = 1
    mask = np.zeros((1, 48, 64), bool)
    mask[0, 8:40, 8:28] = mask[0, 8:40, 36:56] = True
    assert len(boundary_guided_propagation(mask, edges).masks) == 1
    grown = boundary_guided_propagation(mask, edges, grow=True)
    assert len(grown.masks) == 1
    assert grown.masks[0, 8:40, 8:56].all()
    assert not grown.masks[0, :, :2].any()


def test_growing_stops_at_edges():
    mask, edges = _two_halves()
    mask[0, :, 20:] = False
    found = boundary_guided_propagation(mask, edges, grow=True)
    assert found.masks[0, :, :28].all()
    assert not found.masks[0, :, 33:].any()


def test_specks_join_a_neighbour():
    mask, edges = _two_halves()
    edges[10:14, 10:14] = 1
    edges[11:13, 11:13] = 0
    assert len(boundary_guided_propagation(mask, edges).masks) == 2
    assert len(boundary_guided_propagation(mask, edges, min_area=4).masks) == 3


def test_a_mask_of_edges_only_stays_whole():
    mask, edges = _two_halves()
    found = boundary_guided_propagation(mask, np.ones_like(edges))
    np.testing.assert_array_equal(found.masks, mask)


def test_one_pixel_and_no_mask():
    one = np.ones((1, 1, 1), bool)
    for strength in (0.0, 1.0):
        for grow in (False, True):
            edges = np.full((1, 1), strength, np.float32)
            assert boundary_guided_propagation(one, edges, grow=grow).masks.tolist() == [[[True]]]
    empty = np.zeros((3, 5, 7), bool)
    for masks in (empty, empty[:0]):
        found = boundary_guided_propagation(masks, np.zeros((5, 7)))
        assert found.masks.shape == (0, 5, 7)
        assert found.scores.shape == found.sources.shape == (0,)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_every_pixel_of_a_mask_gets_exactly_one_instance(seed, height, width, stride):
    rng = np.random.default_rng(seed)
    edges = (rng.random((height, width)) ** 2).astype(np.float32)
    mask = rng.random((1, height, width)) < 0.8
    found = boundary_guided_propagation(mask, edges, stride=stride, min_area=2)
    np.testing.assert_array_equal(found.masks.sum(0), mask[0])
    assert found.masks.any((1, 2)).all()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_no_two_instances_stay_above_the_merging_threshold(seed, grow):
    rng = np.random.default_rng(seed)
    edges = (rng.random((24, 31)) > 0.8).astype(np.float32)
    masks = rng.random((3, 24, 31)) < 0.9
    found = boundary_guided_propagation(masks, edges, grow=grow, min_area=6).masks
    flat = found.reshape(len(found), -1).astype(np.int64)
    shared = flat @ flat.T
    areas = shared.diagonal()
    iou = shared / (areas[:, None] + areas - shared)
    np.fill_diagonal(iou, 0)
    assert iou.max(initial=0) <= 0.5
    if not grow:
        np.testing.assert_array_equal(found.any(0), masks.any(0))


def test_threads_change_nothing():
    mask, edges = _two_halves(slice(20, 24))
    edges[30, :20] = 0.8
    plain = boundary_guided_propagation(mask, edges, min_area=1)
    other = boundary_guided_propagation(mask, edges, min_area=1, threads=2)
    np.testing.assert_array_equal(other.masks, plain.masks)


def test_basins_hold_at_a_gap_through_which_components_leak():
    mask, edges = _two_halves(slice(20, 24))
    found = boundary_guided_propagation(mask, edges)
    np.testing.assert_array_equal(found.masks, mask)
    found = boundary_guided_propagation(
        mask, edges, cut="basins", calibration=EdgeCalibration.assumed()
    )
    _check_halves(found.masks, mask)


def _check_halves(found: np.ndarray, mask: np.ndarray) -> None:
    assert len(found) == 2
    np.testing.assert_array_equal(found.sum(0), mask[0])
    assert found[0, 4:44, 4:31].all()
    assert found[1, 4:44, 33:60].all()


def test_what_edges_mean_is_measured_on_the_masks():
    mask, edges = _two_halves()
    # Edges that miss the whole outline of the mask are not believed inside it.
    found = boundary_guided_propagation(mask, edges, cut="basins")
    np.testing.assert_array_equal(found.masks, mask)
    edges[3:45, [3, 60]] = edges[[3, 44], 3:61] = 1
    for strength in (1.0, 0.2):  # how strong they are is the detector's own affair
        found = boundary_guided_propagation(mask, strength * edges, cut="basins")
        _check_halves(found.masks, mask)


def test_basins_of_several_masks_merge_where_they_are_the_same():
    mask, edges = _two_halves()
    left = mask & (np.arange(64) < 33)
    found = boundary_guided_propagation(
        np.concatenate([left, mask]), edges, np.array([0.4, 0.9]), cut="basins"
    )
    assert len(found.masks) == 2
    np.testing.assert_array_equal(found.sources, [0, 1])
    np.testing.assert_allclose(found.scores, [0.9, 0.9])


def test_specks_of_basins_join_the_nearest_and_a_speck_alone_stays():
    mask = np.zeros((1, 30, 40), bool)
    mask[0, 5:25, 5:20] = mask[0, 5:25, 25:35] = mask[0, 10:12, 22:24] = True
    edges = np.zeros((30, 40), np.float32)
    found = boundary_guided_propagation(mask, edges, cut="basins")
    assert len(found.masks) == 2
    np.testing.assert_array_equal(found.masks.sum(0), mask[0])
    mask[0, :, :22] = mask[0, :, 24:] = False
    found = boundary_guided_propagation(mask, edges, cut="basins")
    np.testing.assert_array_equal(found.masks, mask)


def test_basins_grow_to_the_edges_around_them():
    mask, edges = _two_halves()
    mask[0, :, 20:] = False
    found = boundary_guided_propagation(mask, edges, grow=True, cut="basins")
    assert found.masks[0, :, :28].all()
    assert not found.masks[0, :, 33:].any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_basins_give_every_pixel_of_their_masks_to_one_of_its_instances(seed, height, width, soft):
    rng = np.random.default_rng(seed)
    edges = rng.random((height, width)) ** (2 if soft else 8)
    masks = rng.random((2, height, width)) < 0.8
    masks[1] &= ~masks[0]
    found = boundary_guided_propagation(masks, edges, cut="basins", min_area=2)
    np.testing.assert_array_equal(found.masks.sum(0), masks.any(0))
    for mask, source in zip(found.masks, found.sources, strict=True):
        assert mask.any()
        assert not (mask & ~masks[source]).any()


def test_slivers_are_told_by_the_size_of_large_images():
    """An edge leaves a corner of 7 x 7: a sliver at any size from 640 x 480 on, as told below."""
    propagation = BoundaryGuidedPropagation(BgpSettings(cut="components", min_area=64))

    def pieces(side: int, height: int, width: int) -> int:
        mask, edges = np.zeros((height, width), bool), np.zeros((height, width), np.float32)
        mask[: 10 * side, : 10 * side] = True
        edges[: side + 1, side] = edges[side, : side + 1] = 1
        return propagation._components(edges)(mask)[1]

    assert [pieces(side, 480, 640) for side in (7, 8)] == [1, 2]
    assert [pieces(side, 960, 1280) for side in (15, 16)] == [1, 2]
    assert [pieces(side, 120, 160) for side in (7, 8)] == [1, 2]


def test_options_come_from_the_config():
    cfg = get_trace_cfg()
    built = BoundaryGuidedPropagation.from_config(cfg)
    assert vars(built) == vars(BoundaryGuidedPropagation())
    names = {"REACH": 0.25, "STRIDE": 2, "GROW": True, "THREADS": 2, "MIN_AREA": 3, "STEPS": 8}
    names |= {"CUT": "components", "NECK_DEPTH": 1.5}
    for name, value in names.items():
        cfg.MODEL.TRACE.BGP[name] = value
    built = BoundaryGuidedPropagation.from_config(cfg)
    assert {name: getattr(built.settings, name.lower()) for name in names} == names


@pytest.mark.parametrize(
    "options",
    [
        {"cut": "knife"},
        {"stride": 0},
        {"reach": 0.0},
        {"merge_iou": 2.0},
        {"radius": 1},
        {"threads": 0},
        {"beta": 0.0},
        {"steps": -1},
        {"neck_depth": -1.0},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"(?i){next(iter(options))}"):
        BgpSettings(**options)


def test_bad_input_is_refused():
    mask, edges = _two_halves()
    bgp = BoundaryGuidedPropagation()
    with pytest.raises(ValueError, match="differ in size"):
        bgp(mask, edges[1:])
    with pytest.raises(ValueError, match="bool"):
        bgp(mask.astype(np.float32), edges)
    with pytest.raises(ValueError, match="NaN"):
        bgp(mask, np.where(edges > 0, np.nan, edges))
    with pytest.raises(ValueError, match="scores"):
        bgp(mask, edges, np.ones(2))


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 9), (480, 640), (7, 2)])
def test_the_grid_is_that_of_irnet(shape):
    assert grid_size(shape, 4) == ((shape[0] - 1) // 4 + 1, (shape[1] - 1) // 4 + 1)
    assert pool(np.zeros(shape), 4).shape == grid_size(shape, 4)


def test_pooling_by_hand():
    edges = np.zeros((3, 5), np.float32)
    edges[1, 1], edges[2, 4] = 0.7, 0.2
    np.testing.assert_allclose(pool(edges, 2), [[0.7, 0, 0], [0, 0, 0.2]], rtol=1e-6)
    labels = np.array([[1, 1, 0, 2, 2], [1, 0, 2, 2, 0], [0, 1, 2, 2, 2]], np.int32)
    np.testing.assert_allclose(
        pool_labels(labels, 2, 2), [[[0.75, 0, 0], [0.5, 0, 0]], [[0, 0.75, 0.5], [0, 1, 1]]]
    )


@pytest.mark.parametrize("stride", [1, 3, 4])
def test_upsampling_equals_torch(stride):
    score = np.random.default_rng(0).random((4, 6), dtype=np.float32)
    shape = (4 * stride - stride // 2, 6 * stride - stride // 2)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(score)[None, None], scale_factor=stride, mode="bilinear"
    )[0, 0, : shape[0], : shape[1]]
    np.testing.assert_allclose(upsample(score, shape, stride), expected, atol=1e-6)
