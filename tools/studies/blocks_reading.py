"""What tools/studies/blocks_read.py measures: teachers and students that read the first blocks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation.latency import seconds
from ablation.rows import BLOCKS, TIMESTEPS, Teacher
from ablation.scoring import HeldOut, ImageScore, held_out
from ablation.students import find_student, make_labels
from ablation.study import Settings, find_detector, find_judge
from ablation.teacher import edges_of
from torch import Tensor
from tqdm import tqdm

from trace_d2.attention import SelfAttentionReader, native_attention
from trace_d2.edges import EdgeDetector, instance_emergence_point
from trace_d2.edges.detector import AttentionSettings, EmergenceSettings
from trace_d2.scenes.dataset import SceneSettings, write_scenes

TRAINING_SERIES = 11
_REPEATS = 3


def scenes_of(settings: Settings, series: int) -> list[HeldOut]:
    """The scenes of a series with their truth."""
    return [held_out(index, settings.side, series) for index in range(settings.scenes)]


def score_teachers(settings: Settings, series: int) -> list[dict[str, Any]]:
    """Metrics of both teachers for every number of blocks."""
    detector, judge = find_detector(settings, 0), find_judge(settings)
    truths = scenes_of(settings, series)
    scores: dict[tuple[str, int], list[ImageScore]] = {}
    for truth in tqdm(truths, desc=f"teachers, series {series}"):
        for kind, edges in teacher_edges(detector, truth).items():
            scores.setdefault(kind, []).append(judge(truth, edges))
    return [
        {"series": series, "source": source, "blocks": blocks} | judge.total(truths, own)
        for (source, blocks), own in scores.items()
    ]


def teacher_edges(detector: EdgeDetector, truth: HeldOut) -> dict[tuple[str, int], np.ndarray]:
    """(source, number of blocks) -> edges (H, W), all from one forward pass."""
    view = detector.view(truth.scene.image, truth.key)
    maps, grid, size = read_prefixes(detector, truth), view.layout.largest, truth.scene.image.shape
    edges = {}
    for blocks, own in enumerate(maps, start=1):
        by_timestep = dict(zip(TIMESTEPS, own, strict=True))
        found = instance_emergence_point(partial(_one_of, by_timestep), TIMESTEPS, "kl")
        edges["teacher at t = 0", blocks] = edges_of(by_timestep[0], grid, Teacher(), size)
        edges["teacher, searched", blocks] = edges_of(found.attention, grid, Teacher(), size)
    return edges


def _one_of(maps: dict[int, Tensor], timesteps: Sequence[int]) -> Tensor:
    return maps[timesteps[0]][None]


@torch.no_grad()
def read_prefixes(detector: EdgeDetector, truth: HeldOut) -> Tensor:
    """The maps of the first 1, 2, ... blocks at all timesteps, (blocks, timesteps, N, N)."""
    view = detector.view(truth.scene.image, truth.key)
    readers = [SelfAttentionReader(view.layout, blocks=[block]) for block in range(BLOCKS)]
    with native_attention(view.backbone), ExitStack() as stack:
        for reader in readers:
            stack.enter_context(reader)
        view.backbone.run(view.prepared, list(TIMESTEPS))
    counts = torch.arange(1.0, BLOCKS + 1).view(-1, 1, 1, 1)
    return torch.stack([reader.attention() for reader in readers]).cumsum_(0).div_(counts)


def make_training_data(settings: Settings, scenes: Path, labels: Path, count: int) -> None:
    """Scenes and the teacher's pseudo edges of them, where they are missing."""
    if not (scenes / "categories.json").is_file():  # written last
        write_scenes(scenes, count, SceneSettings(TRAINING_SERIES, (settings.side, settings.side)))
    labels.mkdir(parents=True, exist_ok=True)
    label = partial(make_labels, settings, folders={"upper_band": labels})
    for image in tqdm(sorted((scenes / "images").iterdir()), desc="pseudo edges"):
        label(image)


def score_student(settings: Settings, series: int, weights: str, blocks: int) -> dict[str, Any]:
    """Metrics of a student."""
    detect, judge = find_student(settings, 0, weights), find_judge(settings)
    truths = scenes_of(settings, series)
    scores = [judge(truth, detect(truth.scene.image, truth.key).edges) for truth in truths]
    total = judge.total(truths, scores)
    return {"series": series, "source": "student", "blocks": blocks} | total


def measure_blocks(
    settings: Settings, blocks: int, weights: str | None, count: int
) -> list[dict[str, Any]]:
    """Milliseconds an image of both teachers, and of the student in ``weights`` if there is one."""
    backbone = find_detector(settings, 0).backbone
    attention = AttentionSettings(blocks=tuple(range(blocks)))
    sources: dict[str, Any] = {
        "teacher at t = 0": EdgeDetector(backbone, EmergenceSettings(fixed_timestep=0),
                                         attention=attention),
        "teacher, searched": EdgeDetector(backbone, attention=attention),
    }  # fmt: skip
    if weights:
        sources["student"] = find_student(settings, 0, weights)
    images = [held_out(index, settings.side).scene.image for index in range(count)]
    cells = []
    for source, detect in sources.items():
        detect(images[0], "warm-up")
        taken = [seconds(detect, image, "timed") for image in images for _ in range(_REPEATS)]
        cells.append({"source": source, "blocks": blocks, "ms": 1000 * statistics.median(taken)})
    return cells
