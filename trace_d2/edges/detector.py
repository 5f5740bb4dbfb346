"""An image in, instance edges out: by the teacher's search or by the student's one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trace_d2.attention import (
    AttentionLayout,
    AttentionSettings,
    SelfAttentionReader,
    native_attention,
)
from trace_d2.attention.divergences import DIVERGENCES
from trace_d2.backbones import AttentionBackbone, build_backbone
from trace_d2.settings import NodeSettings, one_of, within

from .abdiv import (
    NEIGHBOURHOODS,
    THRESHOLDS,
    attention_boundary_divergence,
    normalise_edges,
    upsample_edges,
)
from .emergence import instance_emergence_point
from .sources import EdgeOutput
from .student import EdgeStudent
from .student_files import student_folder
from .student_loading import load_student


@dataclass(frozen=True)
class EmergenceSettings(NodeSettings, node="MODEL.TRACE.EMERGENCE"):
    """The search along the trajectory (Algorithm 1)."""

    stride: int = within(1, 999, default=100)
    metric: str = one_of(*DIVERGENCES, default="kl")
    fixed_timestep: int = within(-1, 999, default=-1)
    batch: int = within(0, default=0)
    memory_mb: float = 256


@dataclass(frozen=True)
class AbdivSettings(NodeSettings, node="MODEL.TRACE.ABDIV"):
    """Boundary divergence (Algorithm 2)."""

    neighbourhood: int = one_of(*NEIGHBOURHOODS, default=4)
    threshold: str = one_of(*THRESHOLDS, default="mean_std")


class AttentionView:
    """One image before a backbone: called with timesteps, it gives the maps (b, N, N) there.

    A call is one forward pass. ``key`` and ``seed`` fix the noise.
    """

    def __init__(
        self,
        backbone: AttentionBackbone,
        image: np.ndarray,
        key: str,
        seed: int = 0,
        settings: AttentionSettings = AttentionSettings(),
    ) -> None:
        self.backbone, self.settings = backbone, settings
        pixels = backbone.to_pixels(image)
        self.layout: AttentionLayout = backbone.layout((pixels.shape[-2], pixels.shape[-1]))
        self.prepared = backbone.prepare(pixels, (seed, key))

    @torch.no_grad()
    def __call__(self, timesteps: Sequence[int]) -> Tensor:
        reader = SelfAttentionReader(
            self.layout,
            blocks=self.settings.blocks,
            scratch_mb=self.settings.scratch_mb,
            kernels=self.settings.kernels,
            stop_early=True,
        )
        with native_attention(self.backbone), reader:
            self.backbone.run(self.prepared, timesteps)
        return reader.attention()


class EdgeDetector:
    """The teacher: instance edges by a backbone (Algorithms 1 and 2), an ``EdgeSource``.

    A backbone without timesteps is read once, and ABDiv of that is all.

    Args:
        backbone: shows its attention to an image.
        emergence, abdiv, attention: see the config.
        seed: with the image's key it fixes the noise, whatever the batch or the order.
    """

    def __init__(
        self,
        backbone: AttentionBackbone,
        emergence: EmergenceSettings = EmergenceSettings(),
        abdiv: AbdivSettings = AbdivSettings(),
        attention: AttentionSettings = AttentionSettings(),
        *,
        seed: int = 0,
    ) -> None:
        self.backbone, self.seed = backbone, seed
        self.emergence, self.abdiv, self.attention = emergence, abdiv, attention
        self.timesteps = tuple(backbone.timesteps[:: self.emergence.stride])

    @classmethod
    def from_config(cls, cfg: Any, backbone: AttentionBackbone | None = None) -> EdgeDetector:
        """The detector of ``cfg.MODEL.TRACE``, on its backbone or on one that is there already."""
        # Checked before anything is loaded.
        emergence, abdiv = EmergenceSettings.from_config(cfg), AbdivSettings.from_config(cfg)
        attention = AttentionSettings.from_config(cfg)
        backbone = backbone or build_backbone(cfg)
        return cls(backbone, emergence, abdiv, attention, seed=cfg.MODEL.TRACE.SEED)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, key: str) -> EdgeOutput:
        """Edges of ``image``, (H, W, 3) uint8 RGB; ``key`` (a file stem) fixes its noise."""
        view = self.view(image, key)
        timestep, attention, curve = self._emergence(view)
        abdiv = attention_boundary_divergence(
            attention, view.layout.largest, self.abdiv.neighbourhood
        )
        edges = normalise_edges(abdiv, self.abdiv.threshold)
        edges = upsample_edges(edges, (image.shape[0], image.shape[1]))
        return EdgeOutput(edges.cpu().numpy(), abdiv.float().cpu().numpy(), timestep, curve)

    def view(self, image: np.ndarray, key: str) -> AttentionView:
        """``image`` before the backbone."""
        return AttentionView(self.backbone, image, key, self.seed, self.attention)

    def batch(self, layout: AttentionLayout) -> int:
        """Timesteps a forward pass over ``layout``."""
        settings = self.emergence
        return settings.batch or timesteps_per_pass(layout.tokens, settings.memory_mb)

    def _emergence(self, view: AttentionView) -> tuple[int | None, Tensor, dict[int, float]]:
        if not self.timesteps:
            return None, view(())[0], {}
        fixed = self.emergence.fixed_timestep
        if fixed >= 0:
            return fixed, view([fixed])[0], {}
        batch = self.batch(view.layout)
        found = instance_emergence_point(view, self.timesteps, self.emergence.metric, batch)
        return found.timestep, found.attention, found.curve


def timesteps_per_pass(tokens: int, memory_mb: float) -> int:
    """How many float32 maps of ``tokens`` x ``tokens`` fit in ``memory_mb`` MiB; at least 1."""
    return max(1, int(memory_mb * 2**20 // (4 * tokens**2)))


class StudentDetector:
    """The student: instance edges by one forward pass, an ``EdgeSource``.

    ``seed`` fixes the noise with an image's key, see ``EdgeDetector``.
    """

    def __init__(self, student: EdgeStudent, seed: int = 0) -> None:
        self.student = student.eval()
        self.seed = seed

    @property
    def backbone(self) -> AttentionBackbone:
        """The student's."""
        return self.student.backbone

    @classmethod
    def from_config(cls, cfg: Any, backbone: AttentionBackbone | None = None) -> StudentDetector:
        """The student of ``cfg.MODEL.TRACE``, on its backbone or on one that is there already."""
        folder = student_folder(cfg)
        trace = cfg.MODEL.TRACE
        student = load_student(
            folder,
            backbone or build_backbone(cfg),
            merge_lora=trace.STUDENT.MERGE_LORA,
            attention=AttentionSettings.from_config(cfg),
        )
        return cls(student, trace.SEED)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, key: str) -> EdgeOutput:
        """Edges of ``image``, (H, W, 3) uint8 RGB; ``key`` (a file stem) fixes its noise."""
        pixels = self.backbone.to_pixels(image)
        output = self.student(pixels, (self.seed, key), reconstruct=False)
        edges = upsample_edges(output.logits[0].sigmoid(), (image.shape[0], image.shape[1]))
        return EdgeOutput(edges.cpu().numpy(), timestep=0)
