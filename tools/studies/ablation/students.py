"""Students of the study: pseudo edges, trainings by tools/train_net.py, and their scores."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from commands import CommandError, finished, train
from fvcore.common.config import CfgNode
from tqdm import tqdm

from ablation.latency import measure_students
from ablation.rows import DEFAULT_LABELS, LABELS, SHIPPED, STUDENTS, Student
from ablation.study import Rows, Study
from ablation.work import make_labels, score_student
from trace_d2.edges.student_files import student_folder
from trace_d2.scenes.dataset import SceneSettings, write_scenes

SERIES = 11
"""Scenes that students learn from."""
_WHOLE_BATCH = 2  # whole images an iteration, for 8 crops of half the side


class Students:
    """Trains, scores and times the students of a study that began at ``time.monotonic()``."""

    def __init__(self, study: Study, args: argparse.Namespace, begin: float) -> None:
        self.study = study
        self.args = args
        self.latest = float("inf") if args.minutes is None else begin + 60 * args.minutes
        seeds = len(study.seeds) if args.student_seeds is None else args.student_seeds
        self.seeds = study.seeds[:seeds]
        folder = args.output / "training"
        self.images = args.training_images or folder / "scenes" / "images"
        self.labels = {name: folder / f"edges_{name.replace(' ', '')}" for name in LABELS}
        if args.pseudo_edges:
            inner = args.pseudo_edges / "pseudo_edges"
            self.labels[DEFAULT_LABELS] = inner if inner.is_dir() else args.pseudo_edges

    def run(self) -> list[str]:
        """Do all that is missing; returns what failed."""
        failures = self._score_shipped()
        self._prepare()
        jobs = [(row, seed) for row in STUDENTS for seed in self.seeds]
        # A training is a process of its own, so that threads are enough to wait for two at once.
        with ThreadPoolExecutor(max(1, self.args.workers)) as threads:
            results = threads.map(lambda job: self._train_and_score(*job), jobs)
            failures += [message for message in tqdm(results, "students", len(jobs)) if message]
        self._measure()
        return failures

    def _score_shipped(self) -> list[str]:
        given = str(self.args.student or "")
        try:
            found = student_folder(self.study.settings.cfg(0, "MODEL.TRACE.STUDENT.WEIGHTS", given))
        except FileNotFoundError as error:
            return [f"the row of the shipped student is not run: {error}"]
        for seed in self.study.seeds:
            self._score(SHIPPED, seed, found, {"weights": _files_hash(found)})
        return []

    def _score(
        self, row: str, seed: int, weights: Path, what: dict[str, Any], **extra: Any
    ) -> None:
        def make() -> tuple[dict[str, Any], dict[str, Any]]:
            scores = self.study.call(score_student, self.study.settings, seed, str(weights))
            return {row: scores}, {**extra, "weights": str(weights)}

        self.study.keep(slug(row), seed, what, make)

    def _prepare(self) -> None:
        """Training scenes and their pseudo edges, where they are missing."""
        scenes = self.images.parent
        if self.args.training_images is None and not (scenes / "categories.json").is_file():
            side = self.study.settings.side
            write_scenes(scenes, self.args.training_scenes, SceneSettings(SERIES, (side, side)))
        images = sorted(self.images.glob("*.png")) + sorted(self.images.glob("*.jpg"))
        if not images:
            raise ValueError(f"{self.images} holds no .png or .jpg images to train on")
        given = {DEFAULT_LABELS} if self.args.pseudo_edges else set()
        own = {name: folder for name, folder in self.labels.items() if name not in given}
        for folder in own.values():
            folder.mkdir(parents=True, exist_ok=True)
        work = partial(make_labels, self.study.settings, folders=own)
        self.study.map(work, images, "pseudo edges")

    def _train_and_score(self, row: str, seed: int) -> str:
        """One student of one seed; returns why it failed, or nothing."""
        student, args = STUDENTS[row], self.args
        training = {
            "student": vars(student),
            "iterations": args.student_iterations,
            "images": str(args.training_images or args.training_scenes),
            "pseudo_edges": str(args.pseudo_edges or ""),
            "config": CfgNode.load_yaml_with_base(str(args.student_config)),
            "options": list(args.train_set),
        }
        digest = hashlib.sha256(json.dumps(training).encode()).hexdigest()[:8]
        folder = args.output / "students" / f"{slug(row)}_{digest}" / f"seed_{seed}"
        if not finished(folder).is_file() and time.monotonic() > self.latest:
            return ""
        try:
            seconds = train(
                folder, args.student_config, *self._keys(student, seed), *args.train_set, threads=1
            )
        except CommandError:
            return f"training {row!r}, seed {seed}, failed: see {folder / 'console.txt'}"
        self._score(row, seed, folder / "student", {"training": training}, seconds=seconds)
        return ""

    def _keys(self, student: Student, seed: int) -> list[Any]:
        """Config keys of a training."""
        name = "study_edges"
        entry = [name, str(self.images.resolve()), str(self.labels[student.labels].resolve())]
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
        images = self.args.latency_scenes
        for seed in self.study.seeds:
            weights = {}
            for row in (SHIPPED, *STUDENTS):
                path = self.study.cells.path(slug(row), seed)
                if path.is_file():
                    weights[row] = json.loads(path.read_text())["extra"]["weights"]
            if weights:
                what = {"images": images, "rows": weights}
                self.study.keep(
                    "latency_students", seed, what, partial(self._latency, seed, weights)
                )

    def _latency(self, seed: int, weights: dict[str, str]) -> tuple[Rows, dict[str, Any]]:
        images = self.args.latency_scenes
        return measure_students(self.study.settings, seed, images, weights), {}


def slug(row: str) -> str:
    """The name of a row as a file name."""
    return row.replace(",", "").replace(" ", "_").replace("=", "")


def _files_hash(folder: Path) -> str:
    """A hash of all files of a student."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
