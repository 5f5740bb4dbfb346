"""PixArt-alpha and -Sigma: ``PixArtTransformer2DModel`` (diffusion, cross-attention to T5)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor

from trace_d2.attention import AttentionLayout

from .backbone import DiffusionBackbone
from .registry import BACKBONE_REGISTRY

# Tokens that each pipeline pads its prompt to.
_TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}


@BACKBONE_REGISTRY.register()
class PixArtBackbone(DiffusionBackbone):
    """PixArt-alpha and PixArt-Sigma."""

    denoiser_class = PixArtTransformer2DModel
    denoiser_subfolder = "transformer"
    pipeline_names: ClassVar[tuple[str, ...]] = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    text_components: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")
    prompt_outputs: ClassVar[dict[str, int]] = {"prompt_embeds": 0, "prompt_attention_mask": 1}

    @staticmethod
    def prompt_shapes(config: Any, pipeline_name: str = "") -> dict[str, tuple[int, ...]]:
        tokens = _TOKENS.get(pipeline_name, 120)
        return {
            "prompt_embeds": (1, tokens, config["caption_channels"]),
            "prompt_attention_mask": (1, tokens),
        }

    @property
    def size_multiple(self) -> int:
        return self.vae_reduction * self.denoiser.config.patch_size

    def configured_resolution(self) -> int:
        return self.denoiser.config.sample_size * self.vae_reduction

    def predict(self, noised: Tensor, timesteps: Tensor) -> Tensor:
        output = self.denoiser(
            noised,
            encoder_hidden_states=self.null_prompt_tensor("prompt_embeds", noised.shape[0]),
            encoder_attention_mask=self.null_prompt_tensor(
                "prompt_attention_mask", noised.shape[0]
            ),
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
        resolution = torch.tensor([[height, width]]).to(noised)
        aspect_ratio = torch.tensor([[height / width]]).to(noised)
        return {
            "resolution": resolution.repeat(batch, 1),
            "aspect_ratio": aspect_ratio.repeat(batch, 1),
        }

    def attention_layout(self, latent: Tensor) -> AttentionLayout:
        patch = self.denoiser.config.patch_size
        height, width = latent.shape[-2:]
        return AttentionLayout(
            grids=((height // patch, width // patch),), text_tokens=0, text_first=False
        )
