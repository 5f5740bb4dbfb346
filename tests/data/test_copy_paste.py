from __future__ import annotations

import copy

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from trace_d2.data.copy_paste import CopyPaste, CopyPasteSettings


def record(*rectangles, size=(6, 8), grey=0, **more) -> dict:
    """An image of one grey, with instances y0, x0, y1, x1; classes count from 10 * grey."""
    masks = torch.zeros(len(rectangles), *size, dtype=torch.bool)
    for mask, (y0, x0, y1, x1) in zip(masks, rectangles, strict=True):
        mask[y0:y1, x0:x1] = True
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor([[x0, y0, x1, y1] for y0, x0, y1, x1 in rectangles]))
    instances.gt_classes = torch.arange(len(rectangles)) + 10 * grey
    instances.gt_masks = BitMasks(masks)
    image = torch.full((3, *size), grey, dtype=torch.uint8)
    return {"image": image, "instances": instances, "file_name": f"{grey}.jpg"} | more


def build(seed=0, **changes) -> CopyPaste:
    settings = CopyPasteSettings(**({"min_scale": 1.0} | changes))
    torch.manual_seed(seed)
    return CopyPaste(settings)


@pytest.mark.parametrize("seed", range(6))
def test_one_instance_on_another(seed):
    """It covers the right half of its own kind of mask, or the left half if it was flipped."""
    target = record((1, 2, 5, 6), grey=1)
    source = record((1, 4, 5, 8), grey=2)
    result, _ = build(seed)([target, source])
    instances = result["instances"]
    masks = instances.gt_masks.tensor
    flipped = bool(masks[1, 1, 0])
    expected = torch.zeros(2, 6, 8, dtype=torch.bool)
    expected[0, 1:5, slice(4, 6) if flipped else slice(2, 4)] = True
    expected[1, 1:5, slice(0, 4) if flipped else slice(4, 8)] = True
    assert torch.equal(masks, expected)
    own, pasted = ([4, 6], [0, 4]) if flipped else ([2, 4], [4, 8])
    boxes = [[own[0], 1, own[1], 5], [pasted[0], 1, pasted[1], 5]]
    assert instances.gt_boxes.tensor.tolist() == boxes
    assert instances.gt_classes.tolist() == [10, 20]
    assert torch.equal(result["image"][0] == 2, expected[1])
    assert torch.equal(result["image"][0] == 1, ~expected[1])


def test_the_batch_is_left_as_it_was():
    batch = [record((0, 0, 6, 8), grey=1), record((1, 1, 4, 4), (2, 2, 6, 6), grey=2), record()]
    before = copy.deepcopy(batch)
    build(min_scale=0.3)(batch)
    for new, old in zip(batch, before, strict=True):
        assert torch.equal(new["image"], old["image"])
        for name, value in new["instances"].get_fields().items():
            value, kept = getattr(value, "tensor", value), old["instances"].get(name)
            assert torch.equal(value, getattr(kept, "tensor", kept))


def test_covered_instances_are_dropped():
    """A paste hides one instance, leaves 2 of 12 pixels of another and all of a third."""
    covered = (0, 0, 5, 8)
    target = record((0, 0, 2, 2), (0, 3, 6, 5), (5, 6, 6, 7), grey=1)
    batch = [target, record(covered, grey=2)]
    instances = build(min_visible=0.2)(batch)[0]["instances"]
    assert instances.gt_classes.tolist() == [12, 20]
    instances = build(min_visible=0.1)(batch)[0]["instances"]
    assert instances.gt_classes.tolist() == [11, 12, 20]
    assert instances.gt_boxes.tensor[0].tolist() == [3, 5, 5, 6]


def test_empty_images_give_nothing_and_take_all():
    empty, full = record(grey=1), record((0, 0, 3, 3), grey=2)
    into_empty, into_full = build()([empty, full])
    assert len(into_empty["instances"]) == 1
    assert torch.equal(into_full["image"], full["image"])
    assert len(build()([empty, empty])[0]["instances"]) == 0
    assert len(build()([full])[0]["instances"]) == 1


def test_probability_and_number():
    many = record(*[(0, x, 2, x + 1) for x in range(8)], grey=2)
    batch = [record(grey=1), many]
    assert torch.equal(build(probability=0.0)(batch)[0]["image"], batch[0]["image"])
    paste = build(max_instances=3)
    counts = {len(paste(batch)[0]["instances"]) for _ in range(60)}
    assert counts == {1, 2, 3}
    paste = build()
    assert {len(paste(batch)[0]["instances"]) for _ in range(200)} == set(range(1, 9))


@pytest.mark.parametrize("size", [(6, 8), (30, 9), (3, 40)])
def test_scales_and_sizes(size):
    """Whatever the sizes, image, masks and boxes agree, and places vary."""
    source = record((2, 3, 20, 18), size=(24, 20), grey=7)
    paste, places = build(min_scale=0.3, max_scale=1.0), set()
    for _ in range(20):
        result, _ = paste([record(size=size, grey=1), source])
        instances = result["instances"]
        assert result["image"].shape == (3, *size)
        assert instances.image_size == size
        front = instances.gt_masks.tensor.any(0)
        assert torch.equal(result["image"][0] == 7, front)
        assert torch.equal(result["image"][0] == 1, ~front)
        boxes = instances.gt_masks.get_bounding_boxes().tensor
        assert torch.equal(boxes, instances.gt_boxes.tensor.float())
        places.add(tuple(boxes.flatten().tolist()))
    assert len(places) > 2


def test_a_seed_fixes_the_result():
    batch = [record((0, 0, 3, 3), grey=1), record((1, 1, 5, 7), (0, 0, 2, 2), grey=2)]
    first, again = (build(3, min_scale=0.4)(batch) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_masks.tensor, other["instances"].gt_masks.tensor)


def test_other_targets_are_refused():
    with pytest.raises(ValueError, match=r"1\.jpg: .*set INPUT\.TRACE\.SEMANTIC to none"):
        build()([record(grey=1, sem_seg=torch.zeros(6, 8))])
    extra = record((0, 0, 3, 3), grey=1)
    extra["instances"].gt_keypoints = torch.zeros(1, 17, 3)
    with pytest.raises(ValueError, match=r"no other target; found .*gt_keypoints.*: turn"):
        build()([extra])
    plain = record((0, 0, 3, 3), grey=1)
    plain["instances"].gt_masks = plain["instances"].gt_masks.tensor
    with pytest.raises(ValueError, match=r"INPUT\.MASK_FORMAT bitmask"):
        build()([plain])


@pytest.fixture
def cfg(make_cfg):
    return make_cfg("INPUT.MASK_FORMAT", "bitmask")


def test_config(cfg):
    cfg.INPUT.TRACE.COPY_PASTE.MIN_SCALE = 0.5
    assert CopyPaste.from_config(cfg).settings == CopyPasteSettings(min_scale=0.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PROBABILITY", 1.5),
        ("MIN_VISIBLE", -0.1),
        ("MAX_INSTANCES", -1),
        ("MIN_SCALE", 0.0),
        ("MAX_SCALE", 0.2),
    ],
)
def test_bad_config(cfg, key, value):
    cfg.INPUT.TRACE.COPY_PASTE[key] = value
    with pytest.raises(ValueError, match=rf"INPUT\.TRACE\.COPY_PASTE.*{key}"):
        CopyPaste.from_config(cfg)


def test_polygon_config_is_refused(cfg):
    cfg.INPUT.MASK_FORMAT = "polygon"
    with pytest.raises(ValueError, match=r"INPUT\.MASK_FORMAT is 'polygon'"):
        CopyPaste.from_config(cfg)
