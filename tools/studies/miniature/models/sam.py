"""SAM, SAM 2 and SAM-HQ of transformers at tiny size, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Sam2Config,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
)

SIDE = 64
DECODER = {
    "hidden_size": 32,
    "mlp_dim": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "iou_head_hidden_dim": 32,
}
PROMPTS = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8}
VISION = {
    "hidden_size": 32,
    "output_channels": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 16,
    "window_size": 2,
    "global_attn_indexes": [1],
    "mlp_dim": 32,
    "num_pos_feats": 16,
}
VISION2 = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 2, 2],
        "window_size_per_stage": [4, 4, 2, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
    },
    "backbone_channel_list": [64, 32, 16, 8],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 32,
}


def tiny_sam(kind: str, seed: int = 0) -> Any:
    """A model of ``kind``: sam, sam_hq, sam2, or sam2_video as SAM 2's hub models are stored."""
    torch.manual_seed(seed)
    if kind in ("sam", "sam_hq"):
        config_class, model_class = (
            (SamConfig, SamModel) if kind == "sam" else (SamHQConfig, SamHQModel)
        )
        prompts = {**PROMPTS, "image_embedding_size": SIDE // 16}
        decoder = {**DECODER, **({"vit_dim": 32} if kind == "sam_hq" else {})}
        config = config_class(
            vision_config=VISION, prompt_encoder_config=prompts, mask_decoder_config=decoder
        )
    else:
        config_class, model_class = (
            (Sam2Config, Sam2Model) if kind == "sam2" else (Sam2VideoConfig, Sam2VideoModel)
        )
        more = {} if kind == "sam2" else VIDEO
        config = config_class(
            vision_config=VISION2,
            prompt_encoder_config=PROMPTS,
            mask_decoder_config=DECODER,
            **more,
        )
    model = model_class(config).eval()
    with torch.no_grad():  # fresh embeddings and biases of 0 would hide what is lost
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


VIDEO = {
    "image_size": SIDE,
    "memory_attention_hidden_size": 32,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 32,
    "memory_attention_rope_feat_sizes": [4, 4],
    "memory_encoder_hidden_size": 32,
    "memory_encoder_output_channels": 8,
    "mask_downsampler_embed_dim": 32,
    "memory_fuser_embed_dim": 32,
    "memory_fuser_intermediate_dim": 32,
    "memory_fuser_num_layers": 1,
}


def save_tiny_sam(kind: str, folder: Path) -> None:
    """Write ``tiny_sam(kind)`` as a folder of transformers."""
    tiny_sam(kind).save_pretrained(folder)
