"""Images in, instance edges out: by the teacher's search or by the student's one pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
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
from trace_d2.attention.kernels.choice import check_kernels
from trace_d2.backbones import AttentionBackbone, build_backbone
from trace_d2.backbones.backbone import ReadImage, square_layout
from trace_d2.backbones.blocks import check_blocks
from trace_d2.backbones.passes import (
    ImagePasses,
    ReadyImage,
    not_finite,
    timesteps_per_pass,
    to_host,
)
from trace_d2.backbones.settings import PassSettings

from .abdiv import attention_boundary_divergence, normalise_edges, upsample_edges
from .emergence import most_changed, search_trajectory
from .settings import AbdivSettings, EmergenceSettings, check_whole
from .sources import EdgeOutput
from .student import EdgeStudent
from .student_files import student_folder
from .student_loading import load_student


class AttentionView:
    """Images of one size before a backbone: called with timesteps, it gives the maps there.

    A call is one forward pass. Of B images and b timesteps it gives (B b, N, N), image by image.
    """

    def __init__(
        self,
        backbone: AttentionBackbone,
        images: Sequence[ReadImage],
        settings: AttentionSettings = AttentionSettings(),
    ) -> None:
        self.backbone, self.settings, self.images = backbone, settings, len(images)
        height, width, _ = images[0].pixels.shape
        self.size = height, width
        self.layout: AttentionLayout = backbone.layout(self.size)
        prepared = backbone.prepare(*backbone.place(images))
        self.prepared = backbone.with_prompts(prepared, [image.prompt for image in images])

    @torch.no_grad()
    def __call__(self, timesteps: Sequence[float]) -> Tensor:
        reader = SelfAttentionReader(
            self.layout,
            blocks=self.settings.blocks,
            scratch_mb=self.settings.scratch_mb,
            kernels=self.settings.kernels,
            stop_early=True,
            network=self.backbone.network,
        )
        with native_attention(self.backbone), reader:
            self.backbone.run(self.prepared, timesteps)
        return reader.attention()


class EdgeDetector(ImagePasses[EdgeOutput]):
    """The teacher: instance edges by a backbone (Algorithms 1 and 2), an ``EdgeSource``.

    A backbone without timesteps is read once, and ABDiv of that is all.

    Args:
        emergence, abdiv, attention: see the config.
        backbone, seed, batch: see ``ImagePasses``. Images share a pass as long as their whole
            trajectories fit into one.

    Attributes:
        timestep: where all images are read; None: each where the search says.
    """

    def __init__(
        self,
        backbone: AttentionBackbone,
        emergence: EmergenceSettings = EmergenceSettings(),
        abdiv: AbdivSettings = AbdivSettings(),
        attention: AttentionSettings = AttentionSettings(),
        *,
        seed: int = 0,
        batch: int = 0,
    ) -> None:
        self.emergence, self.abdiv, self.attention = emergence, abdiv, attention
        fixed = emergence.fixed_timestep
        self.timestep: float | None = None if fixed < 0 else fixed
        self._scheduled: dict[tuple[int, int], tuple[float, ...]] = {}
        super().__init__(backbone, seed, batch)
        if self.batch > 1:
            a_pass = self.timesteps_a_pass(square_layout(backbone))
            an_image = len(self.trajectory(backbone.size_of((1, 1)))) if self.searches else 1
            self.batch = max(1, min(self.batch, a_pass // an_image))

    @classmethod
    def from_config(cls, cfg: Any, backbone: AttentionBackbone | None = None) -> EdgeDetector:
        """The detector of ``cfg.MODEL.TRACE``, on its backbone or on one that is there already.

        Raises:
            ValueError: a wrong key, named; also where ``MODEL.TRACE.EDGES.TILES`` asks for tiles,
                which ``build_edge_source`` gives.
        """
        # Checked before anything is loaded.
        check_whole(cfg, cls.__name__)
        emergence, abdiv = EmergenceSettings.from_config(cfg), AbdivSettings.from_config(cfg)
        attention, batch = AttentionSettings.from_config(cfg), PassSettings.from_config(cfg).batch
        backbone = backbone or build_backbone(cfg)
        check_kernels(attention.kernels, backbone.device, backbone.dtype)
        check_blocks(backbone, attention.blocks, "MODEL.TRACE.ATTENTION.BLOCKS")
        if cfg.MODEL.TRACE.BACKBONE.COMPILE:
            backbone.compile_network()
        return cls(backbone, emergence, abdiv, attention, seed=cfg.MODEL.TRACE.SEED, batch=batch)

    @torch.no_grad()
    def find(self, images: Sequence[ReadyImage]) -> list[EdgeOutput]:
        view = AttentionView(self.backbone, [image.read for image in images], self.attention)
        steps = self.trajectory(view.size)
        results = []
        for (attention, changes), (_, size) in zip(self._look(view, steps), images, strict=True):
            abdiv = attention_boundary_divergence(
                attention,
                view.layout.largest,
                self.abdiv.neighbourhood,
                self.abdiv.metric,
                kernels=self.attention.kernels,
            )
            edges = self.strengths(abdiv, size)
            results += [edges, abdiv.float(), changes]
        arrays = iter(to_host(results))
        outputs = []
        for strength, divergence, curve in zip(arrays, arrays, arrays, strict=True):
            found = self._emergence(steps, curve.tolist())  # names the timestep that failed
            outputs.append(EdgeOutput(_finite(strength, self.backbone.dtype), divergence, *found))
        return outputs

    def strengths(self, abdiv: Tensor, size: tuple[int, int]) -> Tensor:
        """Edges (H, W) float32 in 0..1 at ``size`` of ABDiv (h, w), by its mean and deviation."""
        return upsample_edges(normalise_edges(abdiv, self.abdiv.threshold), size)

    def at(self, timestep: float) -> EdgeDetector:
        """This detector, which reads there instead of searching."""
        reader = copy.copy(self)
        reader.timestep = timestep
        return reader

    @property
    def searches(self) -> bool:
        """Whether each image has an emergence point of its own."""
        return bool(self.backbone.timesteps) and self.timestep is None

    def view(self, image: np.ndarray, key: str) -> AttentionView:
        """``image`` before the backbone."""
        return AttentionView(self.backbone, [self.ready(image, key).read], self.attention)

    def trajectory(self, size: tuple[int, int]) -> tuple[float, ...]:
        """tau_0 < ... < tau_N of images that are read at ``size`` (h, w) in pixels.

        None where the backbone has no timesteps.
        """
        stride = self.emergence.stride
        if not self.backbone.timesteps or self.emergence.spacing == "uniform":
            return tuple(self.backbone.timesteps[::stride])
        if size not in self._scheduled:
            steps = max(2, 1000 // stride)
            self._scheduled[size] = self.backbone.scheduled_timesteps(steps, size)
        return self._scheduled[size]

    def timesteps_a_pass(self, layout: AttentionLayout) -> int:
        """Timesteps a forward pass over ``layout``."""
        settings = self.emergence
        return settings.batch or timesteps_per_pass(layout.tokens, settings.memory_mb)

    def _look(self, view: AttentionView, steps: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
        """The map (N, N) of each image where it is read, and the divergences on the way there."""
        if not self.searches:
            maps = view([self.timestep] if self.timestep is not None and steps else ())
            return [(attention, attention.new_empty(0)) for attention in maps]
        metric, kernels = self.emergence.metric, self.attention.kernels
        if view.images == 1:
            batch = self.timesteps_a_pass(view.layout)
            return [search_trajectory(view, steps, metric, batch, kernels)]
        read = view(steps).unflatten(0, (view.images, len(steps)))
        return [
            search_trajectory(partial(_all, maps), steps, metric, len(steps), kernels)
            for maps in read
        ]

    def _emergence(
        self, steps: tuple[float, ...], changes: Sequence[float]
    ) -> tuple[float | None, dict[float, float]]:
        if self.searches:
            return most_changed(steps, changes, self.backbone.dtype)
        return self.timestep if steps else None, {}


def _all(maps: Tensor, timesteps: Sequence[float]) -> Tensor:
    """``maps`` that were read at all ``timesteps``."""
    return maps


class StudentDetector(ImagePasses[EdgeOutput]):
    """The student: instance edges by one forward pass, an ``EdgeSource``.

    ``seed`` and ``batch``: see ``ImagePasses``.
    """

    def __init__(self, student: EdgeStudent, seed: int = 0, batch: int = 0) -> None:
        self.student = student.eval()
        super().__init__(student.backbone, seed, batch)

    @classmethod
    def from_config(cls, cfg: Any, backbone: AttentionBackbone | None = None) -> StudentDetector:
        """The student of ``cfg.MODEL.TRACE``, on its backbone or on one that is there already.

        Raises:
            ValueError: see ``EdgeDetector.from_config``.
        """
        check_whole(cfg, cls.__name__)
        folder, batch = student_folder(cfg), PassSettings.from_config(cfg).batch
        attention = AttentionSettings.from_config(cfg)
        trace = cfg.MODEL.TRACE
        student = load_student(
            folder,
            backbone or build_backbone(cfg),
            merge_lora=trace.STUDENT.MERGE_LORA,
            attention=attention,
        )
        check_kernels(attention.kernels, student.backbone.device, student.backbone.dtype)
        if trace.BACKBONE.COMPILE:
            student.backbone.compile_network()
        return cls(student, trace.SEED, batch)

    @torch.inference_mode()
    def find(self, images: Sequence[ReadyImage]) -> list[EdgeOutput]:
        read = [image.read for image in images]
        prompts = [image.prompt for image in read]
        pixels, noise = self.backbone.place(read)
        logits = self.student(pixels, noise, prompts, reconstruct=False).logits
        edges = [
            upsample_edges(own.sigmoid(), size)
            for own, (_, size) in zip(logits, images, strict=True)
        ]
        dtype = self.backbone.dtype
        return [EdgeOutput(_finite(found, dtype), timestep=0) for found in to_host(edges)]


def _finite(edges: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """``edges``; a FloatingPointError if the network gave what is no number."""
    if not np.isfinite(edges).all():
        raise not_finite("attention is", dtype)
    return edges
