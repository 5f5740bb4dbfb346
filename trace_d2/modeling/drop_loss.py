"""DropLoss (CutLER, CVPR 2023, section 3.3) on Detectron2's box heads.

Pseudo masks miss objects. A proposal far from all of them may well show such an object, so it is
not trained to be background: a proposal whose best IoU with any box of the image's labels is not
above a small threshold has no loss. Its pixels then stay free to become a detection, which the next
round of training learns from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, StandardROIHeads
from detectron2.structures import Instances
from detectron2.structures.boxes import matched_pairwise_iou
from detectron2.utils.events import get_event_storage


class DropLossOutputLayers(FastRCNNOutputLayers):
    """Detectron2's box predictor; proposals that overlap no label have no loss."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, drop_iou: float, **kwargs: Any) -> None:
        """A proposal counts if its best IoU with a label's box is above ``drop_iou``, 0..1."""
        super().__init__(input_shape, **kwargs)
        self.drop_iou = drop_iou

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``MODEL.TRACE.ROI_HEADS.DROP_IOU`` and Detectron2's own keys."""
        drop_iou = cfg.MODEL.TRACE.ROI_HEADS.DROP_IOU
        foreground = max(cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS)
        if not 0 <= drop_iou < foreground:
            raise ValueError(
                f"MODEL.TRACE.ROI_HEADS.DROP_IOU is {drop_iou}; it must be at least 0 and below "
                f"MODEL.ROI_HEADS.IOU_THRESHOLDS ({foreground}), from where proposals are "
                "foreground"
            )
        return {**super().from_config(cfg, input_shape), "drop_iou": drop_iou}

    def losses(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: Sequence[Instances]
    ) -> dict[str, torch.Tensor]:
        """Detectron2's losses, each proposal's weighted with 1 (kept) or 0 (dropped).

        The mean runs over all N proposals, as in the paper's L_drop = 1(IoU > threshold) L.

        Args:
            predictions: scores (N, K + 1) and deltas (N, 4) or (N, 4 K) of the proposals.
            proposals: with ``proposal_boxes``, ``gt_classes`` and, in images that have labels,
                ``gt_boxes``: the box of the best IoU.

        Returns:
            ``loss_cls`` and ``loss_box_reg``; 0, and still part of the graph, if all are dropped.
        """
        kept = [self.counts(image) for image in proposals]
        mask = torch.cat(kept)
        total, left = len(mask), int(mask.sum())
        get_event_storage().put_scalar("roi_head/num_dropped", (total - left) / len(proposals))
        scores, deltas = predictions
        losses = super().losses(
            (scores[mask], deltas[mask]),
            [_select(image, rows) for image, rows in zip(proposals, kept, strict=True)],
        )
        # Detectron2 divides by the proposals that it is given.
        return {name: loss * (left / max(total, 1)) for name, loss in losses.items()}

    def counts(self, proposals: Instances) -> torch.Tensor:
        """Which proposals of an image have a loss: (N,) bool. None where it has no label."""
        boxes = proposals.proposal_boxes
        if not proposals.has("gt_boxes"):
            return torch.zeros(len(proposals), dtype=torch.bool, device=boxes.device)
        # The matcher gave each proposal the label of the highest IoU, foreground or not.
        return matched_pairwise_iou(boxes, proposals.gt_boxes) > self.drop_iou


def _select(proposals: Instances, rows: torch.Tensor) -> Instances:
    """The fields that the box losses read; masks would cost a copy."""
    chosen = Instances(proposals.image_size)
    for name in ("proposal_boxes", "gt_boxes", "gt_classes"):
        if proposals.has(name):
            chosen.set(name, proposals.get(name)[rows])
    return chosen


@ROI_HEADS_REGISTRY.register()
class DropLossROIHeads(StandardROIHeads):
    """``StandardROIHeads`` with DropLoss, or as it is if ``DROP_LOSS`` is False."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_box_head(cfg, input_shape)
        if cfg.MODEL.TRACE.ROI_HEADS.DROP_LOSS:
            parts["box_predictor"] = DropLossOutputLayers(cfg, parts["box_head"].output_shape)
        return parts


@ROI_HEADS_REGISTRY.register()
class DropLossCascadeROIHeads(CascadeROIHeads):
    """``CascadeROIHeads`` with DropLoss at each stage, on the boxes that it is given."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_box_head(cfg, input_shape)
        if cfg.MODEL.TRACE.ROI_HEADS.DROP_LOSS:
            parts["box_predictors"] = [
                DropLossOutputLayers(
                    cfg, head.output_shape, box2box_transform=predictor.box2box_transform
                )
                for head, predictor in zip(parts["box_heads"], parts["box_predictors"], strict=True)
            ]
        return parts
