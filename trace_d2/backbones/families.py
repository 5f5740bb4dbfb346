"""Families of diffusion models: how each denoiser is called, and where its attention lies.

Stable Diffusion 1.x, 2.x and XL (U-Nets) and PixArt (a transformer) are diffusion models with
cross-attention to the prompt; SD3 and FLUX (transformers) match flows over a joint sequence.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor

from trace_d2.attention import AttentionLayout

from .diffusion import DiffusionBackbone
from .model_files import ModelSource
from .null_prompt import TextEncoding
from .registry import BACKBONE_REGISTRY, FAMILY_FILES, FamilyFiles

# Tokens that the pipelines pad a prompt to.
_CLIP_TOKENS = 77
# SDXL's micro-conditions: original size, crop corner and target size, two numbers each.
_TIME_IDS = 6


@BACKBONE_REGISTRY.register()
class StableDiffusionBackbone(DiffusionBackbone):
    """Stable Diffusion 1.x and 2.x."""

    denoiser_class = UNet2DConditionModel
    denoiser_subfolder = "unet"
    files: ClassVar[FamilyFiles] = FAMILY_FILES["StableDiffusionBackbone"]
    pipeline_names: ClassVar[tuple[str, ...]] = files.pipelines
    text_encoding = TextEncoding(files.text_parts, {"prompt_embeds": 0})

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

    files = FAMILY_FILES["StableDiffusionXLBackbone"]
    pipeline_names = files.pipelines
    text_encoding = TextEncoding(
        files.text_parts,
        {"prompt_embeds": 0, "pooled_prompt_embeds": 2},
    )

    @staticmethod
    def prompt_shapes(config: Any, pipeline_name: str = "") -> dict[str, tuple[int, ...]]:
        pooled = config["projection_class_embeddings_input_dim"]
        pooled -= _TIME_IDS * config["addition_time_embed_dim"]
        return {
            "prompt_embeds": (1, _CLIP_TOKENS, config["cross_attention_dim"]),
            "pooled_prompt_embeds": (1, pooled),
        }

    @staticmethod
    def guides_away_from_zeros(source: ModelSource) -> bool:
        return bool(source.index.get("force_zeros_for_empty_prompt", True))

    def added_conditions(self, noised: Tensor) -> dict[str, Tensor]:
        """The pooled prompt, and the image's size with no crop (Section 2.2 of the SDXL paper)."""
        height, width = (side * self.vae_reduction for side in noised.shape[-2:])
        sizes = [height, width, 0, 0, height, width]
        batch = noised.shape[0]
        return {
            "text_embeds": self.null_prompt_tensor("pooled_prompt_embeds", batch),
            "time_ids": self.numbers(sizes, noised.dtype).expand(batch, -1),
        }


class DiffusionTransformer(DiffusionBackbone):
    """A transformer over patches of the latent, one sequence of one grid."""

    denoiser_subfolder = "transformer"
    # Where the prompt lies in that sequence; None: nowhere, as it enters by cross-attention.
    prompt_first: ClassVar[bool | None] = None

    @property
    def patch(self) -> int:
        """Latent cells a token, along one side."""
        return self.denoiser.config.patch_size

    @property
    def size_multiple(self) -> int:
        return self.vae_reduction * self.patch

    def layout(self, size: tuple[int, int]) -> AttentionLayout:
        height, width = self.latent_size(size)
        joint = self.prompt_first is not None
        return AttentionLayout(
            grids=((height // self.patch, width // self.patch),),
            text_tokens=self.null_prompt_tensor("prompt_embeds", 1).shape[1] if joint else 0,
            text_first=bool(self.prompt_first),
        )


@BACKBONE_REGISTRY.register()
class PixArtBackbone(DiffusionTransformer):
    """PixArt-alpha and PixArt-Sigma: cross-attention to T5."""

    denoiser_class = PixArtTransformer2DModel
    files = FAMILY_FILES["PixArtBackbone"]
    pipeline_names = files.pipelines
    text_encoding = TextEncoding(files.text_parts, {"prompt_embeds": 0, "prompt_attention_mask": 1})

    @staticmethod
    def prompt_shapes(config: Any, pipeline_name: str = "") -> dict[str, tuple[int, ...]]:
        tokens = 300 if pipeline_name == "PixArtSigmaPipeline" else 120  # prompts are padded to
        return {
            "prompt_embeds": (1, tokens, config["caption_channels"]),
            "prompt_attention_mask": (1, tokens),
        }

    def predict(self, noised: Tensor, timesteps: Tensor) -> Tensor:
        batch = noised.shape[0]
        output = self.denoiser(
            noised,
            encoder_hidden_states=self.null_prompt_tensor("prompt_embeds", batch),
            encoder_attention_mask=self.null_prompt_tensor("prompt_attention_mask", batch),
            timestep=timesteps,
            added_cond_kwargs=self._size_conditions(noised),
            return_dict=False,
        )[0]
        # The second half of the channels is the learned variance.
        return output[:, : noised.shape[1]]

    def _size_conditions(self, noised: Tensor) -> dict[str, Tensor | None]:
        """Size and aspect ratio of the image in pixels, which the 1024 model is told."""
        if not self.denoiser.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        batch = noised.shape[0]
        height, width = (side * self.vae_reduction for side in noised.shape[-2:])
        return {
            "resolution": self.numbers([height, width], noised.dtype).expand(batch, -1),
            "aspect_ratio": self.numbers([height / width], noised.dtype).expand(batch, -1),
        }


@BACKBONE_REGISTRY.register()
class StableDiffusion3Backbone(DiffusionTransformer):
    """SD3 and SD3.5, medium and large."""

    denoiser_class = SD3Transformer2DModel
    files = FAMILY_FILES["StableDiffusion3Backbone"]
    pipeline_names = files.pipelines
    text_encoding = TextEncoding(
        files.text_parts,
        {"prompt_embeds": 0, "pooled_prompt_embeds": 2},
    )
    prompt_first = False

    @staticmethod
    def prompt_shapes(config: Any, pipeline_name: str = "") -> dict[str, tuple[int, ...]]:
        return {
            # 77 tokens of CLIP, then 256 of T5.
            "prompt_embeds": (1, 77 + 256, config["joint_attention_dim"]),
            "pooled_prompt_embeds": (1, config["pooled_projection_dim"]),
        }

    def schedule_options(self, steps: int, size: tuple[int, int]) -> dict[str, Any]:
        options = super().schedule_options(steps, size)
        if self.scheduler.config.get("use_dynamic_shifting"):
            options["mu"] = _dynamic_shift(self.scheduler.config, self.layout(size).tokens, 1.16)
        return options

    def predict(self, noised: Tensor, timesteps: Tensor) -> Tensor:
        batch = noised.shape[0]
        return self.denoiser(
            hidden_states=noised,
            timestep=timesteps,
            encoder_hidden_states=self.null_prompt_tensor("prompt_embeds", batch),
            pooled_projections=self.null_prompt_tensor("pooled_prompt_embeds", batch),
            return_dict=False,
        )[0]


@BACKBONE_REGISTRY.register()
class FluxBackbone(DiffusionTransformer):
    """FLUX.1 [dev] and [schnell], trace-tiny, and every folder of the same classes."""

    denoiser_class = FluxTransformer2DModel
    files = FAMILY_FILES["FluxBackbone"]
    pipeline_names = files.pipelines
    text_encoding = TextEncoding(files.text_parts, {"prompt_embeds": 0, "pooled_prompt_embeds": 1})
    prompt_first = True
    patch = 2  # the denoiser's own patch_size counts what is packed already

    @staticmethod
    def prompt_shapes(config: Any, pipeline_name: str = "") -> dict[str, tuple[int, ...]]:
        return {
            "prompt_embeds": (1, 512, config["joint_attention_dim"]),
            "pooled_prompt_embeds": (1, config["pooled_projection_dim"]),
        }

    @property
    def denoiser_latent_channels(self) -> int:
        return self.denoiser.config.in_channels // self.patch**2

    def configured_resolution(self) -> int:
        # The transformer has no size of its own (rotary positions); the VAE states its training's.
        return self.vae.config.sample_size

    def schedule_options(self, steps: int, size: tuple[int, int]) -> dict[str, Any]:
        config = self.scheduler.config
        if config.get("use_flow_sigmas"):
            options = super().schedule_options(steps, size)
        else:
            options = {"sigmas": np.linspace(1.0, 1 / steps, steps)}
        return {**options, "mu": _dynamic_shift(config, self.layout(size).tokens, 1.15)}

    def predict(self, noised: Tensor, timesteps: Tensor) -> Tensor:
        batch, _, height, width = noised.shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"FLUX latents need even sides; got {height} x {width}")
        grid = height // self.patch, width // self.patch
        prompt = self.null_prompt_tensor("prompt_embeds", batch)
        tokens = prompt.shape[1]
        guidance = None
        if self.denoiser.config.guidance_embeds:
            guidance = self.numbers([self.guidance], torch.float32)[0].expand(batch)
        packed = self.denoiser(
            hidden_states=F.pixel_unshuffle(noised, self.patch).flatten(2).transpose(1, 2),
            encoder_hidden_states=prompt,
            pooled_projections=self.null_prompt_tensor("pooled_prompt_embeds", batch),
            # The model itself multiplies by 1000. Rounded as its own pipeline rounds.
            timestep=timesteps.to(noised.dtype) / 1000,
            img_ids=self.constant(torch.float32, lambda: image_ids(*grid), "image_ids", grid),
            txt_ids=self.constant(
                torch.float32, lambda: torch.zeros(tokens, 3), "text_ids", tokens
            ),
            guidance=guidance,
            return_dict=False,
        )[0]
        return F.pixel_shuffle(packed.transpose(1, 2).unflatten(2, grid), self.patch)


def _dynamic_shift(config: Any, tokens: int, largest: float) -> float:
    """mu, by which the schedule of an image of so many ``tokens`` is shifted.

    Linear between two sizes of a scheduler's ``config``; ``largest`` is the greater's where it
    names none.
    """
    sizes = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    shifts = config.get("base_shift", 0.5), config.get("max_shift", largest)
    slope = (shifts[1] - shifts[0]) / (sizes[1] - sizes[0])
    return slope * tokens + shifts[0] - slope * sizes[0]


def image_ids(height: int, width: int) -> Tensor:
    """(height * width, 3) float32: 0, row, column of each token, for its rotary position."""
    rows, columns = torch.arange(float(height)), torch.arange(float(width))
    return torch.cartesian_prod(torch.zeros(1), rows, columns)
