"""An image in, instance edges out: by the teacher's search or by the student's one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trace_d2.attention import AttentionLayout, SelfAttentionReader, native_attention
from trace_d2.attention.divergences import DIVERGENCES
from trace_d2.backbones import DiffusionBackbone, build_backbone

from .abdiv import (
    THRESHOLDS,
    attention_boundary_divergence,
    normalise_edges,
    upsample_edges,
)
from .emergence import instance_emergence_point
from .sources import EdgeOutput
from .student import EdgeStudent, blank_latent, load_student
from .student_files import student_folder


class EdgeDetector:
    """The teacher: instance edges by a diffusion backbone (Algorithms 1 and 2).

    An ``EdgeSource``.

    Args:
        backbone: image -> latent -> one forward pass at a timestep.
        seed: with the image's key it fixes the noise, whatever the batch or the order.
        stride: of the trajectory ``range(0, 1000, stride)``.
        metric: divergence between timesteps.
        fixed_timestep: a timestep to read instead of searching; -1 searches.
        batch: timesteps a forward pass; 0: as many as ``memory_mb`` MiB of maps allow.
        neighbourhood: of ABDiv, 4 or 8.
        threshold: what falls on 0.5 of the edges, see ``normalise_edges``.
        blocks, scratch_mb: see ``SelfAttentionReader``.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        *,
        seed: int = 0,
        stride: int = 100,
        metric: str = "kl",
        fixed_timestep: int = -1,
        batch: int = 0,
        memory_mb: float = 256,
        neighbourhood: int = 4,
        threshold: str = "mean_std",
        blocks: Sequence[int] = (),
        scratch_mb: float = 16,
    ) -> None:
        if not 1 <= stride < 1000:
            raise ValueError(f"EMERGENCE.STRIDE lies in 1..999, not {stride}")
        if metric not in DIVERGENCES:
            raise ValueError(f"EMERGENCE.METRIC is one of {', '.join(DIVERGENCES)}, not {metric}")
        if not -1 <= fixed_timestep < 1000:
            raise ValueError(f"EMERGENCE.FIXED_TIMESTEP lies in -1..999, not {fixed_timestep}")
        if batch < 0:
            raise ValueError(f"EMERGENCE.BATCH is 0 or more, not {batch}")
        if neighbourhood not in (4, 8):
            raise ValueError(f"ABDIV.NEIGHBOURHOOD is 4 or 8, not {neighbourhood}")
        if threshold not in THRESHOLDS:
            raise ValueError(f"ABDIV.THRESHOLD is one of {', '.join(THRESHOLDS)}, not {threshold}")
        self.backbone = backbone
        self.seed = seed
        self.timesteps = tuple(range(0, 1000, stride))
        self.metric = metric
        self.fixed_timestep = fixed_timestep
        self.batch = batch
        self.memory_mb = memory_mb
        self.neighbourhood = neighbourhood
        self.threshold = threshold
        self.blocks = tuple(blocks)
        self.scratch_mb = scratch_mb

    @classmethod
    def from_config(cls, cfg: Any, backbone: DiffusionBackbone | None = None) -> EdgeDetector:
        """The detector of ``cfg.MODEL.TRACE``, on its backbone or on one that is there already."""
        trace = cfg.MODEL.TRACE
        return cls(
            build_backbone(cfg) if backbone is None else backbone,
            seed=trace.SEED,
            stride=trace.EMERGENCE.STRIDE,
            metric=trace.EMERGENCE.METRIC,
            fixed_timestep=trace.EMERGENCE.FIXED_TIMESTEP,
            batch=trace.EMERGENCE.BATCH,
            memory_mb=trace.EMERGENCE.MEMORY_MB,
            neighbourhood=trace.ABDIV.NEIGHBOURHOOD,
            threshold=trace.ABDIV.THRESHOLD,
            blocks=trace.ATTENTION.BLOCKS,
            scratch_mb=trace.ATTENTION.SCRATCH_MB,
        )

    def __call__(self, image: np.ndarray, key: str) -> EdgeOutput:
        """Edges of ``image``, (H, W, 3) uint8 RGB; ``key`` (a file stem) fixes its noise."""
        with torch.no_grad():
            latent = self.backbone.encode(self.backbone.prepare(image))
            noise = self.backbone.noise(latent, self.seed, key)
            layout = self.backbone.attention_layout(latent)
            timestep, attention, curve = self._emergence(latent, noise, layout)
            abdiv = attention_boundary_divergence(attention, layout.largest, self.neighbourhood)
            edges = upsample_edges(normalise_edges(abdiv, self.threshold), image.shape[:2])
        return EdgeOutput(edges.cpu().numpy(), abdiv.float().cpu().numpy(), timestep, curve)

    def _emergence(
        self, latent: Tensor, noise: Tensor, layout: AttentionLayout
    ) -> tuple[int, Tensor, dict[int, float]]:
        def read(timesteps: Sequence[int]) -> Tensor:
            return self.read_attention(latent, noise, timesteps, layout)

        if self.fixed_timestep >= 0:
            return self.fixed_timestep, read([self.fixed_timestep])[0], {}
        batch = self.batch or timesteps_per_pass(layout.tokens, self.memory_mb)
        found = instance_emergence_point(read, self.timesteps, self.metric, batch)
        return found.timestep, found.attention, found.curve

    def read_attention(
        self, latent: Tensor, noise: Tensor, timesteps: Sequence[int], layout: AttentionLayout
    ) -> Tensor:
        """Maps (b, N, N) of one latent (1, c, h, w) at b timesteps, in one forward pass."""
        steps = torch.tensor(list(timesteps), device=latent.device)
        shape = (len(steps), *latent.shape[1:])
        noised = self.backbone.add_noise(latent.expand(shape), noise.expand(shape), steps)
        reader = SelfAttentionReader(layout, blocks=self.blocks, scratch_mb=self.scratch_mb)
        with native_attention(self.backbone), reader:
            self.backbone(noised, steps)
        return reader.attention()


class StudentDetector:
    """The student: instance edges by one forward pass, an ``EdgeSource``.

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
            ValueError, FileNotFoundError: see ``load_student``.
        """
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
        return EdgeOutput(upsample_edges(edges, image.shape[:2]).cpu().numpy(), timestep=0)


def timesteps_per_pass(tokens: int, memory_mb: float) -> int:
    """How many float32 maps of ``tokens`` x ``tokens`` fit in ``memory_mb`` MiB; at least 1."""
    return max(1, int(memory_mb * 2**20 // (4 * tokens**2)))
