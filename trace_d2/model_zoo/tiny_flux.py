"""trace-tiny's architecture: the classes of FLUX.1 at 1/7000 of its size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from safetensors.torch import save_file

from trace_d2.io.atomic import write_json

from .pixel_vae import LATENT_CHANNELS, VAE_FACTOR

#: Width of the (empty) prompt. FLUX needs one; zeros of this width say nothing.
PROMPT_WIDTH = 8
#: Pixels a token spans in each direction: FLUX packs 2x2 latent cells.
PATCH = 2 * VAE_FACTOR


@dataclass(frozen=True)
class TinyFluxSize:
    """Size of the denoiser. ``layers`` are double-stream blocks, ``single_layers`` single."""

    heads: int = 4
    head_width: int = 32
    layers: int = 1
    single_layers: int = 5


def build_denoiser(size: TinyFluxSize, seed: int = 0) -> FluxTransformer2DModel:
    """A FLUX transformer over 4x4-pixel tokens: rotary positions, RMS-normed q and k.

    Rotary positions are relative, so it reads larger images than it was trained on; learned or
    cropped sin-cos tables would tie it to the training grid.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        axis = size.head_width // 8 * 3
        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * LATENT_CHANNELS,
            num_layers=size.layers,
            num_single_layers=size.single_layers,
            attention_head_dim=size.head_width,
            num_attention_heads=size.heads,
            joint_attention_dim=PROMPT_WIDTH,
            pooled_projection_dim=PROMPT_WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(size.head_width - 2 * axis, axis, axis),
        )


def save_flux_folder(denoiser: FluxTransformer2DModel, vae: AutoencoderKL, folder: Path) -> None:
    """Write a diffusers folder of class ``FluxPipeline`` without text encoders.

    A ``null_prompt.safetensors`` of one zero token stands in for the encoded empty prompt.
    """
    denoiser.to(torch.float32).save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(folder / "scheduler")
    prompt = {
        "prompt_embeds": torch.zeros(1, 1, PROMPT_WIDTH),
        "pooled_prompt_embeds": torch.zeros(1, PROMPT_WIDTH),
    }
    save_file(prompt, folder / "null_prompt.safetensors")
    index = {
        "_class_name": "FluxPipeline",
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": [None, None],
        "text_encoder_2": [None, None],
        "tokenizer": [None, None],
        "tokenizer_2": [None, None],
    }
    write_json(folder / "model_index.json", index)
