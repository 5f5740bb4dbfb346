"""The one-pass edge predictor: E^ = G_phi(H(eps_theta, I, 0)), trained to give pseudo edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from trace_d2.attention import SelfAttentionReader, native_attention
from trace_d2.backbones.noise_levels import clean_estimate

from .abdiv import upsample_edges
from .decoders import EdgeDecoder, build_decoder, decoder_settings
from .detector import EdgeOutput
from .lora import add_lora, lora_layers

if TYPE_CHECKING:
    from trace_d2.backbones import DiffusionBackbone


@dataclass(frozen=True)
class StudentOutput:
    """What one pass gives.

    Attributes:
        logits: of E^, (B, H, W) float32; above 0 is an edge.
        latent: of the images, (B, c, h, w) float32.
        reconstruction: of the latent by the denoiser, of the same shape and type; None where it
            was not asked for.
    """

    logits: Tensor
    latent: Tensor
    reconstruction: Tensor | None


class EdgeStudent(nn.Module):
    """A backbone with LoRA adapters, and a decoder that reads its attention at timestep 0.

    What is trained, and all that the state dict holds, are adapters and decoder: the backbone's
    own weights are frozen and come from its folder.

    Args:
        backbone: its denoiser has the adapters, or none once they are merged.
        decoder: reads the accumulated map.
        blocks, scratch_mb: see ``SelfAttentionReader``.

    Raises:
        ValueError: a block is negative.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        decoder: EdgeDecoder,
        *,
        blocks: Sequence[int] = (),
        scratch_mb: float = 16,
    ) -> None:
        super().__init__()
        if any(block < 0 for block in blocks):
            raise ValueError(f"MODEL.TRACE.STUDENT.BLOCKS are counted from 0, not {tuple(blocks)}")
        self.backbone = backbone
        self.decoder = decoder.to(backbone.device)
        self.grid = backbone.attention_layout(blank_latent(backbone)).largest
        self.blocks = tuple(blocks)
        self.scratch_mb = scratch_mb
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_post_hook(_expect_trainable)

    @classmethod
    def from_config(cls, cfg: Any, backbone: DiffusionBackbone | None = None) -> EdgeStudent:
        """A student to be trained: a backbone with fresh adapters and decoder.

        The backbone is that of ``cfg``, or one that is there already.

        Raises:
            ValueError: a key of ``MODEL.TRACE.STUDENT`` is out of its range, or the backbone is
                offloaded, which training cannot do.
        """
        from trace_d2.backbones import build_backbone

        trace = cfg.MODEL.TRACE
        settings = decoder_settings(trace.STUDENT.DECODER)
        check_trainable(cfg)
        backbone = build_backbone(cfg) if backbone is None else backbone
        layout = backbone.attention_layout(blank_latent(backbone))
        decoder = build_decoder(trace.STUDENT.DECODER.NAME, layout.tokens, settings)
        lora = trace.STUDENT.LORA
        layers = lora_layers(backbone.denoiser, lora.LAYERS)
        add_lora(backbone.denoiser, layers, lora.RANK, lora.ALPHA or lora.RANK)
        if trace.STUDENT.GRADIENT_CHECKPOINTING:
            backbone.denoiser.enable_gradient_checkpointing()
        return cls(
            backbone, decoder, blocks=trace.STUDENT.BLOCKS, scratch_mb=trace.ATTENTION.SCRATCH_MB
        )

    def train(self, mode: bool = True) -> EdgeStudent:
        """As ``nn.Module.train``; the VAE stays in evaluation mode."""
        super().train(mode)
        self.backbone.vae.eval()
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """The adapters' and the decoder's parameters, by their names in the state dict."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def forward(
        self, pixels: Tensor, noise: Tensor | None = None, *, reconstruct: bool = True
    ) -> StudentOutput:
        """One pass at timestep 0; with gradient to adapters and decoder where that is enabled.

        Args:
            pixels: (B, 3, H, W) float32 in -1..1; H and W multiples of ``backbone.size_multiple``.
            noise: eps of the latents' shape; None draws it. Flow matching has none at timestep 0.
            reconstruct: run the denoiser to its end. Edges need it up to the last of ``blocks``.

        Raises:
            ValueError: the decoder belongs to another grid than that of images of this size.
        """
        backbone = self.backbone
        # Detectron2's mixed precision is float16, in which some VAEs overflow.
        with torch.autocast(pixels.device.type, enabled=False):
            latent = backbone.encode(pixels)
        noise = torch.randn_like(latent) if noise is None else noise
        timesteps = torch.zeros(len(latent), dtype=torch.int64, device=latent.device)
        noised = backbone.add_noise(latent, noise, timesteps)
        layout = backbone.attention_layout(latent)
        if self.decoder.of_one_grid and layout.largest != self.grid:
            raise ValueError(
                f"the edge decoder {self.decoder.name!r} belongs to the grid {self.grid}, "
                f"and images of {tuple(pixels.shape[-2:])} pixels make {layout.largest}: use whole "
                "square images (INPUT.TRACE.PSEUDO_EDGES.CROP 0, MODEL.TRACE.BACKBONE.ASPECT "
                "square), or MODEL.TRACE.STUDENT.DECODER.NAME relative"
            )
        reader = SelfAttentionReader(
            layout,
            blocks=self.blocks,
            scratch_mb=self.scratch_mb,
            differentiable=torch.is_grad_enabled(),
            stop_early=not reconstruct,
        )
        reconstruction = None
        with native_attention(backbone), reader:
            prediction = backbone(noised, timesteps)
            reconstruction = clean_estimate(backbone.scheduler, noised, prediction, timesteps)
        logits = self.decoder(reader.attention(), layout.largest, pixels)
        return StudentOutput(logits, latent, reconstruction)


def check_trainable(cfg: Any) -> None:
    """Raise a ValueError for keys of ``cfg`` with which no student can be trained."""
    trace = cfg.MODEL.TRACE
    if trace.BACKBONE.CPU_OFFLOAD:
        raise ValueError("MODEL.TRACE.BACKBONE.CPU_OFFLOAD is for inference: set it to False")
    loss = trace.STUDENT.LOSS
    if min(loss.DICE, loss.RECONSTRUCTION) < 0 or loss.DICE + loss.RECONSTRUCTION == 0:
        raise ValueError(
            "MODEL.TRACE.STUDENT.LOSS: DICE and RECONSTRUCTION are 0 or more, and not both 0; they "
            f"are {loss.DICE} and {loss.RECONSTRUCTION}"
        )


class StudentDetector:
    """Instance edges of photographs by one forward pass of a trained student.

    Args:
        student: in evaluation mode.
        seed: with an image's key it fixes the noise; see ``EdgeDetector``.
    """

    def __init__(self, student: EdgeStudent, seed: int = 0) -> None:
        self.student = student.eval()
        self.seed = seed

    @classmethod
    def from_config(cls, cfg: Any, backbone: DiffusionBackbone | None = None) -> StudentDetector:
        """Loads the student that ``MODEL.TRACE.STUDENT`` names.

        Its backbone is that of ``cfg``, or one that is there already.

        Raises:
            ValueError, FileNotFoundError: see ``student_files.load_student``.
        """
        from trace_d2.backbones import build_backbone

        from .student_files import load_student, student_folder

        folder = student_folder(cfg)
        trace = cfg.MODEL.TRACE
        student = load_student(
            folder,
            build_backbone(cfg) if backbone is None else backbone,
            merge_lora=trace.STUDENT.MERGE_LORA,
            scratch_mb=trace.ATTENTION.SCRATCH_MB,
        )
        return cls(student, trace.SEED)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, key: str) -> EdgeOutput:
        """Edges of ``image``, (H, W, 3) uint8 RGB; ``key`` (a file stem) fixes its noise."""
        backbone = self.student.backbone
        pixels = backbone.prepare(image)
        noise = backbone.noise(blank_latent(backbone, pixels), self.seed, key)
        edges = self.student(pixels, noise, reconstruct=False).logits[0].sigmoid()
        return EdgeOutput(upsample_edges(edges, image.shape[:2]).cpu().numpy(), None, 0, {})


def blank_latent(backbone: DiffusionBackbone, pixels: Tensor | None = None) -> Tensor:
    """Zeros of the shape of the latent of ``pixels`` (1, 3, H, W), or of a square image.

    The square is what ``MODEL.TRACE.BACKBONE.RESOLUTION`` makes of one.
    """
    if pixels is None:
        pixels = backbone.prepare(np.zeros((8, 8, 3), np.uint8))
    height, width = (side // backbone.vae_reduction for side in pixels.shape[-2:])
    channels = backbone.vae.config.latent_channels
    return torch.zeros(1, channels, height, width, device=pixels.device)


def _drop_frozen(student: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Takes the frozen weights out of a state dict."""
    frozen = {n for n, p in student.named_parameters() if not p.requires_grad}
    frozen |= {n for n, _ in student.backbone.named_buffers(prefix="backbone")}
    for name in frozen:
        state.pop(prefix + name, None)


def _expect_trainable(student: Any, incompatible: Any) -> None:
    """Frozen weights are not missing in a state dict: none has them."""
    names = set(student.trainable())
    missing = [k for k in incompatible.missing_keys if any(k.endswith(n) for n in names)]
    incompatible.missing_keys[:] = missing
