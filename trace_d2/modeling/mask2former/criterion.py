"""Mask2Former's loss: ``transformers``' own, counted over all GPUs and named as Detectron2 users
know it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed
from detectron2.utils import comm
from torch import nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

# Names in transformers -> names in Detectron2's and Mask2Former's logs.
_NAMES = {"loss_cross_entropy": "loss_ce", "loss_mask": "loss_mask", "loss_dice": "loss_dice"}


class DistributedMask2FormerLoss(Mask2FormerLoss):
    """The loss with its number of masks averaged over Detectron2's processes.

    ``transformers`` asks Accelerate for the other processes, which Detectron2 does not start.
    """

    def get_num_masks(
        self, class_labels: Sequence[torch.Tensor], device: torch.device
    ) -> torch.Tensor:
        """Masks in the batch, mean over the processes, at least 1; () float32."""
        number = torch.as_tensor(
            sum(len(classes) for classes in class_labels), dtype=torch.float32, device=device
        )
        world_size = comm.get_world_size()
        if world_size > 1:
            torch.distributed.all_reduce(number)
        return torch.clamp(number / world_size, min=1)


class Mask2FormerCriterion(nn.Module):
    """Hungarian matching and the weighted losses of one batch, layer by layer."""

    def __init__(self, config: Mask2FormerConfig, *, deep_supervision: bool) -> None:
        """Build the matcher and the loss.

        Args:
            config: see :func:`trace_d2.modeling.mask2former.head.mask2former_config`.
            deep_supervision: a loss for every decoder layer and the learned queries, not only for
                the last layer.
        """
        super().__init__()
        self.deep_supervision = deep_supervision
        self.weights = {
            "loss_cross_entropy": config.class_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        self.loss = DistributedMask2FormerLoss(config=config, weight_dict=self.weights)

    def forward(
        self,
        class_logits: Sequence[torch.Tensor],
        mask_logits: Sequence[torch.Tensor],
        classes: Sequence[torch.Tensor],
        masks: Sequence[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Weighted losses; their sum is what training minimises.

        Args:
            class_logits: (B, Q, classes + 1) a layer, the last layer last.
            mask_logits: (B, Q, h, w) a layer.
            classes: (N_i,) int64 an image.
            masks: (N_i, H, W) an image, all of the padded batch's size. Points are drawn in
                relative coordinates, so that masks and logits may differ in resolution.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last layer and, with deep supervision,
            ``loss_ce_0``, ... of the others, the learned queries being 0. Scalars.
        """
        # Point sampling and the matching costs lose too much in half precision.
        with torch.autocast(device_type=class_logits[-1].device.type, enabled=False):
            layers = [
                {"masks_queries_logits": mask.float(), "class_queries_logits": logits.float()}
                for mask, logits in zip(mask_logits, class_logits, strict=True)
            ]
            losses = self.loss(
                **layers[-1],
                mask_labels=[mask.float() for mask in masks],
                class_labels=list(classes),
                auxiliary_predictions=layers[:-1] if self.deep_supervision else None,
            )
        weighted = {}
        for name, value in losses.items():
            kind = next(known for known in _NAMES if name.startswith(known))
            weighted[name.replace(kind, _NAMES[kind])] = value * self.weights[kind]
        return weighted
