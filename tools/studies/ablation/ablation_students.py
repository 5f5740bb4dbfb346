"""Students of the study: pseudo edges, trainings by tools/train_net.py, and their scores."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablation_jobs import make_labels, score_student
from ablation_latency import measure_students
from ablation_rows import DEFAULT_LABELS, LABELS, SHIPPED, STUDENTS, Student
from fvcore.common.config import CfgNode
from tqdm import tqdm

from trace_d2.edges.student_files import student_folder
from trace_d2.io.atomic import write_json
from trace_d2.scenes.dataset import SceneSettings, write_scenes

if TYPE_CHECKING:
    from ablate import Study

ROOT = Path(__file__).resolve().parents[3]

SERIES = 11
"""Scenes that students learn from."""
_WHOLE_BATCH = 2  # whole images an iteration, for 8 crops of half the side


class Students:
    """Trains, scores and times the students of a study.

    Args:
        study: gives settings, cells and worker processes.
        args: the command line of ``ablate.py``.
        begin: ``time.monotonic()`` at the start of the run.
    """

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
        """Do all that is missing; returns what failed.

        Raises:
            ValueError, OSError: the given student, images or pseudo edges cannot be used.
        """
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
        fingerprint = self.study.settings.fingerprint() | {"weights": _files_hash(found)}
        for seed in self.study.seeds:
            self._score(SHIPPED, seed, found, fingerprint)
        return []

    def _score(
        self, row: str, seed: int, weights: Path, fingerprint: dict[str, Any], **extra: Any
    ) -> None:
        group = slug(row)
        if self.study.cells.read(group, seed, fingerprint) is None:
            scores = self.study.call(score_student, self.study.settings, seed, str(weights))
            extra["weights"] = str(weights)
            self.study.cells.write(group, seed, fingerprint, {row: scores}, extra)

    def _prepare(self) -> None:
        """Training scenes and their pseudo edges, where they are missing."""
        scenes = self.images.parent
        if self.args.training_images is None and not (scenes / "categories.json").is_file():
            side = self.study.settings.side
            write_scenes(scenes, self.args.training_scenes, SceneSettings(SERIES, (side, side)))
        images = sorted(self.images.glob("*.png")) + sorted(self.images.glob("*.jpg"))
        if not images:
            raise ValueError(f"{self.images} holds no .png or .jpg images to train on")
        own = {n: f for n, f in self.labels.items() if n != DEFAULT_LABELS or not self._given()}
        for folder in own.values():
            folder.mkdir(parents=True, exist_ok=True)
        work = partial(make_labels, self.study.settings, folders=own)
        self.study.map(work, images, "pseudo edges")

    def _given(self) -> bool:
        return self.args.pseudo_edges is not None

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
        done = folder / "trained.json"
        if not done.is_file():
            if time.monotonic() > self.latest:
                return ""
            taken = self._train(student, seed, folder)
            if taken is None:
                return f"training {row!r}, seed {seed}, failed: see {folder / 'console.txt'}"
            write_json(done, {"seconds": taken})
        fingerprint = self.study.settings.fingerprint() | {"training": training}
        seconds = json.loads(done.read_text())["seconds"]
        self._score(row, seed, folder / "student", fingerprint, seconds=seconds)
        return ""

    def _train(self, student: Student, seed: int, folder: Path) -> float | None:
        """Run tools/train_net.py; returns its seconds, or None where it failed."""
        folder.mkdir(parents=True, exist_ok=True)
        name = "study_edges"
        entry = [name, str(self.images.resolve()), str(self.labels[student.labels].resolve())]
        keys: dict[str, Any] = {
            "MODEL.TRACE.STUDENT.DECODER.NAME": student.decoder,
            "SOLVER.MAX_ITER": self.args.student_iterations,
            "SEED": seed,
            "DATASETS.TRACE.EDGES": [entry],
            "DATASETS.TRAIN": (name,),
            "DATASETS.TEST": (),
            "OUTPUT_DIR": folder,
        }
        if student.whole:
            keys |= {"INPUT.TRACE.PSEUDO_EDGES.CROP": 0, "SOLVER.IMS_PER_BATCH": _WHOLE_BATCH}
        if not student.reconstruction:
            keys["MODEL.TRACE.STUDENT.LOSS.RECONSTRUCTION"] = 0.0
        command = [sys.executable, ROOT / "tools" / "train_net.py", "--resume", "--config-file"]
        command += [self.args.student_config, *(part for pair in keys.items() for part in pair)]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        start = time.perf_counter()
        with (folder / "console.txt").open("w") as log:
            status = subprocess.run(
                [str(part) for part in (*command, *self.args.train_set)],
                env={**os.environ, **threads, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        return None if status else time.perf_counter() - start

    def _measure(self) -> None:
        """Milliseconds of the students that were scored, when nothing else runs."""
        images = self.args.latency_scenes
        for seed in self.study.seeds:
            weights = {}
            for row in (SHIPPED, *STUDENTS):
                path = self.study.cells.path(slug(row), seed)
                if path.is_file():
                    weights[row] = json.loads(path.read_text())["extra"]["weights"]
            fingerprint = self.study.settings.fingerprint() | {"images": images, "rows": weights}
            group = "latency_students"
            if weights and not self.study.cells.read(group, seed, fingerprint):
                rows = measure_students(self.study.settings, seed, images, weights)
                self.study.cells.write(group, seed, fingerprint, rows, {})


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
