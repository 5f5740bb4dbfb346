"""Stable Diffusion 1.x, 2.x and XL: ``UNet2DConditionModel`` (diffusion, cross-attention)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from trace_d2.attention import AttentionLayout

from .diffusion import DiffusionBackbone
from .null_prompt import TextEncoding
from .registry import BACKBONE_REGISTRY

# Tokens that the pipelines pad a prompt to.
_CLIP_TOKENS = 77
# SDXL's micro-conditions: original size, crop corner and target size, two numbers each.
_TIME_IDS = 6


@BACKBONE_REGISTRY.register()
class StableDiffusionBackbone(DiffusionBackbone):
    """Stable Diffusion 1.x and 2.x."""

    denoiser_class = UNet2DConditionModel
    denoiser_subfolder = "unet"
    pipeline_names: ClassVar[tuple[str, ...]] = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
    )
    text_encoding = TextEncoding(1, {"prompt_embeds": 0})

    @staticmethod
    def prompt_shapes(config: Any, pipeline_name: str = "") -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (1, _CLIP_TOKENS, config["cross_attention_dim"])}

    @property
    def size_multiple(self) -> int:
        # So that every level of the U-Net halves without a remainder.
        return self.vae_reduction * 2 ** (len(self.denoiser.config.down_block_types) - 1)

    def predict(self, noised: Tensor, timesteps: Tensor) -> Tensor:
        return self.denoiser(
            noised,
            timesteps,
            encoder_hidden_states=self.null_prompt_tensor("prompt_embeds", noised.shape[0]),
            added_cond_kwargs=self.added_conditions(noised),
            return_dict=False,
        )[0]

    def added_conditions(self, noised: Tensor) -> dict[str, Tensor] | None:
        """What the U-Net is told besides the prompt: nothing."""
        return None

    def layout(self, size: tuple[int, int]) -> AttentionLayout:
        height, width = self.latent_size(size)
        grids: list[tuple[int, int]] = []
        for block in self.denoiser.down_blocks:
            if getattr(block, "has_cross_attention", False):
                grids.append((height, width))
            if block.downsamplers is not None:
                height, width = (height + 1) // 2, (width + 1) // 2
        middle = self.denoiser.mid_block
        if getattr(middle, "has_cross_attention", False) and (height, width) not in grids:
            grids.append((height, width))
        return AttentionLayout(grids=tuple(grids), text_tokens=0, text_first=False)


@BACKBONE_REGISTRY.register()
class StableDiffusionXLBackbone(StableDiffusionBackbone):
    """Stable Diffusion XL, base model."""

    pipeline_names: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)
    text_encoding = TextEncoding(2, {"prompt_embeds": 0, "pooled_prompt_embeds": 2})

    @staticmethod
    def prompt_shapes(config: Any, pipeline_name: str = "") -> dict[str, tuple[int, ...]]:
        pooled = config["projection_class_embeddings_input_dim"]
        pooled -= _TIME_IDS * config["addition_time_embed_dim"]
        return {
            "prompt_embeds": (1, _CLIP_TOKENS, config["cross_attention_dim"]),
            "pooled_prompt_embeds": (1, pooled),
        }

    def added_conditions(self, noised: Tensor) -> dict[str, Tensor]:
        """The pooled prompt, and the image's size with no crop (Section 2.2 of the SDXL paper)."""
        height, width = (side * self.vae_reduction for side in noised.shape[-2:])
        time_ids = torch.tensor([[height, width, 0, 0, height, width]]).to(noised)
        batch = noised.shape[0]
        return {
            "text_embeds": self.null_prompt_tensor("pooled_prompt_embeds", batch),
            "time_ids": time_ids.repeat(batch, 1),
        }
