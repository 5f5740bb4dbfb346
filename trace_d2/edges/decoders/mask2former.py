"""A decoder in the manner of Mask2Former: queries that each draw a part of the edges."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .base import EdgeDecoder, at_size_of, keys_as_channels, register_decoder
from .unet import UNet

_SMALLEST = 1e-4  # probability that still has a finite logit


@register_decoder("mask2former")
class Mask2FormerDecoder(EdgeDecoder):
    """Queries look at three levels of features in turn; each gives a mask and its weight.

    The edge probability is the queries' masks added up by their weights, as Mask2Former adds
    them up for a semantic class. The features are those of the U-Net decoder.

    Args:
        channels: of the finest features; a multiple of 8 and of ``heads``.
        queries: masks an image.
        layers: of the transformer decoder; they read the coarser levels in turn.
        heads: of its attention.
    """

    def __init__(
        self, *, tokens: int, channels: int = 128, queries: int = 100, layers: int = 9,
        heads: int = 8,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(channels, queries, layers, heads) < 1 or channels % 8 or channels % heads:
            raise ValueError(
                "MODEL.TRACE.STUDENT.DECODER.MASK2FORMER: all keys are positive, and CHANNELS a "
                f"multiple of 8 and of HEADS, not {channels} with {heads} heads"
            )
        self.unet = UNet(tokens, channels)
        self.projections = nn.ModuleList(
            nn.Conv2d(channels * 2**level, channels, 1) for level in (3, 2, 1)[:layers]
        )
        self.queries = nn.Parameter(torch.randn(queries, channels))
        self.levels = nn.Parameter(torch.randn(len(self.projections), channels))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                channels, heads, 4 * channels, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.weight = nn.Linear(channels, 1)
        # So that all queries together start near one half: near 1 nothing would be learned.
        nn.init.constant_(self.weight.bias, -math.log(queries))
        self.mask = nn.Linear(channels, channels)

    def forward(self, attention: Tensor, grid: tuple[int, int], pixels: Tensor) -> Tensor:
        finest, *others = self.unet(keys_as_channels(attention, grid))
        memories = [
            projection(level).flatten(2).transpose(1, 2) + place
            # Fewer layers than levels read the coarsest ones only.
            for projection, level, place in zip(
                self.projections, reversed(others), self.levels, strict=False
            )
        ]
        x = self.queries.expand(len(attention), -1, -1)
        for index, layer in enumerate(self.layers):
            x = layer(x, memories[index % len(memories)])
        x = self.norm(x)
        scale = finest.shape[1] ** -0.5
        masks = torch.einsum("bqc,bchw->bqhw", self.mask(x), finest * scale).float()
        weights = self.weight(x).float().sigmoid()
        # One minus the chance that no query draws the pixel: never above 1, unlike a plain sum.
        drawn = (1 - _SMALLEST) * weights[..., None] * masks.sigmoid()
        missed = torch.log1p(-drawn).sum(dim=1) - _SMALLEST  # logarithm of a chance below 1
        logits = torch.log(-torch.expm1(missed)) - missed
        return at_size_of(pixels, logits[:, None])
