"""Holistically-nested edge detection (HED; Xie & Tu, ICCV 2015), the paper's baseline.

Five blocks of VGG-16, each of half the resolution of the one before. A 1 x 1 convolution reads
edges out of every block; they are brought to the image's size, and their sum is the answer.
"""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trace_d2.devices import pick_device

from .baselines import check_image
from .hed_files import BLOCKS, hed_weights, read_hed
from .sources import EdgeOutput

MEANS = (104.00699, 116.66877, 122.67892)
"""Of blue, green and red, which are subtracted: those of ImageNet."""

# Tiles: pixels of a side whose edges are kept, and around it what these hang on. A cell of the last
# block is 16 pixels wide and sees 3 * 16 + 3 * 8 + 3 * 4 + 2 * 2 + 2 * 1 = 90 more on each side.
# Both are multiples of 16, so that all cells lie as in the whole image.
_CORE, _MARGIN = 1024, 96


class HedNetwork(nn.Module):
    """The network, of random weights; ``load_hed`` gives it those that were trained.

    Memory does not grow with the image but by its edges: large ones are read in tiles, which give
    what the whole would, up to rounding.

    Args:
        core: pixels of a tile's side, a multiple of 16.
    """

    means: Tensor

    def __init__(self, core: int = _CORE) -> None:
        super().__init__()
        self.core = core
        widths = [3, *(width for width, _ in BLOCKS)]
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(before if rank == 0 else width, width, 3, padding=1)
                for rank in range(depth)
            )
            for (before, width), (_, depth) in zip(pairwise(widths), BLOCKS, strict=True)
        )
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, 1) for width, _ in BLOCKS)
        self.fuse = nn.Conv2d(len(BLOCKS), 1, 1)
        self.register_buffer("means", torch.tensor(MEANS)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Edges (B, H, W) float32 in 0..1 of ``images`` (B, 3, H, W), RGB in 0..255, any size."""
        size = images.shape[-2:]
        assert self.fuse.bias is not None
        fused = self.fuse.bias.view(1, 1, 1, 1)
        for side, weight in zip(self._sides(images), self.fuse.weight[0], strict=True):
            if side.shape[-2:] != size:
                side = functional.interpolate(side, size, mode="bilinear")
            fused = torch.addcmul(fused, side, weight)
        return fused.sigmoid()[:, 0]

    def _sides(self, images: Tensor) -> list[Tensor]:
        """What each block sees, (B, 1, H / 2^k, W / 2^k) rounded up; large images tile by tile."""
        height, width = images.shape[-2:]
        if height * width <= (self.core + 2 * _MARGIN) ** 2:
            return self._read(images)
        sides: list[Tensor] = []
        for k in range(len(BLOCKS)):
            cells = (-(-height // 2**k), -(-width // 2**k))
            sides.append(self.means.new_empty((len(images), 1, *cells)))
        for top, left in product(range(0, height, self.core), range(0, width, self.core)):
            y, x = max(top - _MARGIN, 0), max(left - _MARGIN, 0)
            tile = images[..., y : top + self.core + _MARGIN, x : left + self.core + _MARGIN]
            for k, found in enumerate(self._read(tile)):
                own = sides[k][..., top >> k : (top + self.core) >> k, left >> k :]
                own = own[..., : self.core >> k]
                found = found[..., (top - y) >> k :, (left - x) >> k :]
                own.copy_(found[..., : own.shape[-2], : own.shape[-1]])
        return sides

    def _read(self, images: Tensor) -> list[Tensor]:
        found = images.flip(1) - self.means  # blue comes first
        sides = []
        for k, (block, side) in enumerate(zip(self.blocks, self.sides, strict=True)):
            if k:
                found = functional.max_pool2d(found, 2, ceil_mode=True)
            for convolution in block:  # type: ignore[attr-defined]
                found = functional.relu_(convolution(found))
            sides.append(side(found))
        return sides


def load_hed(path: Path) -> HedNetwork:
    """HED with the weights of a file; see ``read_hed`` for what may be wrong with it."""
    network = HedNetwork()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in read_hed(path).items()})
    return network.eval()


class HedDetector:
    """HED as an ``EdgeSource``: edges of photographs of any size."""

    def __init__(self, network: HedNetwork) -> None:
        self.network = network

    @classmethod
    def from_config(cls, cfg: Any) -> HedDetector:
        """Of the weights of ``MODEL.TRACE.EDGES.HED_WEIGHTS``, on ``MODEL.TRACE.DEVICE``."""
        return cls(load_hed(hed_weights(cfg)).to(pick_device(cfg)))

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, key: str) -> EdgeOutput:
        """Of ``image``, (H, W, 3) uint8 RGB; ``key`` decides nothing."""
        check_image(image)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))[None])
        return EdgeOutput(self.network(pixels.to(self.network.means.device))[0].cpu().numpy())
