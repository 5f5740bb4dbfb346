"""Sizes of tiles, chosen for registers: no kernel spills (tools/benchmarks/compile_kernels.py)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tiles:
    """What one program works on at a time.

    Attributes:
        rows, keys: of a tile of the map.
        warps, stages: see ``launch.Launch``.
    """

    rows: int
    keys: int
    warps: int = 4
    stages: int = 3


def map_tiles(dtype: torch.dtype, width: int) -> Tiles:
    """Of the two passes to the map, for heads of ``width`` features, a power of 2."""
    if dtype == torch.float32:  # no tensor cores: products take registers
        return Tiles(32, 32, stages=2 if width <= 64 else 1)
    return Tiles(64, 64) if width <= 128 else Tiles(64, 32, stages=2)


def gradient_tiles(dtype: torch.dtype, width: int) -> Tiles:
    """Of the backward pass."""
    if dtype == torch.float32:
        return Tiles(32, 32, stages=1) if width <= 64 else Tiles(16, 16, stages=1)
    rows, keys = (64, 64) if width <= 64 else (64, 32) if width <= 128 else (32, 32)
    return Tiles(rows, keys, stages=2)
