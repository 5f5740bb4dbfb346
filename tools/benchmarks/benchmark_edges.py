"""Rows of benchmark.py about edge scores: ours against scikit-image and SciPy at each threshold."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import cv2
import numpy as np
from plain.edge_metrics import edge_counts_plainly

from trace_d2.edges.baselines import color_gradient_edges
from trace_d2.evaluation import edge_counts, truth_boundaries
from trace_d2.evaluation.edge_metrics import MAX_DISTANCE, THRESHOLDS
from trace_d2.scenes.procedural import make_scene

Result = TypeVar("Result")


def edge_metric_rows(sizes: tuple[tuple[int, int], ...], repeats: int) -> list[list[str]]:
    """A row for each size (H, W): a scene, and the colour gradient's edges in it.

    Times are those of the processor, as both ways use one core.
    """
    return [edge_metric_row(size, repeats) for size in sizes]


def edge_metric_row(size: tuple[int, int], repeats: int) -> list[str]:
    """One row: median times in turns, the median ratio, and the largest difference of counts."""
    scene = make_scene(0, 0, size)
    truth = truth_boundaries(scene.segment_ids)
    edges = color_gradient_edges(scene.image)
    edge_counts(edges[:8, :8], truth[:8, :8])  # compiles once
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(repeats):
        ours = _timed(times["ours"], lambda: edge_counts(edges, truth))
        plain = _timed(
            times["plain"], lambda: edge_counts_plainly(edges, truth, THRESHOLDS, MAX_DISTANCE)
        )
    cv2.setNumThreads(threads)
    found = np.stack((ours.matched, ours.predictions, ours.skeleton_inside, ours.truth_inside))
    ratio = statistics.median(p / o for o, p in zip(times["ours"], times["plain"], strict=True))
    cells = [f"{1000 * statistics.median(times[way]):.1f} ms" for way in ("ours", "plain")]
    name = f"edge scores, {size[1]} x {size[0]}, {len(THRESHOLDS)} thresholds"
    return [name, *cells, f"{ratio:.1f} x", f"{np.abs(found - plain).max():.1e}"]


def _timed(seconds: list[float], way: Callable[[], Result]) -> Result:
    start = time.process_time()
    result = way()
    seconds.append(time.process_time() - start)
    return result
