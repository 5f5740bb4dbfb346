"""Stable Diffusion 3 and 3.5: ``SD3Transformer2DModel`` (flow matching, joint sequence)."""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import SD3Transformer2DModel
from torch import Tensor

from trace_d2.attention import AttentionLayout

from .backbone import DiffusionBackbone
from .registry import BACKBONE_REGISTRY

# Tokens of the empty string as the pipeline encodes it: CLIP, then T5.
_CLIP_TOKENS, _T5_TOKENS = 77, 256


@BACKBONE_REGISTRY.register()
class StableDiffusion3Backbone(DiffusionBackbone):
    """SD3 and SD3.5, medium and large."""

    denoiser_class = SD3Transformer2DModel
    denoiser_subfolder = "transformer"
    pipeline_names: ClassVar[tuple[str, ...]] = (
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
    )
    text_components: ClassVar[tuple[str, ...]] = (
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "text_encoder_3",
        "tokenizer_3",
    )
    prompt_outputs: ClassVar[dict[str, int]] = {"prompt_embeds": 0, "pooled_prompt_embeds": 2}

    @staticmethod
    def prompt_shapes(config: Any, pipeline_name: str = "") -> dict[str, tuple[int, ...]]:
        return {
            "prompt_embeds": (1, _CLIP_TOKENS + _T5_TOKENS, config["joint_attention_dim"]),
            "pooled_prompt_embeds": (1, config["pooled_projection_dim"]),
        }

    @property
    def size_multiple(self) -> int:
        return self.vae_reduction * self.denoiser.config.patch_size

    def configured_resolution(self) -> int:
        return self.denoiser.config.sample_size * self.vae_reduction

    def predict(self, noised: Tensor, timesteps: Tensor) -> Tensor:
        batch = noised.shape[0]
        return self.denoiser(
            hidden_states=noised,
            timestep=timesteps,
            encoder_hidden_states=self.null_prompt_tensor("prompt_embeds", batch),
            pooled_projections=self.null_prompt_tensor("pooled_prompt_embeds", batch),
            return_dict=False,
        )[0]

    def attention_layout(self, latent: Tensor) -> AttentionLayout:
        patch = self.denoiser.config.patch_size
        height, width = latent.shape[-2:]
        tokens = self.null_prompt_tensor("prompt_embeds", 1).shape[1]
        return AttentionLayout(
            grids=((height // patch, width // patch),), text_tokens=tokens, text_first=False
        )
