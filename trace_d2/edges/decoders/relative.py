"""Our own decoder: what each token gives to those around it, the same way everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trace_d2.edges.abdiv import batched_boundary_divergence

from .base import EdgeDecoder, at_size_of, register_decoder

_SMALLEST = 1e-3  # of a share of attention or of ABDiv, against its mean: logarithms stay finite


@register_decoder("relative")
class RelativeDecoder(EdgeDecoder):
    """Reads the attention inside a window around each token, and ABDiv; convolutions do the rest.

    Nothing depends on where a token lies or on how many there are, so the decoder reads grids of
    any size. A decoder over keys as channels learns each place of one grid by itself.

    Args:
        window: side of the window in tokens, odd.
        channels: of the convolutions.
        layers: residual blocks at the resolution of the grid.
        upsample: the edges' resolution is that of the grid times this; bilinear from there on.
        image: show the image to the last convolutions, so that an edge finds its place between
            two tokens.
    """

    of_one_grid = False

    def __init__(
        self,
        *,
        tokens: int = 0,
        window: int = 7,
        channels: int = 48,
        layers: int = 3,
        upsample: int = 4,
        image: bool = True,
    ) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0 or min(channels, upsample) < 1 or layers < 0:
            raise ValueError(
                "MODEL.TRACE.STUDENT.DECODER.RELATIVE: WINDOW is odd, it, CHANNELS and UPSAMPLE "
                f"are 1 or more and LAYERS 0 or more, not {window}, {channels}, {upsample}, "
                f"{layers}"
            )
        self.window, self.upsample, self.image = window, upsample, image
        self.entry = nn.Conv2d(window**2 + 2, channels, 1)
        self.blocks = nn.ModuleList(_Residual(channels) for _ in range(layers))
        fine = max(8, channels // 3)
        self.expand = nn.Conv2d(channels, fine * upsample**2, 1)
        self.merge = nn.Conv2d(fine + 3 * image, fine, 3, padding=1)
        self.exit = nn.Conv2d(fine, 1, 3, padding=1)

    def forward(self, attention: Tensor, grid: tuple[int, int], pixels: Tensor) -> Tensor:
        x = self.entry(relative_features(attention, grid, self.window, self.kernels))
        for block in self.blocks:
            x = block(x)
        x = functional.gelu(functional.pixel_shuffle(self.expand(x), self.upsample))
        if self.image:
            guide = functional.interpolate(pixels, size=x.shape[-2:], mode="area")
            x = torch.cat((x, guide.to(x.dtype)), dim=1)
        logits = self.exit(functional.gelu(self.merge(x)))
        return at_size_of(pixels, logits)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(functional.gelu(self.first(functional.gelu(x))))
        return x + residual


def relative_features(
    attention: Tensor, grid: tuple[int, int], window: int, kernels: str = "auto"
) -> Tensor:
    """Logarithms of the attention around each token and of ABDiv, each against its mean.

    Returns:
        (B, window^2 + 2, h, w): the shares of the window's attention, row by row; the window's
        part of all attention; ABDiv over its mean in the image.
    """
    near = window_attention(attention, grid, window)
    part = near.sum(dim=1, keepdim=True)
    shares = near / part.clamp_min(torch.finfo(part.dtype).tiny) * window**2
    abdiv = batched_boundary_divergence(attention, grid, kernels=kernels)[:, None]
    mean = abdiv.mean(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(part.dtype).tiny)
    features = torch.cat((shares, part, abdiv / mean), dim=1)
    return (features + _SMALLEST).log()


def window_attention(attention: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """What each token gives to the keys around it: (B, window^2, h, w), 0 outside the grid."""
    height, width = grid
    reach = window // 2
    offsets = torch.arange(-reach, reach + 1, device=attention.device)
    rows = torch.arange(height, device=attention.device)[:, None] + offsets
    columns = torch.arange(width, device=attention.device)[:, None] + offsets
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & (
        (columns >= 0) & (columns < width)
    )[None, :, None, :]
    keys = rows.clamp(0, height - 1)[:, None, :, None] * width
    keys = (keys + columns.clamp(0, width - 1)[None, :, None, :]).reshape(height * width, -1)
    near = attention.gather(2, keys.expand(len(attention), -1, -1))
    near = near * inside.reshape(1, height * width, -1).to(near.dtype)
    return near.transpose(1, 2).unflatten(2, grid)
