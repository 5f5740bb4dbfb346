from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from trace_d2.config import add_trace_config
from trace_d2.modeling.drop_loss import DropLossOutputLayers

OWN = {"StandardROIHeads": "DropLossROIHeads", "CascadeROIHeads": "DropLossCascadeROIHeads"}


def proposals(boxes, labels, classes) -> Instances:
    instances = Instances((100, 100))
    instances.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float))
    if labels is not None:
        instances.gt_boxes = Boxes(torch.tensor(labels, dtype=torch.float))
    instances.gt_classes = torch.tensor(classes)
    return instances


def layers(drop_iou: float) -> DropLossOutputLayers:
    torch.manual_seed(0)
    return DropLossOutputLayers(
        ShapeSpec(channels=4),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        num_classes=1,
        drop_iou=drop_iou,
    )


LABEL = [0, 0, 10, 10]
# IoU with LABEL: 1, 1/199 (one pixel of 10 x 10 each), 10/190, 0.
BOXES = [LABEL, [9, 9, 19, 19], [9, 0, 19, 10], [50, 50, 60, 60]]


@pytest.mark.parametrize(
    ("drop_iou", "weights"),
    [(0.0, [1, 1, 1, 0]), (0.01, [1, 0, 1, 0]), (0.1, [1, 0, 0, 0]), (1 / 199, [1, 0, 1, 0])],
)
def test_weights_and_losses_by_hand(drop_iou, weights):
    """Image 1: four proposals and a label; image 2: two proposals and none, so none counts."""
    labelled = proposals(BOXES, [LABEL] * 4, [0, 1, 1, 1])
    bare = proposals(BOXES[:2], None, [1, 1])
    predictor = layers(drop_iou)
    assert predictor.counts(labelled).tolist() == [bool(weight) for weight in weights]
    assert predictor.counts(bare).tolist() == [False, False]
    scores, deltas = torch.randn(6, 2), torch.randn(6, 4)
    with EventStorage() as storage:
        losses = predictor.losses((scores, deltas), [labelled, bare])
        dropped = storage.latest()["roi_head/num_dropped"][0]
    each = F.cross_entropy(scores, torch.tensor([0, 1, 1, 1, 1, 1]), reduction="none")
    expected = (each * torch.tensor([*weights, 0, 0])).sum() / 6
    torch.testing.assert_close(losses["loss_cls"], expected)
    # The one foreground proposal is its label: its deltas should be 0. L1, over all six.
    torch.testing.assert_close(losses["loss_box_reg"], deltas[0].abs().sum() / 6)
    assert dropped == (4 - sum(weights) + 2) / 2


def test_all_dropped_is_zero_and_part_of_the_graph():
    predictor = layers(0.01)
    with EventStorage():
        losses = predictor.losses(
            predictor(torch.randn(2, 4)), [proposals(BOXES[:2], None, [1] * 2)]
        )
    sum(losses.values()).backward()
    assert [float(loss.detach()) for loss in losses.values()] == [0, 0]
    for parameter in predictor.parameters():
        assert torch.count_nonzero(parameter.grad) == 0


def config(heads: str, **keys):
    cfg = get_cfg()
    add_trace_config(cfg)
    model = cfg.MODEL
    model.DEVICE, model.WEIGHTS, model.MASK_ON = "cpu", "", True
    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model.RESNETS.update({"DEPTH": 50, "RES2_OUT_CHANNELS": 16, "WIDTH_PER_GROUP": 4})
    model.RESNETS.update({"STEM_OUT_CHANNELS": 8, "OUT_FEATURES": ["res4", "res5"]})
    model.FPN.update({"IN_FEATURES": ["res4", "res5"], "OUT_CHANNELS": 8})
    model.ANCHOR_GENERATOR.SIZES = [[16], [32]]
    model.RPN.update({"IN_FEATURES": ["p4", "p5"], "BATCH_SIZE_PER_IMAGE": 16})
    model.RPN.update({"POST_NMS_TOPK_TRAIN": 30, "PRE_NMS_TOPK_TRAIN": 60})
    model.ROI_HEADS.update({"NAME": heads, "NUM_CLASSES": 1, "BATCH_SIZE_PER_IMAGE": 16})
    model.ROI_HEADS.IN_FEATURES = ["p4", "p5"]
    model.ROI_BOX_HEAD.update({"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 16})
    model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    model.ROI_MASK_HEAD.update({"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 8})
    cfg.INPUT.MASK_FORMAT = "bitmask"
    model.TRACE.ROI_HEADS.update(keys)
    return cfg


def batch(*counts: int) -> list[dict]:
    """Images of noise with so many squares each."""
    generator = torch.Generator().manual_seed(1)
    records = []
    for count in counts:
        masks = torch.zeros(count, 64, 64, dtype=torch.bool)
        for mask in masks:
            y, x = torch.randint(0, 40, (2,), generator=generator).tolist()
            mask[y : y + 20, x : x + 20] = True
        instances = Instances((64, 64))
        instances.gt_masks = BitMasks(masks)
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        instances.gt_classes = torch.zeros(count, dtype=torch.int64)
        image = torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8)
        records.append({"image": image, "instances": instances, "height": 64, "width": 64})
    return records


def losses_of(model: torch.nn.Module, records: list[dict]) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    with EventStorage():
        return model(copy.deepcopy(records))


@pytest.mark.parametrize("heads", OWN)
def test_without_drop_loss_all_is_as_in_detectron2(heads):
    results = []
    for name, keys in ((heads, {}), (OWN[heads], {"DROP_LOSS": False})):
        torch.manual_seed(0)
        model = build_model(config(name, **keys))
        losses = losses_of(model, batch(2, 0, 1))
        sum(losses.values()).backward()
        results.append((losses, [p.grad for p in model.parameters() if p.requires_grad]))
    assert results[0][0] == results[1][0]
    for grad, other in zip(results[0][1], results[1][1], strict=True):
        assert (grad is None and other is None) or torch.equal(grad, other)


@pytest.mark.parametrize("heads", OWN)
def test_only_the_box_losses_change(heads):
    """On shared weights and samples; a label keeps its foreground, and so its box loss."""
    plain = build_model(config(heads))
    dropping = build_model(config(OWN[heads], DROP_IOU=0.4))
    dropping.load_state_dict(plain.state_dict())
    before, after = (losses_of(model, batch(2, 1)) for model in (plain, dropping))
    assert set(before) == set(after)
    lower = [name for name, loss in before.items() if after[name] < loss - 1e-4]
    assert lower
    for name, loss in before.items():
        if name in lower:
            assert name.startswith("loss_cls")
        else:
            torch.testing.assert_close(after[name], loss)


@pytest.mark.parametrize("heads", OWN.values())
@pytest.mark.parametrize("mixed", [False, True])
def test_images_without_instances_train(heads, mixed):
    model = build_model(config(heads))
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        losses = losses_of(model, batch(0, 0))
    boxes = [loss for name, loss in losses.items() if name.startswith(("loss_cls", "loss_box_reg"))]
    assert all(float(loss.detach()) == 0 for loss in boxes)
    sum(losses.values()).backward()
    for parameter in model.roi_heads.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def test_mixed_precision_stays_close():
    model = build_model(config("DropLossROIHeads"))
    exact = losses_of(model, batch(2, 1))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = losses_of(model, batch(2, 1))
    assert set(exact) == set(mixed)
    torch.testing.assert_close(mixed["loss_mask"].float(), exact["loss_mask"], rtol=0.1, atol=0)


@pytest.mark.parametrize("heads", OWN.values())
@pytest.mark.parametrize("value", [-0.1, 0.5])
def test_a_threshold_that_drops_foreground_is_refused(heads, value):
    with pytest.raises(ValueError, match=r"MODEL\.TRACE\.ROI_HEADS\.DROP_IOU is"):
        build_model(config(heads, DROP_IOU=value))
