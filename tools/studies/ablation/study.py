"""The groups of rows of the study, each number made once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any

from tqdm import tqdm

from ablation.cells import Cells
from ablation.latency import measure_latency
from ablation.rows import BASELINES, TEACHERS
from ablation.work import (
    Settings,
    count_canny,
    find_judge,
    score_baselines,
    score_teachers,
    start_worker,
)
from trace_d2.evaluation.edge_metrics import edge_scores

Rows = dict[str, dict[str, Any]]
"""Row -> metric -> value."""


class Study:
    """Runs groups of rows for so many seeds; without a ``pool``, this process does the work."""

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

    def keep(
        self,
        group: str,
        seed: int,
        what: dict[str, Any],
        make: Callable[[], tuple[Rows, dict[str, Any]]],
    ) -> None:
        """Write a cell unless it is there: of rows, and what is of no single row.

        ``what`` is what the numbers depend on besides the settings.
        """
        fingerprint = self.settings.fingerprint() | what
        if self.cells.read(group, seed, fingerprint) is None:
            self.cells.write(group, seed, fingerprint, *make())

    def run_baselines(self) -> None:
        """No edges, edges without a model, oracle edges."""
        for seed in self.seeds:
            what = {"rows": list(BASELINES)}
            self.keep("baselines", seed, what, partial(self._baselines, seed))

    def _baselines(self, seed: int) -> tuple[Rows, dict[str, Any]]:
        indices = self.settings.indices(seed)
        count = partial(count_canny, self.settings)
        counts = self.map(count, indices, f"Canny's threshold, seed {seed}")
        threshold = edge_scores(counts).ods_threshold
        work = partial(score_baselines, self.settings, threshold)
        scored = self.map(work, indices, f"baselines, seed {seed}")
        rows = self._totals([truth for truth, _ in scored], [rows for _, rows in scored])
        return rows, {"canny_threshold": threshold}

    def run_teacher(self) -> None:
        """All variants of the teacher."""
        what = {"rows": {row: vars(teacher) for row, teacher in TEACHERS.items()}}
        for seed in self.seeds:
            self.keep("teacher", seed, what, partial(self._teacher, seed))

    def _teacher(self, seed: int) -> tuple[Rows, dict[str, Any]]:
        work = partial(score_teachers, self.settings, seed)
        scored = self.map(work, self.settings.indices(seed), f"teacher, seed {seed}")
        rows = self._totals([one.truth for one in scored], [one.rows for one in scored])
        return rows, {
            "timesteps": {row: [one.timesteps[row] for one in scored] for row in TEACHERS},
            "curves": [list(one.curve.values()) for one in scored],
            "curve_timesteps": list(scored[0].curve),
        }

    def _totals(self, truths: list[Any], scores: list[dict[str, Any]]) -> Rows:
        judge = find_judge(self.settings)
        return {row: judge.total(truths, [one[row] for one in scores]) for row in scores[0]}

    def run_latency(self, images: int) -> None:
        """Milliseconds of teachers and baselines, in this process alone."""
        what = {"images": images, "rows": list(TEACHERS)}
        for seed in self.seeds:
            self.keep("latency", seed, what, partial(self._latency, seed, images))

    def _latency(self, seed: int, images: int) -> tuple[Rows, dict[str, Any]]:
        return measure_latency(self.settings, seed, images), {}


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
