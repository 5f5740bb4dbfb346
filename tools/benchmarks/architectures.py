"""Published configurations of the registered backbones, for random weights: no download.

They are what the models' own ``config.json`` files say (of SD1.5, SDXL, PixArt-alpha, SD3.5 and
FLUX.1 [dev] on the Hugging Face hub), less the entries at diffusers' defaults. Nothing heavy is
imported: classes are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """A model of ``trace_d2.backbones.registry.REGISTERED_MODELS``, which knows its family.

    Attributes:
        denoiser: arguments of the family's denoiser.
        vae: arguments of diffusers' ``AutoencoderKL``.
        scheduler: a class of diffusers.
        schedule: its arguments.
    """

    denoiser: dict[str, Any]
    vae: dict[str, Any]
    scheduler: str
    schedule: dict[str, Any]


# 0.86 billion weights.
SD15: dict[str, Any] = {
    "sample_size": 64,
    "attention_head_dim": 8,  # of old configurations: the number of heads
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}
# 2.57 billion.
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
}
# 0.61 billion.
PIXART_ALPHA: dict[str, Any] = {
    "sample_size": 128,
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "cross_attention_dim": 1152,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "caption_channels": 4096,
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}
_SD35: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "qk_norm": "rms_norm",
}
# 2.24 billion (and the sines of 384 x 384 positions, which are a buffer).
SD35_MEDIUM: dict[str, Any] = _SD35 | {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "dual_attention_layers": tuple(range(13)),
    "pos_embed_max_size": 384,
}
# 8.06 billion.
SD35_LARGE: dict[str, Any] = _SD35 | {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "pos_embed_max_size": 192,
}
# 11.9 billion.
FLUX1_DEV: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}

_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
SD15_VAE = _VAE | {"sample_size": 512, "scaling_factor": 0.18215}
SDXL_VAE = _VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}
PIXART_VAE = _VAE | {"sample_size": 256, "scaling_factor": 0.18215}
_VAE_16 = _VAE | {
    "sample_size": 1024,
    "latent_channels": 16,
    "force_upcast": True,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SD3_VAE = _VAE_16 | {"scaling_factor": 1.5305, "shift_factor": 0.0609}
FLUX_VAE = _VAE_16 | {"scaling_factor": 0.3611, "shift_factor": 0.1159}

_SCALED_LINEAR = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
_SD3_SCHEDULE = {"shift": 3.0}

ARCHITECTURES: dict[str, Architecture] = {
    "sd15": Architecture(
        SD15, SD15_VAE, "PNDMScheduler", _SCALED_LINEAR | {"skip_prk_steps": True}
    ),
    "sdxl": Architecture(
        SDXL, SDXL_VAE, "EulerDiscreteScheduler", _SCALED_LINEAR | {"timestep_spacing": "leading"}
    ),
    "pixart-alpha": Architecture(
        PIXART_ALPHA,
        PIXART_VAE,
        "DPMSolverMultistepScheduler",
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    ),
    "sd35-medium": Architecture(
        SD35_MEDIUM, SD3_VAE, "FlowMatchEulerDiscreteScheduler", _SD3_SCHEDULE
    ),
    "sd35-large": Architecture(
        SD35_LARGE, SD3_VAE, "FlowMatchEulerDiscreteScheduler", _SD3_SCHEDULE
    ),
    "flux1-dev": Architecture(
        FLUX1_DEV,
        FLUX_VAE,
        "FlowMatchEulerDiscreteScheduler",
        {
            "shift": 3.0,
            "use_dynamic_shifting": True,
            "base_shift": 0.5,
            "max_shift": 1.15,
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
        },
    ),
}
"""By registered name."""
