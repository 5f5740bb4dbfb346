"""Processor time an image, one thread: from pixels in memory to edges at the image's size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ablation.rows import TEACHERS, Teacher
from ablation.scoring import HeldOut, held_out
from ablation.teacher import Trajectory, boundary_divergence, edges_of
from ablation.work import Settings, find_detector, find_student
from trace_d2.edges import EdgeDetector, EdgeSource, instance_emergence_point
from trace_d2.edges.baselines import BASELINES
from trace_d2.edges.detector import (
    AttentionSettings,
    AttentionView,
    EmergenceSettings,
    timesteps_per_pass,
)

_REPEATS = 3  # of what takes milliseconds


def measure_latency(settings: Settings, seed: int, images: int) -> dict[str, dict[str, float]]:
    """Medians over the first ``images`` scenes of ``seed``, in turn, so that drift is shared.

    Returns:
        Row -> ``ms``; where divergences are compared, ``iep_ms`` and ``abdiv_ms`` of these alone.
    """
    scenes = _scenes(settings, seed, images)
    detector = find_detector(settings, seed)
    costs = {row: _cost(teacher) for row, teacher in TEACHERS.items()}
    alike: dict[Teacher, list[float]] = {c: [] for c in costs.values() if c is not None}
    teacher_edges(detector, TEACHERS["t 0"], scenes[0].scene.image, "warm-up")
    for truth in scenes:
        image, key = truth.scene.image, truth.key
        for cost, taken in tqdm(alike.items(), desc=f"latency, seed {seed}"):
            taken.append(seconds(teacher_edges, detector, cost, image, key))
    rows = {row: _ms(alike[cost]) for row, cost in costs.items() if cost is not None}
    for row, parts in _divergences(settings, seed, scenes[0]).items():
        rows[row] |= parts
    for name, detect in BASELINES.items():
        rows[name] = _repeated(detect, scenes)
    return rows


def measure_students(
    settings: Settings, seed: int, images: int, weights: dict[str, str]
) -> dict[str, dict[str, float]]:
    """The same of students; ``weights``: row -> folder."""
    scenes = _scenes(settings, seed, images)
    return {
        row: _repeated(find_student(settings, seed, folder), scenes)
        for row, folder in weights.items()
    }


def _scenes(settings: Settings, seed: int, images: int) -> list[HeldOut]:
    return [held_out(index, settings.side) for index in settings.indices(seed)[:images]]


def _repeated(detect: EdgeSource, scenes: list[HeldOut]) -> dict[str, float]:
    detect(scenes[0].scene.image, "warm-up")
    images = [truth.scene.image for truth in scenes for _ in range(_REPEATS)]
    return _ms([seconds(detect, image, "timed") for image in images])


def _ms(taken: list[float]) -> dict[str, float]:
    return {"ms": 1000 * statistics.median(taken)}


def _cost(teacher: Teacher) -> Teacher | None:
    """A variant that costs the same, one for all of them; None where the study has no time."""
    if teacher.blocks and teacher.timestep < 0:
        return None
    # Where an image is read, and where the threshold lies, cost nothing.
    blocks = tuple(range(len(teacher.blocks)))
    timestep = min(teacher.timestep, 0)
    return replace(teacher, timestep=timestep, threshold="mean_std", blocks=blocks)


def _divergences(settings: Settings, seed: int, truth: HeldOut) -> dict[str, dict[str, float]]:
    """``iep_ms`` and ``abdiv_ms``, by row, of the rows that compare divergences."""
    trajectory = Trajectory(find_detector(settings, seed), truth.scene.image, truth.key)
    attention, grid = trajectory.maps[500], trajectory.layout.largest
    result = {}
    for row, teacher in TEACHERS.items():
        if row.startswith(("teacher", "iep", "abdiv", "neighbours")):
            along = partial(trajectory.curve, teacher.metric, teacher.stride)
            neighbours = (attention, grid, teacher.abdiv, teacher.neighbourhood)
            between = partial(boundary_divergence, *neighbours)
            parts: dict[str, Callable[[], Any]] = {"iep_ms": along, "abdiv_ms": between}
            result[row] = {
                name: _ms([seconds(part) for _ in range(_REPEATS)])["ms"]
                for name, part in parts.items()
            }
    return result


def teacher_edges(
    detector: EdgeDetector, teacher: Teacher, image: np.ndarray, key: str
) -> np.ndarray:
    """Edges (H, W) of one variant as a user gets them, no work shared; this is what is timed.

    With blocks in ``teacher`` a fixed timestep is read of them; a search reads all blocks.
    """
    fixed = teacher.timestep >= 0
    settings = AttentionSettings(blocks=teacher.blocks if fixed else ())
    with torch.no_grad():
        view = AttentionView(detector.backbone, image, key, detector.seed, settings)
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
