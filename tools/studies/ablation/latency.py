"""Processor time an image, one thread: from pixels in memory to edges at the image's size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ablation.rows import TEACHERS, Teacher
from ablation.scoring import HeldOut
from ablation.teacher import Trajectory, edges_of
from trace_d2.attention import AttentionSettings
from trace_d2.backbones.passes import timesteps_per_pass
from trace_d2.edges import (
    EdgeDetector,
    EdgeSource,
    attention_boundary_divergence,
    instance_emergence_point,
)
from trace_d2.edges.baselines import FILTERS, FilterEdges
from trace_d2.edges.detector import AttentionView, EmergenceSettings

_REPEATS = 3  # of what takes milliseconds


def measure_latency(detector: EdgeDetector, scenes: list[HeldOut]) -> dict[str, dict[str, float]]:
    """Medians over ``scenes``, in turn, so that drift is shared.

    Returns:
        Row -> ``ms``; where divergences are compared, ``iep_ms`` and ``abdiv_ms`` of these alone.
    """
    # Where an image is read, and where the threshold lies, cost nothing: one for all alike. The
    # study has no time for searches that are read of some blocks.
    costs = {
        row: replace(
            teacher,
            timestep=min(teacher.timestep, 0),
            threshold="mean_std",
            blocks=tuple(range(len(teacher.blocks))),
        )
        for row, teacher in TEACHERS.items()
        if teacher.timestep >= 0 or not teacher.blocks
    }
    taken: dict[Teacher, list[float]] = {cost: [] for cost in costs.values()}
    teacher_edges(detector, TEACHERS["t 0"], scenes[0].scene.image, "warm-up")
    for truth in scenes:
        for cost, times in tqdm(taken.items(), desc="latency"):
            image, key = truth.scene.image, truth.key
            times.append(seconds(teacher_edges, detector, cost, image, key))
    rows = {row: {"ms": _median_ms(taken[cost])} for row, cost in costs.items()}
    trajectory = Trajectory(detector, scenes[0].scene.image, scenes[0].key)
    for row, teacher in TEACHERS.items():
        if row.startswith(("teacher", "iep", "abdiv", "neighbours")):
            neighbours = (trajectory.maps[500], trajectory.layout.largest)
            divergence = (teacher.neighbourhood, teacher.abdiv)
            rows[row]["iep_ms"] = _repeated(trajectory.search, teacher.metric, teacher.stride)
            rows[row]["abdiv_ms"] = _repeated(
                attention_boundary_divergence, *neighbours, *divergence
            )
    return rows | {
        name: measure_source(FilterEdges(find), scenes) for name, find in FILTERS.items()
    }


def measure_source(detect: EdgeSource, scenes: list[HeldOut]) -> dict[str, float]:
    """``ms`` of an edge source, each scene several times."""
    detect(scenes[0].scene.image, "warm-up")
    images = [truth.scene.image for truth in scenes for _ in range(_REPEATS)]
    return {"ms": _median_ms([seconds(detect, image, "timed") for image in images])}


def _repeated(work: Callable[..., Any], *arguments: Any) -> float:
    return _median_ms([seconds(work, *arguments) for _ in range(_REPEATS)])


def _median_ms(taken: list[float]) -> float:
    return 1000 * statistics.median(taken)


def teacher_edges(
    detector: EdgeDetector, teacher: Teacher, image: np.ndarray, key: str
) -> np.ndarray:
    """Edges (H, W) of one variant as a user gets them, no work shared; this is what is timed.

    With blocks in ``teacher`` a fixed timestep is read of them; a search reads all blocks.
    """
    fixed = teacher.timestep >= 0
    settings = AttentionSettings(blocks=teacher.blocks if fixed else ())
    with torch.no_grad():
        view = AttentionView(detector.backbone, [detector.ready(image, key).read], settings)
        if fixed:
            attention = view([teacher.timestep])[0]
        else:
            batch = timesteps_per_pass(view.layout.tokens, EmergenceSettings().memory_mb)
            steps = range(0, 1000, teacher.stride)
            attention = instance_emergence_point(view, steps, teacher.metric, batch).attention
        return edges_of(attention, view.layout.largest, teacher, image.shape)


def seconds(work: Callable[..., Any], *arguments: Any) -> float:
    """Processor time of ``work(*arguments)``: what else the machine does hardly changes it."""
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start
