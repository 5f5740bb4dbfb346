"""Students of the study: pseudo edges, trainings by tools/train_net.py, and their scores."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from commands import CommandError, train
from fvcore.common.config import CfgNode

from ablation.latency import measure_source
from ablation.rows import LABELS, SHIPPED, STUDENTS, Teacher
from ablation.scoring import held_out
from ablation.study import Settings, Study, find_detector, find_judge
from trace_d2.edges import EdgeDetector
from trace_d2.edges.abdiv import ternary_edges
from trace_d2.edges.detector import EmergenceSettings, StudentDetector
from trace_d2.edges.student_files import student_print
from trace_d2.io.edge_maps import write_ternary
from trace_d2.io.images import read_image
from trace_d2.scenes.dataset import SceneSettings, write_scenes

SERIES = 11
"""Scenes that students learn from."""
_WHOLE_BATCH = 2  # whole images an iteration, for 8 crops of half the side


class Students:
    """Trains, scores and times the students of a study."""

    def __init__(self, study: Study, args: argparse.Namespace) -> None:
        self.study = study
        self.args = args
        folder = args.output / "training"
        self.scenes = folder / "scenes"
        self.labels = {name: folder / f"edges_{name.replace(' ', '')}" for name in LABELS}

    def run(self) -> list[str]:
        """Do all that is missing; returns what failed."""
        failures = []
        try:
            self._score_shipped()
        except FileNotFoundError as error:
            failures.append(f"the row of the shipped student is not run: {error}")
        self._prepare()
        jobs = [(row, seed) for row in STUDENTS for seed in range(self.study.seeds)]
        failures += filter(None, self.study.map(self._train_and_score, jobs, "students"))
        self._measure()
        return failures

    def _score_shipped(self) -> None:
        weights = student_print(self.study.settings.cfg(0))
        for seed in range(self.study.seeds):
            self._score(SHIPPED, seed, "", {"weights": weights})

    def _score(self, row: str, seed: int, weights: str, what: dict[str, Any]) -> None:
        def make(seed: int) -> dict[str, Any]:
            scores = score_student(self.study.settings, seed, weights)
            return {"rows": {row: scores}, "weights": weights}

        self.study.keep(slug(row), seed, what, make)

    def _prepare(self) -> None:
        """Training scenes and their pseudo edges, where they are missing."""
        if not (self.scenes / "categories.json").is_file():  # written last
            side = self.study.settings.side
            settings = SceneSettings(SERIES, (side, side))
            write_scenes(self.scenes, self.args.training_scenes, settings)
        for folder in self.labels.values():
            folder.mkdir(parents=True, exist_ok=True)
        images = sorted((self.scenes / "images").iterdir())
        self.study.map(partial(make_labels, folders=self.labels), images, "pseudo edges")

    def _train_and_score(self, settings: Settings, job: tuple[str, int]) -> str:
        """One student of one seed; returns why it failed, or nothing."""
        (row, seed), args = job, self.args
        training = {
            "student": vars(STUDENTS[row]),
            "iterations": args.student_iterations,
            "scenes": args.training_scenes,
            "config": CfgNode.load_yaml_with_base(str(args.student_config)),
        }
        digest = hashlib.sha256(json.dumps(training).encode()).hexdigest()[:8]
        folder = args.output / "students" / f"{slug(row)}_{digest}" / f"seed_{seed}"
        try:
            train(folder, args.student_config, *self._keys(row, seed), threads=1)
        except CommandError:
            return f"training {row!r}, seed {seed}, failed: see {folder / 'console.txt'}"
        self._score(row, seed, str(folder / "student"), {"training": training})
        return ""

    def _keys(self, row: str, seed: int) -> list[Any]:
        """Config keys of a training."""
        name, student = "study_edges", STUDENTS[row]
        folders = self.scenes / "images", self.labels[student.labels]
        entry = [name, *(str(folder.resolve()) for folder in folders)]
        keys: dict[str, Any] = {
            "MODEL.TRACE.STUDENT.DECODER.NAME": student.decoder,
            "SOLVER.MAX_ITER": self.args.student_iterations,
            "SEED": seed,
            "DATASETS.TRACE.EDGES": [entry],
            "DATASETS.TRAIN": (name,),
            "DATASETS.TEST": (),
        }
        if student.whole:
            keys |= {"INPUT.TRACE.PSEUDO_EDGES.CROP": 0, "SOLVER.IMS_PER_BATCH": _WHOLE_BATCH}
        if not student.reconstruction:
            keys["MODEL.TRACE.STUDENT.LOSS.RECONSTRUCTION"] = 0.0
        return [part for pair in keys.items() for part in pair]

    def _measure(self) -> None:
        """Milliseconds of the students that were scored, when nothing else runs."""
        settings, count = self.study.settings, self.args.latency_scenes
        for seed in range(self.study.seeds):
            cells = {row: self.study.path(slug(row), seed) for row in (SHIPPED, *STUDENTS)}
            weights = {
                row: json.loads(path.read_text())["weights"]
                for row, path in cells.items()
                if path.is_file()
            }
            what = {"images": count, "of": weights}
            make = partial(measure_students, settings, weights=weights, count=count)
            self.study.keep("latency_students", seed, what, make)


def slug(row: str) -> str:
    """The name of a row as a file name."""
    return row.replace(",", "").replace(" ", "_").replace("=", "")


def find_student(settings: Settings, seed: int, weights: str) -> StudentDetector:
    """The student of folder ``weights`` ("": that of the config)."""
    options = ("MODEL.TRACE.STUDENT.WEIGHTS", weights) if weights else ()
    return StudentDetector.from_config(settings.cfg(seed, *options))


def score_student(settings: Settings, seed: int, weights: str) -> dict[str, float]:
    """The metrics of a student over the scenes of ``seed``."""
    detect, judge = find_student(settings, seed, weights), find_judge(settings)
    truths = [held_out(index, settings.side) for index in settings.indices(seed)]
    scores = [judge(truth, detect(truth.scene.image, truth.key).edges) for truth in truths]
    return judge.total(truths, scores)


def measure_students(
    settings: Settings, seed: int, weights: dict[str, str], count: int
) -> dict[str, Any]:
    """Latencies over ``count`` scenes; ``weights``: row -> folder."""
    scenes = [held_out(index, settings.side) for index in settings.indices(seed)[:count]]
    return {
        "rows": {
            row: measure_source(find_student(settings, seed, folder), scenes)
            for row, folder in weights.items()
        }
    }


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
