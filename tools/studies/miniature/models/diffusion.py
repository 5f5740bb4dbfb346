"""Tiny random diffusers folders of every family, as a user's folder would look on disk.

``save_tiny_pipeline("sdxl", folder)`` builds the family's real classes at toy size with seeded
weights, text encoders and tokenizers (of a small local vocabulary) included, writes them with
diffusers' own ``save_pretrained`` and returns the pipeline. In tests use the ``tiny_folder``
fixture of ``conftest.py``, which makes each family once a session.

All VAEs halve the image twice (reduction 4) except FLUX's, so a 32 x 32 image gives 8 x 8 latents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

TEXT_WIDTH = 16
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def save_tiny_pipeline(family: str, folder: Path, seed: int = 0, **options: Any) -> Any:
    """Build a tiny pipeline, save it as a diffusers folder, and return it.

    Args:
        family: a key of ``TINY_PIPELINES``.
        folder: where to; made if missing.
        seed: of the weights.
        options: changes to the denoiser's arguments.
    """
    torch.manual_seed(seed)
    pipeline: DiffusionPipeline = TINY_PIPELINES[family](options)
    _shake(pipeline)
    pipeline.save_pretrained(folder)
    return pipeline


def _shake(pipeline: Any) -> None:
    """Fill zero-initialised weights, or a block's output would not depend on its attention."""
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
            for parameter in component.parameters():
                if parameter.ndim > 1 and not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.02)


def _sd15(options: dict[str, Any]) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_clip_config()),
        tokenizer=_clip_tokenizer(),
        unet=_unet(
            ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"), TEXT_WIDTH, **options
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd21(options: dict[str, Any]) -> StableDiffusionPipeline:
    pipeline = _sd15({"use_linear_projection": True, "attention_head_dim": (2, 4, 4), **options})
    pipeline.scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return pipeline


def _sdxl(options: dict[str, Any]) -> StableDiffusionXLPipeline:
    unet = _unet(
        ("DownBlock2D", "CrossAttnDownBlock2D"),
        2 * TEXT_WIDTH,
        **{
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + TEXT_WIDTH,
            "transformer_layers_per_block": (1, 2),
            **options,
        },
    )
    return StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_clip_config()),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config()),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )


def _pixart(options: dict[str, Any]) -> PixArtAlphaPipeline:
    arguments: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 2,
        "cross_attention_dim": 24,
        "sample_size": 8,
        "patch_size": 2,
        "caption_channels": TEXT_WIDTH,
        "use_additional_conditions": True,
    }
    return PixArtAlphaPipeline(
        tokenizer=_t5_tokenizer(),
        text_encoder=T5EncoderModel(_t5_config()),
        vae=_vae(4),
        transformer=PixArtTransformer2DModel(**{**arguments, **options}),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02),
    )


def _pixart_1024(options: dict[str, Any]) -> PixArtAlphaPipeline:
    # The pipeline tells sizes to the transformer by this sample size, and to no other.
    return _pixart({"sample_size": 128, **options})


def _pixart_sigma(options: dict[str, Any]) -> PixArtSigmaPipeline:
    pipeline = _pixart({"sample_size": 128, "use_additional_conditions": False, **options})
    return PixArtSigmaPipeline(**pipeline.components)


def _sd35_large(options: dict[str, Any]) -> StableDiffusion3Pipeline:
    return _sd3({"dual_attention_layers": (), **options})


def _sd3(options: dict[str, Any]) -> StableDiffusion3Pipeline:
    arguments: dict[str, Any] = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 2 * TEXT_WIDTH,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 2 * TEXT_WIDTH,
        "pos_embed_max_size": 16,
        # SD3.5-medium's extra image-only attention.
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    }
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**{**arguments, **options}),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4, shift_factor=0.06),
        text_encoder=CLIPTextModelWithProjection(_clip_config()),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config()),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=T5EncoderModel(_t5_config(2 * TEXT_WIDTH)),
        tokenizer_3=_t5_tokenizer(),
    )


def _flux(options: dict[str, Any]) -> FluxPipeline:
    arguments: dict[str, Any] = {
        "patch_size": 1,
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": TEXT_WIDTH,
        "pooled_projection_dim": TEXT_WIDTH,
        "axes_dims_rope": (2, 2, 4),
        "guidance_embeds": True,
    }
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(4, shift_factor=0.1, channels=(8, 8)),
        text_encoder=CLIPTextModel(_clip_config()),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=T5EncoderModel(_t5_config()),
        tokenizer_2=_t5_tokenizer(),
        transformer=FluxTransformer2DModel(**{**arguments, **options}),
    )


def _flux_schnell(options: dict[str, Any]) -> FluxPipeline:
    pipeline = _flux({"guidance_embeds": False, **options})
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return pipeline


TINY_PIPELINES = {
    "sd15": _sd15,
    "sd21": _sd21,
    "sdxl": _sdxl,
    "pixart": _pixart,
    "pixart-1024": _pixart_1024,
    "pixart-sigma": _pixart_sigma,
    "sd3": _sd3,
    "sd35-large": _sd35_large,
    "flux": _flux,
    "flux-schnell": _flux_schnell,
}


def _unet(down_blocks: tuple[str, ...], text_width: int, **options: Any) -> UNet2DConditionModel:
    arguments: dict[str, Any] = {
        "block_out_channels": (8, 16, 16)[: len(down_blocks)],
        "layers_per_block": 1,
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": down_blocks,
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down_blocks)),
        "cross_attention_dim": text_width,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**arguments, **options})


def _vae(
    latent_channels: int, shift_factor: float | None = None, channels: tuple[int, ...] = (8, 8, 8)
) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        latent_channels=latent_channels,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=32,
        shift_factor=shift_factor,
        scaling_factor=0.5,
    )


def _clip_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(_clip_vocabulary()),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=TEXT_WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _t5_config(width: int = TEXT_WIDTH) -> T5Config:
    return T5Config(
        vocab_size=4 + len(_LETTERS),
        d_model=width,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
    )


def _clip_vocabulary() -> dict[str, int]:
    tokens = ["<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{c}</w>" for c in _LETTERS)]
    return {token: place for place, token in enumerate(tokens)}


def _clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=77)


def _t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in _LETTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
