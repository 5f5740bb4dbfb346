from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_d2.modeling.mask_cutting import cut_coded_panoptic, cut_instances, cut_panoptic
from trace_d2.propagation import BgpSettings, BoundaryGuidedPropagation
from trace_d2.propagation.calibration import EdgeCalibration

SIZE = (20, 40)
BASINS = BoundaryGuidedPropagation(BgpSettings("basins"), EdgeCalibration.assumed())
COMPONENTS = BoundaryGuidedPropagation(BgpSettings("components"))


def wall(*columns: int) -> np.ndarray:
    edges = np.zeros(SIZE, np.float32)
    edges[:, list(columns)] = 1
    return edges


def box_mask(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def predictions(masks: list, scores: list, classes: list, **fields) -> Instances:
    made = Instances(SIZE)
    made.pred_masks = torch.stack(masks)
    made.pred_boxes = Boxes(torch.zeros(len(masks), 4))
    made.scores = torch.tensor(scores)
    made.pred_classes = torch.tensor(classes)
    for name, value in fields.items():
        made.set(name, value)
    return made


@pytest.mark.parametrize("propagation", [BASINS, COMPONENTS])
def test_a_mask_over_two_objects_becomes_two_instances(propagation):
    given_ = predictions([box_mask(4, 16, 2, 38)], [0.8], [3])
    found = cut_instances(given_, wall(26), propagation)
    assert found.image_size == SIZE
    assert found.pred_masks.dtype == torch.bool
    assert torch.equal(found.pred_masks.sum(0), given_.pred_masks[0].int())
    # The larger part first. Column 26 is the edge's and belongs to either.
    left, right = found.pred_boxes.tensor.tolist()
    assert left[:2] == [2, 4]
    assert right[2:] == [38, 16]
    assert left[2] in (26, 27)
    assert right[0] in (26, 27)
    assert found.pred_classes.tolist() == [3, 3]
    shares = found.pred_masks.sum((1, 2)) / (12 * 36)
    torch.testing.assert_close(found.scores, 0.8 * shares**0.5)


@pytest.mark.parametrize(("power", "expected"), [(0, [0.5, 0.5]), (1, [0.25, 0.25])])
def test_the_share_of_the_mask_weighs_the_score(power, expected):
    whole = predictions([box_mask(4, 16, 2, 38)], [0.5], [0])
    found = cut_instances(whole, wall(19, 20), BASINS, share_power=power)
    torch.testing.assert_close(found.scores, torch.tensor(expected))


def test_fields_follow_the_mask_and_classes_do_not_mix():
    both = box_mask(4, 16, 2, 38)
    given_ = predictions(
        [both, box_mask(4, 16, 2, 19), both],
        [0.3, 0.9, 0.6],
        [0, 0, 1],
        names=["low", "high", "other"],
        feature=torch.arange(3).float(),
    )
    found = cut_instances(given_, wall(19), BASINS)
    # Class 0: the left half of the first mask is the second mask, which scores higher.
    assert found.pred_classes.tolist() == [0, 1, 1, 0]
    assert found.names == ["high", "other", "other", "low"]
    assert found.feature.tolist() == [1, 2, 2, 0]
    assert found.scores[0] == pytest.approx(0.9)


def test_only_the_best_are_kept():
    given_ = predictions([box_mask(4, 16, 2, 38), box_mask(0, 2, 0, 30)], [0.4, 0.9], [0, 0])
    found = cut_instances(given_, wall(31), BASINS, max_instances=2)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert len(found) == 2
    assert found.pred_boxes.tensor[0].tolist() == [0, 0, 30, 2]


def test_float_masks_without_scores_or_classes():
    made = Instances(SIZE)
    made.pred_masks = torch.stack([box_mask(4, 16, 2, 38).float() * 0.7, torch.full(SIZE, 0.4)])
    found = cut_instances(made, wall(19), BASINS)
    assert len(found) == 2
    assert found.pred_masks.dtype == torch.float32
    assert set(found.pred_masks.unique().tolist()) == {0.0, 1.0}
    assert not found.has("pred_classes")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_pieces_lie_in_the_masks_of_their_class_and_cover_them(seed, basins):
    rng = np.random.default_rng(seed)
    edges = (rng.random(SIZE) ** 3).astype(np.float32)
    count = int(rng.integers(1, 4))
    masks = [torch.from_numpy(rng.random(SIZE) < 0.7) for _ in range(count)]
    classes = rng.integers(0, 2, count).tolist()
    given_ = predictions(masks, rng.random(count).tolist(), classes)
    propagation = BASINS if basins else COMPONENTS
    found = cut_instances(given_, edges, propagation, max_instances=10_000)
    for category in set(classes):
        before = given_.pred_masks[given_.pred_classes == category].any(0)
        after = found.pred_masks[found.pred_classes == category].any(0)
        assert torch.equal(before, after)
    assert (found.scores <= given_.scores.max() + 1e-6).all()
    assert found.pred_masks.any(2).any(1).all()


def panoptic() -> tuple[torch.Tensor, list]:
    ids = torch.full(SIZE, 5, dtype=torch.int32)
    ids[:, :30] = 2
    ids[:4] = 0
    infos = [
        {"id": 5, "isthing": False, "category_id": 9, "area": 160},
        {"id": 2, "isthing": True, "category_id": 1, "score": 0.7, "area": 480},
    ]
    return ids, infos


def test_panoptic_things_are_cut_and_stuff_stays():
    ids, infos = panoptic()
    cut, cut_infos = cut_panoptic(ids, infos, wall(9), BASINS)
    assert cut.dtype == torch.int32
    assert torch.equal(cut == 5, ids == 5)
    assert torch.equal(cut == 0, ids == 0)
    assert [info["id"] for info in cut_infos] == [5, 2, 6]
    assert cut_infos[0] is not infos[0]
    assert cut_infos[0] == infos[0]
    for info in cut_infos[1:]:
        assert {**info, "id": 2, "area": 480} == infos[1]
        assert info["area"] == int((cut == info["id"]).sum())
    # The larger piece keeps the id.
    assert (cut[4:, 12:30] == 2).all()
    assert (cut[4:, :9] == 6).all()
    assert torch.equal(ids, panoptic()[0])


def test_panoptic_without_area_gets_none_and_a_segment_without_pixels_stays():
    ids, infos = panoptic()
    bare = [{key: v for key, v in info.items() if key != "area"} for info in infos]
    bare.append({"id": 7, "isthing": True, "category_id": 1})
    _, cut_infos = cut_panoptic(ids, bare, wall(9), BASINS)
    assert [info["id"] for info in cut_infos] == [5, 2, 8, 7]
    assert not any("area" in info for info in cut_infos)


def test_coded_panoptic_numbers_within_the_class():
    ids = torch.full(SIZE, -1, dtype=torch.int64)
    ids[4:, :30] = 1001
    ids[4:, 30:] = 1004
    ids[:4, 20:] = 3000
    cut = cut_coded_panoptic(ids, wall(9, 24), BASINS, thing_classes=[1], label_divisor=1000)
    assert cut.unique().tolist() == [-1, 1001, 1004, 1005, 1006, 3000]
    assert torch.equal(cut == 3000, ids == 3000)
    assert torch.equal(cut == 1004, ids == 1004)
    with pytest.raises(ValueError, match="label_divisor of 1000"):
        cut_coded_panoptic(
            torch.where(ids == 1004, 1999, ids),
            wall(9),
            BASINS,
            thing_classes=[1],
            label_divisor=1000,
        )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_panoptic_pieces_stay_in_their_segment(seed, basins):
    rng = np.random.default_rng(seed)
    edges = (rng.random(SIZE) ** 3).astype(np.float32)
    ids = torch.from_numpy(np.kron(rng.integers(0, 4, (5, 8)), np.ones((4, 5))).astype(np.int32))
    infos = [{"id": k, "isthing": k < 3, "category_id": k, "area": 0} for k in (1, 2, 3)]
    cut, cut_infos = cut_panoptic(ids, infos, edges, BASINS if basins else COMPONENTS)
    numbers = [info["id"] for info in cut_infos]
    assert len(set(numbers)) == len(numbers)
    assert set(cut.unique().tolist()) <= {0, *numbers}
    for info in cut_infos:
        inside = ids[cut == info["id"]]
        assert (inside == info["category_id"]).all()
    assert torch.equal(cut == 0, ids == 0)
