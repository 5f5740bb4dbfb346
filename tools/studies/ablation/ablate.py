#!/usr/bin/env python3
"""The study of the method's parts, in miniature: on held-out scenes, with trace-tiny.

    python tools/studies/ablation/ablate.py --output DIR   # everything; a second run continues
    python tools/studies/ablation/ablate.py --output DIR --only teacher   # one group
    python tools/studies/ablation/ablate.py --output DIR --report-only   # docs/ablation.md

Groups: baselines, teacher, latency, students. The numbers of each group and seed lie in
DIR/cells/*.json; numbers of other settings are made again. A seed has scenes and noise of its own,
and students that were trained with it. Students come last, the most telling first, so that a run
that is cut short has what matters; the report says "not run" of the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ablation_cells import Cells
from ablation_jobs import (
    Settings,
    count_canny,
    find_judge,
    score_baselines,
    score_teachers,
    start_worker,
)
from ablation_latency import measure_latency
from ablation_report import write_report
from ablation_rows import BASELINES, TEACHERS
from ablation_students import Students
from tqdm import tqdm

from trace_d2.evaluation.edge_metrics import edge_scores

ROOT = Path(__file__).resolve().parents[3]
GROUPS = ("baselines", "teacher", "latency", "students")


class Study:
    """Runs groups of rows, each number once.

    Args:
        settings: of the numbers.
        cells: where the numbers are kept.
        seeds: how many.
        pool: worker processes; None: this process does the work.
    """

    def __init__(
        self, settings: Settings, cells: Cells, seeds: int, pool: ProcessPoolExecutor | None
    ) -> None:
        self.settings = settings
        self.cells = cells
        self.seeds = range(seeds)
        self.pool = pool

    def map(self, work: Callable[[Any], Any], items: Iterable[Any], title: str) -> list[Any]:
        """``work`` of each item in order, with a progress bar."""
        items = list(items)
        results = map(work, items) if self.pool is None else self.pool.map(work, items)
        return list(tqdm(results, total=len(items), desc=title))

    def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """``work`` in a process of the pool."""
        if self.pool is None:
            return work(*arguments)
        return self.pool.submit(work, *arguments).result()

    def run_baselines(self) -> None:
        """No edges, edges without a model, oracle edges."""
        fingerprint = self.settings.fingerprint() | {"rows": list(BASELINES)}
        for seed in self.seeds:
            if self.cells.read("baselines", seed, fingerprint):
                continue
            indices = self.settings.indices(seed)
            counts = self.map(
                partial(count_canny, self.settings), indices, f"Canny's threshold, seed {seed}"
            )
            threshold = edge_scores(counts).ods_threshold
            work = partial(score_baselines, self.settings, threshold)
            scored = self.map(work, indices, f"baselines, seed {seed}")
            rows = self._totals([truth for truth, _ in scored], [rows for _, rows in scored])
            self.cells.write("baselines", seed, fingerprint, rows, {"canny_threshold": threshold})

    def run_teacher(self) -> None:
        """All variants of the teacher."""
        variants = {row: vars(teacher) for row, teacher in TEACHERS.items()}
        fingerprint = self.settings.fingerprint() | {"rows": variants}
        for seed in self.seeds:
            if self.cells.read("teacher", seed, fingerprint):
                continue
            work = partial(score_teachers, self.settings, seed)
            scored = self.map(work, self.settings.indices(seed), f"teacher, seed {seed}")
            rows = self._totals([one.truth for one in scored], [one.rows for one in scored])
            extra = {
                "timesteps": {row: [one.timesteps[row] for one in scored] for row in TEACHERS},
                "curves": [list(one.curve.values()) for one in scored],
                "curve_timesteps": list(scored[0].curve),
            }
            self.cells.write("teacher", seed, fingerprint, rows, extra)

    def _totals(
        self, truths: list[Any], scores: list[dict[str, Any]]
    ) -> dict[str, dict[str, float]]:
        judge = find_judge(self.settings)
        return {row: judge.total(truths, [one[row] for one in scores]) for row in scores[0]}

    def run_latency(self, images: int) -> None:
        """Milliseconds of teachers and baselines, in this process alone."""
        fingerprint = self.settings.fingerprint() | {"images": images, "rows": list(TEACHERS)}
        for seed in self.seeds:
            if not self.cells.read("latency", seed, fingerprint):
                rows = measure_latency(self.settings, seed, images)
                self.cells.write("latency", seed, fingerprint, rows, {})


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """``workers`` processes, or none for one; work not begun is dropped on an error."""
    if workers <= 1:
        yield None
        return
    # Spawned, not forked: a fork copies the locks of the threads that torch and OpenCV keep.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the study; the exit status is 1 where a training failed and 2 for bad input."""
    args = build_parser().parse_intermixed_args(arguments)
    cells = Cells(args.output / "cells")
    failures: list[str] = []
    try:
        if not args.report_only:
            failures = run(args, cells)
        if args.report_only or cells.folder.is_dir():
            print(f"report: {write_report(cells, args.docs)}")
    except (ValueError, OSError, KeyError) as error:
        print(f"ablate: {error}", file=sys.stderr)
        return 2
    for failure in failures:
        print(f"ablate: {failure}", file=sys.stderr)
    return 1 if failures else 0


def run(args: argparse.Namespace, cells: Cells) -> list[str]:
    """Run the chosen groups; returns what failed."""
    start_worker()
    begin = time.monotonic()
    settings = Settings(
        args.scenes, args.side, args.thresholds, str(args.config_file), tuple(args.options)
    )
    settings.fingerprint()  # a wrong key fails before any work
    with worker_pool(args.workers) as pool:
        study = Study(settings, cells, args.seeds, pool)
        work: dict[str, Callable[[], list[str] | None]] = {
            "baselines": study.run_baselines,
            "teacher": study.run_teacher,
            "latency": lambda: study.run_latency(args.latency_scenes),
            "students": lambda: Students(study, args, begin).run(),
        }
        failures: list[str] = []
        for group in [name for name in GROUPS if name in (args.only or GROUPS)]:
            if group == "students" and cells.folder.is_dir():
                write_report(cells, args.docs)  # these take longest: have a page before them
            failures += work[group]() or []
            print(f"{group}: {(time.monotonic() - begin) / 60:.1f} minutes so far", flush=True)
    return failures


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("ablation"), help="default %(default)s/")
    add("--docs", type=Path, default=ROOT / "docs", help="gets ablation.md and ablation/*.png")
    add("--only", nargs="+", choices=GROUPS, help="these groups (KEY VALUE pairs stand before it)")
    add("--report-only", action="store_true", help="run nothing")
    add("--scenes", type=int, default=40, help="a seed; default %(default)s")
    add("--seeds", type=int, default=3, help="default %(default)s")
    add("--side", type=int, default=128, help="of a scene in pixels; default %(default)s")
    add("--workers", type=int, default=2, help="processes; default %(default)s")
    add("--thresholds", type=int, default=99, help="of edge strengths; default %(default)s")
    add("--latency-scenes", type=int, default=2, help="timed a seed; default %(default)s")
    add(
        "--config-file", type=Path, default=ROOT / "configs" / "edges" / "trace_tiny.yaml",
        help="of the teacher",
    )  # fmt: skip
    student = parser.add_argument_group("students")
    add = student.add_argument
    add(
        "--student", type=Path, metavar="DIR",
        help="a trained student as a row of its own; default: the one that ships",
    )  # fmt: skip
    add(
        "--student-config", type=Path,
        default=ROOT / "configs" / "edges" / "trace_tiny_distill.yaml", help="of the trainings",
    )  # fmt: skip
    add("--student-iterations", type=int, default=200, help="a training; default %(default)s")
    add("--student-seeds", type=int, help="train with so many seeds only")
    add("--minutes", type=float, help="start no training later than this after the start")
    add("--training-scenes", type=int, default=200, help="to learn from; default %(default)s")
    add("--training-images", type=Path, metavar="DIR", help="learn from these images instead")
    add(
        "--pseudo-edges", type=Path, metavar="DIR",
        help="of the training images, made by make_pseudo_edges.py; default: made here",
    )  # fmt: skip
    add(
        "--train-set", nargs="*", default=[], metavar="KEY VALUE",
        help="config keys, for all trainings",
    )  # fmt: skip
    add = parser.add_argument
    add("options", nargs="*", default=[], metavar="KEY VALUE", help="config keys of the teacher")
    return parser


if __name__ == "__main__":
    sys.exit(main())
