"""What the teacher sees at every timestep, for a look at one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .abdiv import attention_boundary_divergence, normalise_edges, upsample_edges
from .detector import EdgeDetector
from .emergence import instance_emergence_point

COMPONENTS = 3
# More than is kept, as the last ones of a randomised decomposition are inexact.
_SKETCH = 8
_SPREAD = 2.0  # standard deviations from the middle of a colour to its end


@dataclass(frozen=True)
class TrajectoryStep:
    """One timestep.

    Attributes:
        timestep: 0..1000.
        colors: (h, w, 3) float32 in 0..1, principal components of the attention rows: tokens that
            look alike attend alike. Colours agree from step to step as far as the attention does.
        abdiv: (h, w) float32, in nats.
        edges: (h, w) float32 in 0..1 of ABDiv, above 0.5 for an edge.
    """

    timestep: float
    colors: np.ndarray
    abdiv: np.ndarray
    edges: np.ndarray


@dataclass(frozen=True)
class Trajectory:
    """A whole trajectory of one image.

    Attributes:
        steps: in the order of their timesteps.
        curve: timestep -> divergence from the one before; the first has none.
        emergence: t*, where the curve is highest.
        chosen: the step that the teacher reads: t*, or the fixed timestep of the settings.
        edges: (H, W) float32 in 0..1, the teacher's edges there at the size of the image.
    """

    steps: tuple[TrajectoryStep, ...]
    curve: dict[float, float]
    emergence: float
    chosen: TrajectoryStep
    edges: np.ndarray


@torch.no_grad()
def read_trajectory(
    detector: EdgeDetector,
    image: np.ndarray,
    key: str,
    progress: Callable[[int], object] | None = None,
) -> Trajectory:
    """Attention colours, ABDiv and the curve at all timesteps; every map is read once.

    Maps live as long as the search of ``detector``, the teacher, needs them. ``progress`` is called
    with the number of timesteps done since its last call.
    """
    view = detector.view(image, key)
    grid = view.layout.largest
    steps: dict[float, TrajectoryStep] = {}
    scores: Tensor | None = None

    def read(timesteps: Sequence[float]) -> Tensor:
        nonlocal scores
        maps = view(timesteps)
        for timestep, attention in zip(timesteps, maps, strict=True):
            components = principal_components(attention)
            scores = components if scores is None else align_components(components, scores)
            abdiv = attention_boundary_divergence(
                attention,
                grid,
                detector.abdiv.neighbourhood,
                detector.abdiv.metric,
                kernels=detector.attention.kernels,
            )
            steps[timestep] = TrajectoryStep(
                timestep,
                component_colors(scores).reshape(*grid, COMPONENTS).cpu().numpy(),
                abdiv.float().cpu().numpy(),
                normalise_edges(abdiv, detector.abdiv.threshold).cpu().numpy(),
            )
            if progress:
                progress(1)
        return maps

    emergence = detector.emergence
    batch = detector.timesteps_a_pass(view.layout)
    timesteps = detector.trajectory(view.size)
    found = instance_emergence_point(read, timesteps, emergence.metric, batch)
    shown = tuple(steps[timestep] for timestep in timesteps)
    chosen: float = found.timestep
    if emergence.fixed_timestep >= 0:
        chosen = emergence.fixed_timestep
        if chosen not in steps:
            read([chosen])
    edges = upsample_edges(torch.from_numpy(steps[chosen].edges), image.shape[:2]).numpy()
    return Trajectory(shown, found.curve, found.timestep, steps[chosen], edges)


def principal_components(attention: Tensor) -> Tensor:
    """The rows of a map (N, N) by their three main components, (N, 3), each of variance 1.

    Roots of probabilities are compared (Hellinger distance), so that the few large entries around
    a token do not hide the rest. Components without spread are zeros.
    """
    rows = attention.clamp_min(0).sqrt_()
    sketch = min(_SKETCH, *rows.shape)
    devices = [rows.device] if rows.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        left, values, _ = torch.pca_lowrank(rows, q=sketch)
    scores = left.new_zeros(len(rows), COMPONENTS)
    kept = min(COMPONENTS, sketch)
    scores[:, :kept] = left[:, :kept] * len(rows) ** 0.5
    scores[:, :kept][:, values[:kept] <= 1e-6 * rows.norm()] = 0
    return scores


def align_components(components: Tensor, reference: Tensor) -> Tensor:
    """``components`` (N, 3) turned and mirrored to lie as near to ``reference`` as they can.

    The orthogonal Procrustes solution: signs, order and mixture of principal components are
    arbitrary, and would change the colours from one timestep to the next.
    """
    left, _, right = torch.linalg.svd(components.T @ reference)
    return components @ (left @ right)


def component_colors(components: Tensor) -> Tensor:
    """Components (N, 3) of variance 1 as colours in 0..1, the mean in the middle."""
    return (0.5 + components / (2 * _SPREAD)).clamp(0, 1).float()
