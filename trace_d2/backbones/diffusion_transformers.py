"""Diffusion transformers: PixArt (diffusion), SD3 and FLUX (flow matching, joint sequence)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel
from torch import Tensor

from trace_d2.attention import AttentionLayout

from .diffusion import DiffusionBackbone
from .null_prompt import TextEncoding
from .registry import BACKBONE_REGISTRY

# Guidance that the distilled FLUX.1 is told. Guidance compares a prompt with the null prompt; here
# the prompt is the null prompt, so 1 (none) is the faithful value.
_NO_GUIDANCE = 1.0


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
    pipeline_names = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    text_encoding = TextEncoding(1, {"prompt_embeds": 0, "prompt_attention_mask": 1})

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
            "resolution": torch.tensor([[height, width]]).to(noised).repeat(batch, 1),
            "aspect_ratio": torch.tensor([[height / width]]).to(noised).repeat(batch, 1),
        }


@BACKBONE_REGISTRY.register()
class StableDiffusion3Backbone(DiffusionTransformer):
    """SD3 and SD3.5, medium and large."""

    denoiser_class = SD3Transformer2DModel
    pipeline_names = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    text_encoding = TextEncoding(3, {"prompt_embeds": 0, "pooled_prompt_embeds": 2})
    prompt_first = False

    @staticmethod
    def prompt_shapes(config: Any, pipeline_name: str = "") -> dict[str, tuple[int, ...]]:
        return {
            # 77 tokens of CLIP, then 256 of T5.
            "prompt_embeds": (1, 77 + 256, config["joint_attention_dim"]),
            "pooled_prompt_embeds": (1, config["pooled_projection_dim"]),
        }

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
    pipeline_names = ("FluxPipeline", "FluxImg2ImgPipeline")
    text_encoding = TextEncoding(2, {"prompt_embeds": 0, "pooled_prompt_embeds": 1})
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

    def predict(self, noised: Tensor, timesteps: Tensor) -> Tensor:
        batch, _, height, width = noised.shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"FLUX latents need even sides; got {height} x {width}")
        grid = height // self.patch, width // self.patch
        prompt = self.null_prompt_tensor("prompt_embeds", batch)
        guidance = None
        if self.denoiser.config.guidance_embeds:
            guidance = torch.full((batch,), _NO_GUIDANCE, device=noised.device)
        packed = self.denoiser(
            hidden_states=F.pixel_unshuffle(noised, self.patch).flatten(2).transpose(1, 2),
            encoder_hidden_states=prompt,
            pooled_projections=self.null_prompt_tensor("pooled_prompt_embeds", batch),
            # The model itself multiplies by 1000.
            timestep=timesteps.float() / 1000,
            img_ids=image_ids(*grid).to(noised.device),
            txt_ids=torch.zeros(prompt.shape[1], 3, device=noised.device),
            guidance=guidance,
            return_dict=False,
        )[0]
        return F.pixel_shuffle(packed.transpose(1, 2).unflatten(2, grid), self.patch)


def image_ids(height: int, width: int) -> Tensor:
    """(height * width, 3) float32: 0, row, column of each token, for its rotary position."""
    rows = torch.arange(height, dtype=torch.float32).repeat_interleave(width)
    columns = torch.arange(width, dtype=torch.float32).repeat(height)
    return torch.stack((torch.zeros_like(rows), rows, columns), dim=1)
