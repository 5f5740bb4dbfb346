"""The one-pass edge predictor: E^ = G_phi(H(eps_theta, I, 0)), trained to give pseudo edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trace_d2.attention import (
    AttentionSettings,
    SelfAttentionReader,
    full_precision,
    native_attention,
)
from trace_d2.backbones import AttentionBackbone, build_backbone
from trace_d2.backbones.backbone import square_layout
from trace_d2.backbones.blocks import check_blocks

from .decoders import EdgeDecoder, build_decoder, decoder_settings
from .lora import add_lora
from .preflight import check_trainable
from .settings import LoraSettings


@dataclass(frozen=True)
class StudentOutput:
    """What one pass gives.

    Attributes:
        logits: of E^, (B, H, W) float32; above 0 is an edge.
        latent: of the images, (B, c, h, w) float32.
        reconstruction: of the latent by the denoiser, of the same shape and type. Both are None
            where no reconstruction was asked for.
    """

    logits: Tensor
    latent: Tensor | None = None
    reconstruction: Tensor | None = None


class EdgeStudent(nn.Module):
    """A backbone with LoRA adapters, and a decoder that reads its attention at timestep 0.

    What is trained, and all that the state dict holds, are adapters and decoder: the backbone's
    own weights are frozen and come from its folder.

    Args:
        backbone: its network has the adapters, or none once they are merged.
        decoder: reads the accumulated map.
        blocks, attention: how attention is read; ``attention.blocks`` are the teacher's.
    """

    def __init__(
        self,
        backbone: AttentionBackbone,
        decoder: EdgeDecoder,
        *,
        blocks: Sequence[int] = (),
        attention: AttentionSettings = AttentionSettings(),
    ) -> None:
        super().__init__()
        if any(type(block) is not int or block < 0 for block in blocks):
            raise ValueError(
                f"MODEL.TRACE.STUDENT.BLOCKS are whole numbers from 0, not {list(blocks)}"
            )
        self.backbone = backbone
        self.decoder = decoder.to(backbone.device)
        self.decoder.kernels = attention.kernels
        self.grid = square_layout(backbone).largest
        self.blocks = tuple(blocks)
        self.attention = attention
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_post_hook(_expect_trainable)

    @classmethod
    def from_config(cls, cfg: Any, backbone: AttentionBackbone | None = None) -> EdgeStudent:
        """A student to be trained: fresh adapters and decoder.

        They go with the backbone of ``cfg``, or with one that is there already.
        """
        trace = cfg.MODEL.TRACE
        settings = decoder_settings(trace.STUDENT.DECODER)
        lora = LoraSettings.from_config(cfg)
        check_trainable(cfg)
        backbone = backbone or build_backbone(cfg)
        check_blocks(backbone, trace.STUDENT.BLOCKS, "MODEL.TRACE.STUDENT.BLOCKS")
        tokens = square_layout(backbone).tokens
        decoder = build_decoder(trace.STUDENT.DECODER.NAME, tokens, settings)
        add_lora(backbone.network, lora)
        if trace.STUDENT.GRADIENT_CHECKPOINTING:
            backbone.network.enable_gradient_checkpointing()
        attention = AttentionSettings.from_config(cfg)
        return cls(backbone, decoder, blocks=trace.STUDENT.BLOCKS, attention=attention)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The adapters' and the decoder's parameters, by their names in the state dict."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def forward(
        self,
        pixels: Tensor,
        noise: Tensor | tuple[int, str] | None = None,
        prompts: Sequence[str] = (),
        *,
        reconstruct: bool = True,
    ) -> StudentOutput:
        """One pass at timestep 0; with gradient to adapters and decoder where that is enabled.

        Args:
            pixels: (B, 3, H, W) float32 in -1..1; H and W multiples of ``backbone.size_multiple``.
            noise: see ``AttentionBackbone.prepare``. Flow matching has none at timestep 0.
            prompts: see ``AttentionBackbone.with_prompts``.
            reconstruct: run the network to its end. Edges need it up to the last of ``blocks``.
        """
        layout = self.backbone.layout((pixels.shape[-2], pixels.shape[-1]))
        if self.decoder.of_one_grid and layout.largest != self.grid:
            raise ValueError(
                f"the edge decoder {self.decoder.name!r} belongs to the grid {self.grid}, "
                f"and images of {tuple(pixels.shape[-2:])} pixels make {layout.largest}: use whole "
                "square images (INPUT.TRACE.PSEUDO_EDGES.CROP 0, MODEL.TRACE.BACKBONE.ASPECT "
                "square), or MODEL.TRACE.STUDENT.DECODER.NAME relative"
            )
        # Detectron2's mixed precision is float16, in which some VAEs overflow.
        with full_precision(pixels.device):
            prepared = self.backbone.with_prompts(self.backbone.prepare(pixels, noise), prompts)
        reader = SelfAttentionReader(
            layout,
            blocks=self.blocks,
            scratch_mb=self.attention.scratch_mb,
            kernels=self.attention.kernels,
            differentiable=torch.is_grad_enabled(),
            stop_early=not reconstruct,
            network=self.backbone.network,
        )
        with native_attention(self.backbone), reader:
            output = self.backbone.run(prepared, [0])
        logits = self.decoder(reader.attention(), layout.largest, pixels)
        if not reconstruct:
            return StudentOutput(logits)
        return StudentOutput(logits, *self.backbone.reconstruct(prepared, output))


def _drop_frozen(student: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Takes the frozen weights out of a state dict."""
    frozen = {n for n, p in student.named_parameters() if not p.requires_grad}
    trained = {prefix + name for name in student.trainable()}
    # Of the backbone all else as well: buffers, and the scales of quantised weights.
    for name in [k for k in state if k.startswith(f"{prefix}backbone.") and k not in trained]:
        del state[name]
    for name in frozen:
        state.pop(prefix + name, None)


def _expect_trainable(student: Any, incompatible: Any) -> None:
    """Frozen weights are not missing in a state dict: none has them."""
    names = set(student.trainable())
    missing = [k for k in incompatible.missing_keys if any(k.endswith(n) for n in names)]
    incompatible.missing_keys[:] = missing
