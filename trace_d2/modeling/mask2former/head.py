"""Pixel decoder, transformer decoder and class head of ``transformers``' Mask2Former."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)

KEY = "MODEL.TRACE.MASK2FORMER"
# Every projection of the pixel decoder is followed by GroupNorm with this many groups.
_GROUPS = 32


def mask2former_config(
    *,
    num_classes: int,
    hidden_dim: int,
    num_queries: int,
    enc_layers: int,
    dec_layers: int,
    num_heads: int,
    enc_dim_feedforward: int,
    dec_dim_feedforward: int,
    feature_strides: Sequence[int],
    **loss: Any,
) -> Mask2FormerConfig:
    """The ``transformers`` config of a head and its loss.

    Args:
        num_classes: classes without "no object".
        hidden_dim: width of pixel decoder, transformer decoder and mask embeddings.
        num_queries: masks an image at most.
        enc_layers: deformable attention layers of the pixel decoder.
        dec_layers: predictions of the transformer decoder, the learned queries' own included: it
            has ``dec_layers - 1`` layers.
        num_heads: attention heads everywhere.
        enc_dim_feedforward: inner width of the pixel decoder's layers.
        dec_dim_feedforward: inner width of the transformer decoder's layers.
        feature_strides: strides of the feature maps, finest first.
        loss: ``class_weight``, ``mask_weight``, ``dice_weight``, ``no_object_weight``,
            ``train_num_points``, ``oversample_ratio``, ``importance_sample_ratio``.

    Raises:
        ValueError: a width or a number of layers that the modules cannot have.
    """
    if hidden_dim % _GROUPS or hidden_dim % num_heads:
        raise ValueError(
            f"{KEY}.HIDDEN_DIM is {hidden_dim}: it must be a multiple of {_GROUPS} (group norm) "
            f"and of {KEY}.NHEADS, which is {num_heads}"
        )
    for key, value, least in (
        ("NUM_QUERIES", num_queries, 1),
        ("ENC_LAYERS", enc_layers, 1),
        ("DEC_LAYERS", dec_layers, 2),
    ):
        if value < least:
            raise ValueError(f"{KEY}.{key} is {value}: it must be at least {least}")
    return Mask2FormerConfig(
        num_labels=num_classes,
        feature_size=hidden_dim,
        mask_feature_size=hidden_dim,
        hidden_dim=hidden_dim,
        num_queries=num_queries,
        encoder_layers=enc_layers,
        decoder_layers=dec_layers,
        num_attention_heads=num_heads,
        encoder_feedforward_dim=enc_dim_feedforward,
        dim_feedforward=dec_dim_feedforward,
        feature_strides=list(feature_strides),
        common_stride=feature_strides[0],
        dropout=0.0,
        **loss,
    )


class Mask2FormerHead(Mask2FormerPreTrainedModel):
    """From feature maps to the class and mask logits of every decoder layer.

    A ``PreTrainedModel`` only for its weight initialisation; the backbone stays outside.
    """

    def __init__(self, config: Mask2FormerConfig, feature_channels: Sequence[int]) -> None:
        """Build the modules.

        Args:
            config: see :func:`mask2former_config`.
            feature_channels: channels of the feature maps, finest first.
        """
        super().__init__(config)
        self.pixel_decoder = Mask2FormerPixelDecoder(config, feature_channels=feature_channels)
        self.transformer = Mask2FormerTransformerModule(
            in_features=config.feature_size, config=config
        )
        self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
        self.post_init()
        initialize_as_published(self)

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


def initialize_as_published(head: Mask2FormerHead) -> None:
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
