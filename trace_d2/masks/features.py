"""What a backbone says of the tokens of an image, as vectors that are compared by their cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trace_d2.attention import (
    AttentionSettings,
    KeyReader,
    SelfAttentionReader,
    native_attention,
)
from trace_d2.attention.kernels.choice import check_kernels
from trace_d2.backbones import AttentionBackbone, build_backbone
from trace_d2.backbones.blocks import check_blocks
from trace_d2.backbones.passes import ImagePasses, ReadyImage, not_finite
from trace_d2.backbones.settings import PassSettings

from .settings import FeatureSettings

# Square roots of a distribution have length 1; what is left of them without their mean is rounding
# below this.
_ROUNDING = 1e-4


class TokenFeatures(NamedTuple):
    """Features of the tokens of one image; ``features @ features.T`` are their cosines.

    Attributes:
        grid: (h, w) of the tokens, which cover the whole image.
        features: (h w, D) float32 in row-major order, on the device of the backbone, finite; rows
            of length 1, or of 0 where a token says nothing.
    """

    grid: tuple[int, int]
    features: Tensor


class FeatureReader(ImagePasses[TokenFeatures]):
    """Features of images by one forward pass; at one timestep, where the backbone has any.

    Args:
        backbone, seed, batch: see ``ImagePasses``.
        settings: which features.
        attention: how maps are read, where they are the features.
    """

    def __init__(
        self,
        backbone: AttentionBackbone,
        settings: FeatureSettings = FeatureSettings(),
        attention: AttentionSettings = AttentionSettings(),
        *,
        seed: int = 0,
        batch: int = 0,
    ) -> None:
        self.settings, self.attention = settings, attention
        super().__init__(backbone, seed, batch)

    @classmethod
    def from_config(cls, cfg: Any, backbone: AttentionBackbone | None = None) -> FeatureReader:
        """The reader of ``cfg.MODEL.TRACE``, on its backbone or on one that is there already."""
        # Checked before anything is loaded.
        settings, attention = FeatureSettings.from_config(cfg), AttentionSettings.from_config(cfg)
        batch = PassSettings.from_config(cfg).batch
        backbone = backbone or build_backbone(cfg)
        if settings.kind == "attention":
            check_kernels(attention.kernels, backbone.device, backbone.dtype)
            check_blocks(backbone, attention.blocks, "MODEL.TRACE.ATTENTION.BLOCKS")
        elif settings.key_block >= 0:
            check_blocks(backbone, (settings.key_block,), f"{settings.node}.KEY_BLOCK")
        if cfg.MODEL.TRACE.BACKBONE.COMPILE:
            backbone.compile_network()
        return cls(backbone, settings, attention, seed=cfg.MODEL.TRACE.SEED, batch=batch)

    @torch.no_grad()
    def find(self, images: Sequence[ReadyImage]) -> list[TokenFeatures]:
        """Features of images of one size, by one pass for all of them.

        Raises:
            FloatingPointError: some are no finite numbers.
        """
        read = [image.read for image in images]
        height, width, _ = read[0].pixels.shape
        layout = self.backbone.layout((height, width))
        prepared = self.backbone.prepare(*self.backbone.place(read))
        prepared = self.backbone.with_prompts(prepared, [image.prompt for image in read])
        reader = self._reader(layout)
        with native_attention(self.backbone), reader:
            timesteps = [self.settings.timestep] if self.backbone.timesteps else []
            self.backbone.run(prepared, timesteps)
        if isinstance(reader, KeyReader):
            grid, found = reader.grid, key_features(reader.keys())
        else:
            grid, found = layout.largest, attention_features(reader.attention())
        if not bool(torch.isfinite(found).all()):
            raise not_finite("features are", self.backbone.dtype)
        return [TokenFeatures(grid, features) for features in found]

    def _reader(self, layout: Any) -> SelfAttentionReader:
        network = self.backbone.network
        if self.settings.kind == "keys":
            block = self.settings.key_block
            return KeyReader(layout, block=block, stop_early=True, network=network)
        return SelfAttentionReader(
            layout,
            blocks=self.attention.blocks,
            scratch_mb=self.attention.scratch_mb,
            kernels=self.attention.kernels,
            stop_early=True,
            network=network,
        )


def key_features(keys: Tensor) -> Tensor:
    """Keys (..., N, D) as float32 of length 1 (TokenCut, MaskCut, ProMerge)."""
    return functional.normalize(keys.float(), dim=-1)


def attention_features(attention: Tensor) -> Tensor:
    """Square roots of the rows of maps (..., N, N), centred and of length 1, float32.

    The inner product of two square roots is the overlap of two distributions (Bhattacharyya's
    coefficient). What all rows of an image share is taken away, so that cosines lie around 0.
    """
    roots = attention.float().sqrt()
    roots -= roots.mean(dim=-2, keepdim=True)
    length = torch.linalg.vector_norm(roots, dim=-1, keepdim=True)
    return roots.div_(length.clamp_min(_ROUNDING)).masked_fill_(length < _ROUNDING, 0.0)
