"""Backbones of real size with random weights: time and memory without a download."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

from trace_d2.backbones import NullPrompt, StableDiffusion3Backbone

# stabilityai/stable-diffusion-3.5-large: 8.1 billion weights.
SD35_LARGE: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 38,
    "attention_head_dim": 64,
    "num_attention_heads": 38,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 2432,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "qk_norm": "rms_norm",
}
SD3_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}

# Name, and the configurations of denoiser and VAE.
ARCHITECTURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sd35-large": (SD35_LARGE, SD3_VAE)
}


def random_backbone(
    architecture: str, dtype: torch.dtype, device: torch.device, *, resolution: int, aspect: str
) -> StableDiffusion3Backbone:
    """A backbone of the named architecture; made on ``device`` itself, not in main memory first.

    The VAE runs in float32, as its own configuration asks for.
    """
    denoiser, vae = ARCHITECTURES[architecture]
    prompt = NullPrompt.zeros(StableDiffusion3Backbone.prompt_shapes(denoiser))
    return StableDiffusion3Backbone(
        name=architecture,
        denoiser=materialise(SD3Transformer2DModel, denoiser, dtype, device),
        vae=materialise(AutoencoderKL, vae, torch.float32, device),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        null_prompt=prompt,
        resolution=resolution,
        aspect=aspect,
        device=device,
    )


@torch.no_grad()
def materialise(
    kind: Any, config: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> torch.nn.Module:
    """A diffusers model with random weights of a size that keeps activations finite."""
    with torch.device("meta"):
        model = kind(**config)
    if dtype != torch.float32:  # diffusers warns of every conversion
        model.to(dtype)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.ndim > 1:
            fan_in = tensor[0].numel()
            tensor.normal_(std=fan_in**-0.5, generator=generator)
        else:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)  # norms, biases
    return model
