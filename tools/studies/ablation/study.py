"""The numbers of the study, each made once: groups of rows, an image at a time in processes."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ablation.latency import measure_latency
from ablation.rows import BASELINES, STRIDE, TEACHERS, Teacher
from ablation.scoring import ImageScore, Judge, held_out
from ablation.teacher import Trajectory
from trace_d2._version import __version__
from trace_d2.config import load_trace_cfg
from trace_d2.edges import EdgeDetector
from trace_d2.edges.baselines import FILTERS, canny_edges
from trace_d2.evaluation.edge_metrics import EdgeCounts, edge_counts, edge_scores
from trace_d2.io.atomic import write_json
from trace_d2.parallel import ordered_map
from trace_d2.scenes.oracle import boundaries

Rows = dict[str, dict[str, Any]]
"""Row -> metric -> value."""


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


@dataclass(frozen=True)
class Study:
    """Groups of rows for so many ``seeds``: ``folder``/<group>_seed<k>.json, a cell each."""

    settings: Settings
    folder: Path
    seeds: int
    workers: int

    def path(self, group: str, seed: int) -> Path:
        """Where a cell lies."""
        return self.folder / f"{group}_seed{seed}.json"

    def keep(
        self, group: str, seed: int, what: dict[str, Any], make: Callable[[int], dict[str, Any]]
    ) -> None:
        """Write a cell, of ``rows`` and what is of no single row, unless it is there.

        ``what`` is what the numbers depend on besides the settings.
        """
        path = self.path(group, seed)
        # As JSON has it: tuples are lists there, and keys are text.
        fingerprint = json.loads(json.dumps(self.settings.fingerprint() | what))
        if not path.is_file() or json.loads(path.read_text())["fingerprint"] != fingerprint:
            self.folder.mkdir(parents=True, exist_ok=True)
            cell = {"seed": seed, "fingerprint": fingerprint} | make(seed)
            write_json(path, cell, indent=1)

    def run_baselines(self) -> None:
        """No edges, edges without a model, oracle edges."""
        for seed in range(self.seeds):
            self.keep("baselines", seed, {"of": list(BASELINES)}, self._baselines)

    def _baselines(self, seed: int) -> dict[str, Any]:
        counts = self.map(count_canny, self.settings.indices(seed), f"Canny, seed {seed}")
        threshold = edge_scores(counts).ods_threshold
        scores = self.map(
            partial(score_baselines, canny_threshold=threshold),
            self.settings.indices(seed),
            f"baselines, seed {seed}",
        )
        return {"rows": self._totals(seed, scores)}

    def run_teacher(self) -> None:
        """All variants of the teacher."""
        what = {"of": {row: vars(teacher) for row, teacher in TEACHERS.items()}}
        for seed in range(self.seeds):
            self.keep("teacher", seed, what, self._teacher)

    def _teacher(self, seed: int) -> dict[str, Any]:
        scored = self.map(
            partial(score_teachers, seed=seed), self.settings.indices(seed), f"teacher, seed {seed}"
        )
        curves = [one.curve for one in scored]
        return {
            "rows": self._totals(seed, [one.rows for one in scored]),
            "emergence": [one.timestep for one in scored],
            "curve": {t: float(np.mean([curve[t] for curve in curves])) for t in curves[0]},
        }

    def run_latency(self, images: int) -> None:
        """Milliseconds of teachers and baselines, in this process alone."""
        for seed in range(self.seeds):
            what = {"images": images, "of": list(TEACHERS)}
            self.keep("latency", seed, what, lambda seed: {"rows": self._latency(seed, images)})

    def _latency(self, seed: int, images: int) -> Rows:
        scenes = [held_out(i, self.settings.side) for i in self.settings.indices(seed)[:images]]
        return measure_latency(find_detector(self.settings, seed), scenes)

    def map(self, work: Callable[..., Any], items: Iterable[Any], title: str) -> list[Any]:
        """``work(settings, item)`` of each item in order, with a progress bar."""
        job = partial(work, self.settings)
        return list(ordered_map(job, list(items), self.workers, description=title, progress=True))

    def _totals(self, seed: int, scores: list[dict[str, ImageScore]]) -> Rows:
        truths = [held_out(index, self.settings.side) for index in self.settings.indices(seed)]
        judge = find_judge(self.settings)
        return {row: judge.total(truths, [one[row] for one in scores]) for row in scores[0]}

    def numbers(self) -> dict[str, Any]:
        """All numbers of these settings, for the report and for JSON, rounded.

        ``rows`` has row -> metric -> a value for each seed, or None; ``emergence`` says how often
        t* is at a timestep, ``curves`` the mean KL by timestep of each seed.
        """
        common = self.settings.fingerprint()
        rows: dict[str, dict[str, list[float | None]]] = {}
        iterations: set[int] = set()
        emergence: Counter[int] = Counter()
        curves = []
        for path in sorted(self.folder.glob("*_seed*.json")):
            cell = json.loads(path.read_text())
            made = cell["fingerprint"]
            if cell["seed"] >= self.seeds or made | common != made:
                continue
            for row, metrics in cell["rows"].items():
                for metric, value in metrics.items():
                    values = rows.setdefault(row, {}).setdefault(metric, [None] * self.seeds)
                    values[cell["seed"]] = round(value, 7)
            if "training" in made:
                iterations.add(made["training"]["iterations"])
            if "curve" in cell:
                emergence.update(cell["emergence"])
                curves.append(cell["curve"])
        settings = {key: value for key, value in common.items() if key != "config"}
        return {
            "settings": settings | {"seeds": self.seeds, "iterations": sorted(iterations)},
            "emergence": dict(sorted(emergence.items())),
            "curves": curves,
            "rows": rows,
        }


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

    rows: dict[str, ImageScore]
    timestep: float  # t* of the row "teacher"
    curve: dict[float, float]  # timestep -> mean KL from the one before, of the default stride


def score_teachers(settings: Settings, index: int, seed: int) -> TeacherScores:
    """All variants of the teacher on scene ``index``; equal edges are scored once."""
    truth = held_out(index, settings.side)
    trajectory = Trajectory(find_detector(settings, seed), truth.scene.image, truth.key)
    readings = {row: trajectory.reading(teacher) for row, teacher in TEACHERS.items()}
    judge = find_judge(settings)
    scores: dict[Teacher, ImageScore] = {}
    for reading in readings.values():
        if reading not in scores:
            scores[reading] = judge(truth, trajectory.edges(reading))
    rows = {row: scores[reading] for row, reading in readings.items()}
    return TeacherScores(
        rows, readings["teacher"].timestep, trajectory.emergence("kl", STRIDE).curve
    )


def count_canny(settings: Settings, index: int) -> EdgeCounts:
    """Canny's edges of scene ``index`` against the truth at all thresholds."""
    truth = held_out(index, settings.side)
    thresholds = find_judge(settings).thresholds
    return edge_counts(canny_edges(truth.scene.image), truth.boundaries, thresholds=thresholds)


def score_baselines(
    settings: Settings, index: int, canny_threshold: float
) -> dict[str, ImageScore]:
    """No edges, edges without a model and oracle edges; Canny's threshold is put on 0.5."""
    truth = held_out(index, settings.side)
    edges: dict[str, np.ndarray | None] = {"none": None}
    for name, find in FILTERS.items():
        found = find(truth.scene.image)
        edges[name] = found if name != "canny" else scaled(found, canny_threshold)
    edges["oracle"] = boundaries(truth.scene.segment_ids).astype(np.float32) / 255
    judge = find_judge(settings)
    return {name: judge(truth, own) for name, own in edges.items()}


def scaled(edges: np.ndarray, threshold: float) -> np.ndarray:
    """``edges`` with ``threshold`` moved to just below 0.5: at it means above 0.5; still 0..1.

    Both halves are stretched on their own, so that no two strengths become one.
    """
    low = edges * (0.49 / threshold)
    high = 0.51 + (edges - threshold) * (0.49 / max(1 - threshold, 1e-6))
    # A strength equal to the threshold counts as an edge, as it does for ODS.
    reached = edges >= np.float32(threshold)
    return np.where(reached, high, low).clip(0, 1).astype(np.float32)
