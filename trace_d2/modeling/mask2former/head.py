"""Decoders, class head and loss of ``transformers``' Mask2Former."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.distributed
from detectron2.utils import comm
from torch import nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerLoss,
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)

# Names in transformers -> names in Detectron2's and Mask2Former's logs.
_LOSSES = {"loss_cross_entropy": "loss_ce", "loss_mask": "loss_mask", "loss_dice": "loss_dice"}


class Mask2FormerHead(Mask2FormerPreTrainedModel):
    """From feature maps to the class and mask logits of every decoder layer.

    A ``PreTrainedModel`` only for its weight initialisation; the backbone stays outside.
    """

    def __init__(self, config: Mask2FormerConfig, feature_channels: Sequence[int]) -> None:
        """``feature_channels`` are those of the feature maps, finest first."""
        super().__init__(config)
        self.pixel_decoder = Mask2FormerPixelDecoder(config, feature_channels=feature_channels)
        self.transformer = Mask2FormerTransformerModule(
            in_features=config.feature_size, config=config
        )
        self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
        self.post_init()
        _initialize_as_published(self)

    def forward(
        self, features: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Predict from the feature maps.

        Args:
            features: (B, C_i, H_i, W_i) float, finest first.

        Returns:
            Class logits (B, Q, classes + 1), the last one "no object", and mask logits
            (B, Q, H_0, W_0), each for the learned queries first and the last layer last.
        """
        # In full precision as published: sampling points do not bear half precision.
        with torch.autocast(device_type=features[0].device.type, enabled=False):
            pixels = self.pixel_decoder(
                [feature.float() for feature in features],
                output_hidden_states=False,
                return_dict=True,
            )
        decoded = self.transformer(
            multi_scale_features=pixels.multi_scale_features,
            mask_features=pixels.mask_features,
            output_hidden_states=True,
        )
        classes = [
            self.class_predictor(queries.transpose(0, 1))
            for queries in decoded.intermediate_hidden_states
        ]
        return classes, list(decoded.masks_queries_logits)


def _initialize_as_published(head: Mask2FormerHead) -> None:
    """Give the layers that ``transformers`` draws from N(0, 0.02) the published initialisation.

    Linear layers of the pixel decoder: Xavier; its projections: Xavier, its other convolutions:
    Caffe2's Xavier; the class head: PyTorch's default. In narrow models N(0, 0.02) starts with
    masks of almost zero contrast.
    """
    for module in head.pixel_decoder.modules():
        if isinstance(module, Mask2FormerPixelDecoderEncoderLayer):
            nn.init.xavier_uniform_(module.fc1.weight)
            nn.init.xavier_uniform_(module.fc2.weight)
        elif isinstance(module, nn.Conv2d):
            weight_init.c2_xavier_fill(module)
    for projection in head.pixel_decoder.input_projections:
        nn.init.xavier_uniform_(projection[0].weight)
    head.class_predictor.reset_parameters()


class DistributedMask2FormerLoss(Mask2FormerLoss):
    """The loss with its number of masks averaged over Detectron2's processes.

    ``transformers`` asks Accelerate for the other processes, which Detectron2 does not start.
    """

    def get_num_masks(
        self, class_labels: Sequence[torch.Tensor], device: torch.device
    ) -> torch.Tensor:
        """Masks in the batch, mean over the processes, at least 1; () float32."""
        count = sum(len(classes) for classes in class_labels)
        number = torch.as_tensor(count, dtype=torch.float32, device=device)
        world_size = comm.get_world_size()
        if world_size > 1:
            torch.distributed.all_reduce(number)
        return torch.clamp(number / world_size, min=1)


class Mask2FormerCriterion(nn.Module):
    """Hungarian matching and the weighted losses of one batch, layer by layer."""

    def __init__(self, config: Mask2FormerConfig, *, deep_supervision: bool) -> None:
        """``deep_supervision``: a loss for every decoder layer and the learned queries as well."""
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
            kind = next(known for known in _LOSSES if name.startswith(known))
            weighted[name.replace(kind, _LOSSES[kind])] = value * self.weights[kind]
        return weighted
