"""FLUX.1 and trace-tiny: ``FluxTransformer2DModel`` (flow matching, joint text-image sequence)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from torch import Tensor

from trace_d2.attention import AttentionLayout

from .backbone import DiffusionBackbone
from .registry import BACKBONE_REGISTRY

# The denoiser reads 2 x 2 latent cells as one token.
_PACK = 2
# Guidance that the distilled model is told. Guidance compares a prompt with the null prompt; here
# the prompt is the null prompt, so 1 (none) is the faithful value.
_NO_GUIDANCE = 1.0


@BACKBONE_REGISTRY.register()
class FluxBackbone(DiffusionBackbone):
    """FLUX.1 [dev] and [schnell], and every folder of the same classes."""

    denoiser_class = FluxTransformer2DModel
    denoiser_subfolder = "transformer"
    pipeline_names: ClassVar[tuple[str, ...]] = ("FluxPipeline", "FluxImg2ImgPipeline")
    text_components: ClassVar[tuple[str, ...]] = (
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
    )
    prompt_outputs: ClassVar[dict[str, int]] = {"prompt_embeds": 0, "pooled_prompt_embeds": 1}

    @staticmethod
    def prompt_shapes(config: Any, pipeline_name: str = "") -> dict[str, tuple[int, ...]]:
        return {
            "prompt_embeds": (1, 512, config["joint_attention_dim"]),
            "pooled_prompt_embeds": (1, config["pooled_projection_dim"]),
        }

    @property
    def denoiser_latent_channels(self) -> int:
        return self.denoiser.config.in_channels // _PACK**2

    @property
    def size_multiple(self) -> int:
        return self.vae_reduction * _PACK

    def configured_resolution(self) -> int:
        # The transformer has no size of its own (rotary positions); the VAE states its training's.
        return self.vae.config.sample_size

    def predict(self, noised: Tensor, timesteps: Tensor) -> Tensor:
        batch, _, height, width = noised.shape
        if height % _PACK or width % _PACK:
            raise ValueError(f"FLUX latents need even sides; got {height} x {width}")
        prompt = self.null_prompt_tensor("prompt_embeds", batch)
        guidance = None
        if self.denoiser.config.guidance_embeds:
            guidance = torch.full((batch,), _NO_GUIDANCE, device=noised.device)
        packed = self.denoiser(
            hidden_states=F.pixel_unshuffle(noised, _PACK).flatten(2).transpose(1, 2),
            encoder_hidden_states=prompt,
            pooled_projections=self.null_prompt_tensor("pooled_prompt_embeds", batch),
            # The model itself multiplies by 1000.
            timestep=timesteps.float() / 1000,
            img_ids=image_ids(height // _PACK, width // _PACK).to(noised.device),
            txt_ids=torch.zeros(prompt.shape[1], 3, device=noised.device),
            guidance=guidance,
            return_dict=False,
        )[0]
        grid = packed.transpose(1, 2).unflatten(2, (height // _PACK, width // _PACK))
        return F.pixel_shuffle(grid, _PACK)

    def attention_layout(self, latent: Tensor) -> AttentionLayout:
        height, width = latent.shape[-2:]
        tokens = self.null_prompt_tensor("prompt_embeds", 1).shape[1]
        return AttentionLayout(
            grids=((height // _PACK, width // _PACK),), text_tokens=tokens, text_first=True
        )


def image_ids(height: int, width: int) -> Tensor:
    """(height * width, 3) float32: 0, row, column of each token, for its rotary position."""
    rows = torch.arange(height, dtype=torch.float32).repeat_interleave(width)
    columns = torch.arange(width, dtype=torch.float32).repeat(height)
    return torch.stack((torch.zeros_like(rows), rows, columns), dim=1)
