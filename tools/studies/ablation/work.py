"""The work of the study that runs in worker processes: an image, or a student, at a time."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablation.rows import LABELS, STRIDE, TEACHERS, Teacher
from ablation.scoring import HeldOut, ImageScore, Judge, held_out
from ablation.teacher import Trajectory
from trace_d2._version import __version__
from trace_d2.config import load_trace_cfg
from trace_d2.edges import EdgeDetector
from trace_d2.edges.abdiv import ternary_edges
from trace_d2.edges.baselines import BASELINES, canny_edges
from trace_d2.edges.detector import EmergenceSettings
from trace_d2.evaluation.edge_metrics import EdgeCounts, edge_counts
from trace_d2.io.edge_maps import write_ternary
from trace_d2.io.images import read_image
from trace_d2.scenes.oracle import boundaries


@dataclass(frozen=True)
class Settings:
    """What every number of the study depends on.

    Attributes:
        scenes: held-out scenes a seed; seed s takes those from s * scenes on.
        side: of a scene in pixels.
        thresholds: of edge strengths.
        config_file: of the teacher.
        options: config keys and values.
    """

    scenes: int
    side: int
    thresholds: int
    config_file: str
    options: tuple[str, ...] = ()

    def cfg(self, seed: int, *options: str) -> Any:
        """The config with the noise of ``seed``."""
        return load_trace_cfg(
            self.config_file, [*self.options, "MODEL.TRACE.SEED", str(seed), *options]
        )

    def indices(self, seed: int) -> range:
        """Numbers of the scenes of ``seed``."""
        return range(seed * self.scenes, (seed + 1) * self.scenes)

    def fingerprint(self) -> dict[str, Any]:
        """For JSON; numbers of another fingerprint do not belong to this study."""
        trace = self.cfg(0).MODEL.TRACE
        nodes = ("BACKBONE", "ATTENTION", "BGP", "LABELS", "POSTPROCESSOR")
        return {
            "version": __version__,
            "scenes": self.scenes,
            "side": self.side,
            "thresholds": self.thresholds,
            "config": {node: trace[node].dump() for node in nodes},
        }


def start_worker() -> None:
    """One thread a process, as the study shares the cores out among processes."""
    torch.set_num_threads(1)


@functools.lru_cache(maxsize=1)
def find_detector(settings: Settings, seed: int) -> EdgeDetector:
    """The teacher, built once a process and seed."""
    return EdgeDetector.from_config(settings.cfg(seed))


@functools.lru_cache(maxsize=1)
def find_judge(settings: Settings) -> Judge:
    """The judge, made once a process."""
    return Judge(settings.cfg(0), settings.thresholds)


@dataclass(frozen=True)
class TeacherScores:
    """One scene under all variants."""

    truth: HeldOut
    rows: dict[str, ImageScore]
    timesteps: dict[str, int]  # where each row was read
    curve: dict[int, float]  # timestep -> mean KL from the one before, of the default stride


def score_teachers(settings: Settings, seed: int, index: int) -> TeacherScores:
    """All variants of the teacher on scene ``index``; equal edges are scored once."""
    truth = held_out(index, settings.side)
    trajectory = Trajectory(find_detector(settings, seed), truth.scene.image, truth.key)
    found: dict[tuple[str, int], int] = {}
    readings = {row: trajectory.reading(teacher, found) for row, teacher in TEACHERS.items()}
    judge = find_judge(settings)
    scores: dict[Teacher, ImageScore] = {}
    for reading in readings.values():
        if reading not in scores:
            scores[reading] = judge(truth, trajectory.edges(reading))
    return TeacherScores(
        truth,
        {row: scores[reading] for row, reading in readings.items()},
        {row: reading.timestep for row, reading in readings.items()},
        trajectory.curve("kl", STRIDE),
    )


def count_canny(settings: Settings, index: int) -> EdgeCounts:
    """Canny's edges of scene ``index`` against the truth at all thresholds."""
    truth = held_out(index, settings.side)
    thresholds = find_judge(settings).thresholds
    return edge_counts(canny_edges(truth.scene.image), truth.boundaries, thresholds=thresholds)


def score_baselines(
    settings: Settings, canny_threshold: float, index: int
) -> tuple[HeldOut, dict[str, ImageScore]]:
    """No edges, edges without a model and oracle edges; Canny's threshold is put on 0.5."""
    truth = held_out(index, settings.side)
    judge = find_judge(settings)
    edges: dict[str, np.ndarray | None] = {"none": None}
    for name, detect in BASELINES.items():
        found = detect(truth.scene.image, truth.key).edges
        edges[name] = found if name != "canny" else scaled(found, canny_threshold)
    edges["oracle"] = boundaries(truth.scene.segment_ids).astype(np.float32) / 255
    return truth, {name: judge(truth, own) for name, own in edges.items()}


def scaled(edges: np.ndarray, threshold: float) -> np.ndarray:
    """``edges`` with ``threshold`` moved to just below 0.5: at it means above 0.5; still 0..1.

    Both halves are stretched on their own, so that no two strengths become one.
    """
    low = edges * (0.49 / threshold)
    high = 0.51 + (edges - threshold) * (0.49 / max(1 - threshold, 1e-6))
    # A strength equal to the threshold counts as an edge, as it does for ODS.
    reached = edges >= np.float32(threshold)
    return np.where(reached, high, low).clip(0, 1).astype(np.float32)


def find_student(settings: Settings, seed: int, weights: str) -> Any:
    """The student of folder ``weights`` ("": the one that comes with the backbone)."""
    from trace_d2.edges.detector import StudentDetector

    return StudentDetector.from_config(settings.cfg(seed, "MODEL.TRACE.STUDENT.WEIGHTS", weights))


def score_student(settings: Settings, seed: int, weights: str) -> dict[str, float]:
    """The metrics of a student over the scenes of ``seed``."""
    detect, judge = find_student(settings, seed, weights), find_judge(settings)
    truths = [held_out(index, settings.side) for index in settings.indices(seed)]
    scores = [judge(truth, detect(truth.scene.image, truth.key).edges) for truth in truths]
    return judge.total(truths, scores)


def make_labels(settings: Settings, image: Path, folders: dict[str, Path]) -> None:
    """Pseudo edges of one training image, of each of ``LABELS`` that ``folders`` lacks."""
    missing = [name for name in folders if not (folders[name] / f"{image.stem}.png").is_file()]
    if not missing:
        return
    pixels = read_image(image).pixels
    backbone = find_detector(settings, 0).backbone
    abdiv: dict[Teacher, np.ndarray] = {}
    for name in missing:
        teacher = LABELS[name]
        search = replace(teacher, threshold="mean_std")
        if search not in abdiv:
            read = EmergenceSettings(fixed_timestep=teacher.timestep)
            found = EdgeDetector(backbone, read)(pixels, image.stem)
            assert found.abdiv is not None
            abdiv[search] = found.abdiv
        labels = ternary_edges(abdiv[search], pixels.shape[:2], teacher.threshold)
        write_ternary(folders[name] / f"{image.stem}.png", labels)
