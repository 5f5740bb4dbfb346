"""A U-Net over the attention map."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from .base import EdgeDecoder, at_size_of, keys_as_channels, register_decoder


@register_decoder("unet")
class UNetDecoder(EdgeDecoder):
    """Keys as channels, three reductions by two and back, with skip connections.

    With 64 channels and N 4096 about 30 MB; the paper's has 34 MB.

    Args:
        channels: of the first level, doubled by each reduction; a multiple of 8.
    """

    def __init__(self, *, tokens: int, channels: int = 64) -> None:
        super().__init__()
        if channels < 8 or channels % 8:
            raise ValueError(
                "MODEL.TRACE.STUDENT.DECODER.UNET.CHANNELS is a positive multiple of 8, not "
                f"{channels}"
            )
        self.unet = UNet(tokens, channels)
        self.exit = nn.Conv2d(channels, 1, 1)

    def forward(self, attention: Tensor, grid: tuple[int, int], pixels: Tensor) -> Tensor:
        features = self.unet(keys_as_channels(attention, grid))
        return at_size_of(pixels, self.exit(features[0]))


class UNet(nn.Module):
    """Four levels of features, the finest of ``channels``, which each reduction doubles."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(4)]
        self.entry = nn.Conv2d(inputs, channels, 1)
        self.down = nn.ModuleList(
            _double_convolution(a, b) for a, b in zip([channels, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(_double_convolution(a + b, a) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The levels on the way up, finest first: (B, channels 2^l, h / 2^l, w / 2^l)."""
        x = self.entry(x)
        levels = []
        for index, block in enumerate(self.down):
            if index:
                x = functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
            levels.append(x := block(x))
        for index in reversed(range(len(self.up))):
            x = functional.interpolate(x, size=levels[index].shape[-2:], mode="bilinear")
            levels[index] = x = self.up[index](torch.cat((levels[index], x), dim=1))
        return levels


def _double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each normalised over groups of 8 channels."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.GroupNorm(outputs // 8, outputs),
        nn.GELU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.GroupNorm(outputs // 8, outputs),
        nn.GELU(),
    )
