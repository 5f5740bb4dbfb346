"""Every variant of the teacher from one reading of an image's trajectory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ablation.rows import BLOCKS, FINEST_STRIDE, Teacher
from trace_d2.attention import SelfAttentionReader, native_attention
from trace_d2.backbones.passes import timesteps_per_pass
from trace_d2.edges import (
    EdgeDetector,
    attention_boundary_divergence,
    instance_emergence_point,
    normalise_edges,
)
from trace_d2.edges.abdiv import upsample_edges
from trace_d2.edges.detector import AttentionView
from trace_d2.edges.emergence import Emergence

_MEMORY_MB = 32  # of the maps of one forward pass: larger batches are no faster


class Trajectory:
    """The maps of one image (H, W, 3) along the finest trajectory, read once.

    Of ``detector`` backbone and seed count, which fixes the noise with ``key``.
    """

    @torch.no_grad()
    def __init__(self, detector: EdgeDetector, image: np.ndarray, key: str) -> None:
        self.size = image.shape[:2]
        self.view = AttentionView(detector.backbone, [detector.ready(image, key).read])
        self.layout = self.view.layout
        self.maps: dict[float, Tensor] = {}
        self._found: dict[tuple[str, int], Emergence] = {}
        self._blocks: dict[float, list[Tensor]] = {}
        steps: list[float] = list(range(0, 1000, FINEST_STRIDE))
        batch = timesteps_per_pass(self.layout.tokens, _MEMORY_MB)
        for start in range(0, len(steps), batch):
            part = steps[start : start + batch]
            self.maps |= zip(part, self.view(part), strict=True)

    def search(self, metric: str, stride: int) -> Emergence:
        """t* and the curve by a divergence at every ``stride``."""
        return instance_emergence_point(
            lambda part: self.maps[part[0]][None], range(0, 1000, stride), metric
        )

    def emergence(self, metric: str, stride: int) -> Emergence:
        """``search``, done once."""
        if (metric, stride) not in self._found:
            self._found[metric, stride] = self.search(metric, stride)
        return self._found[metric, stride]

    def reading(self, teacher: Teacher) -> Teacher:
        """``teacher`` with its timestep fixed; equal readings have equal edges."""
        timestep = teacher.timestep
        if timestep < 0:
            timestep = int(self.emergence(teacher.metric, teacher.stride).timestep)
        return replace(teacher, timestep=timestep, metric=Teacher.metric, stride=Teacher.stride)

    def attention(self, timestep: float, blocks: tuple[int, ...]) -> Tensor:
        """The map (N, N) at ``timestep``, the mean over ``blocks``, or over all."""
        if not blocks:
            return self.maps[timestep]
        if timestep not in self._blocks:
            self._blocks[timestep] = self._read_blocks(timestep)
        return torch.stack([self._blocks[timestep][block] for block in blocks]).mean(dim=0)

    @torch.no_grad()
    def _read_blocks(self, timestep: float) -> list[Tensor]:
        """The map of each block, all read in one forward pass."""
        backbone = self.view.backbone
        readers = [SelfAttentionReader(self.layout, blocks=[block]) for block in range(BLOCKS)]
        with native_attention(backbone), ExitStack() as stack:
            for reader in readers:
                stack.enter_context(reader)
            backbone.run(self.view.prepared, [timestep])
        return [reader.attention()[0] for reader in readers]

    def edges(self, reading: Teacher) -> np.ndarray:
        """Edges (H, W) float32 in 0..1."""
        attention = self.attention(reading.timestep, reading.blocks)
        return edges_of(attention, self.layout.largest, reading, self.size)


def edges_of(
    attention: Tensor, grid: tuple[int, int], teacher: Teacher, size: tuple[int, ...]
) -> np.ndarray:
    """Edges (H, W) float32 in 0..1 of a map (N, N), by divergence and threshold of ``teacher``."""
    abdiv = attention_boundary_divergence(attention, grid, teacher.neighbourhood, teacher.abdiv)
    edges = normalise_edges(abdiv, teacher.threshold)
    return upsample_edges(edges, (size[0], size[1])).cpu().numpy()
