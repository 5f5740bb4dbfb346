"""Rows of benchmark.py: the walk of BGP, labels, and scores of edges."""

from __future__ import annotations

import runpy
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from measuring import in_turns, largest, timed
from plain.edge_metrics import edge_counts_plainly
from plain.labels import label_plainly
from plain.random_walk import dense_random_walk

from trace_d2.edges.baselines import color_gradient_edges
from trace_d2.evaluation import edge_counts, truth_boundaries
from trace_d2.evaluation.edge_metrics import MAX_DISTANCE, THRESHOLDS
from trace_d2.propagation import random_walk
from trace_d2.scenes.dataset import SceneSettings, scene_categories, write_scenes
from trace_d2.scenes.procedural import make_scene

TOOLS = Path(__file__).resolve().parents[1]

Row = list[str]


def method_rows(small: bool, repeats: int, threads: int) -> list[Row]:
    """All rows; ``repeats`` of the fast ones."""
    walks = (12,) if small else (48, 64)
    count, size = (2, (48, 64)) if small else (96, (480, 640))
    return [
        # The dense walk takes up to a minute: once is enough.
        *(walk_row(side, 1 if side > 16 else repeats) for side in walks),
        label_row(count, size, threads),
        *(edge_metric_row(own, 1) for own in (((64, 64),) if small else ((128, 128), size))),
    ]


def walk_row(side: int, repeats: int) -> Row:
    """The random walk of BGP."""
    generator = np.random.default_rng(0)
    edges = (generator.random((side, side)) ** 3).astype(np.float32)
    masks = (generator.random((8, side, side)) > 0.5).astype(np.float32)
    threads = torch.get_num_threads()
    random_walk(masks, edges, threads=threads)  # compiles once
    turns = in_turns(
        lambda: random_walk(masks, edges, threads=threads),
        lambda: dense_random_walk(torch.from_numpy(masks), torch.from_numpy(edges)).numpy(),
        repeats,
    )
    return turns.row(f"BGP walk, {side} x {side}, 8 masks", largest(*turns.results))


def label_row(count: int, size: tuple[int, int], workers: int) -> Row:
    """Images a second from files to files with given edges: ours, and the plain cut by loops."""
    with tempfile.TemporaryDirectory() as name:
        folder, scenes = Path(name), Path(name) / "scenes"
        write_scenes(scenes, count, SceneSettings(size=size), workers, progress=False)
        label(scenes, folder / "first", 1)  # imports and compiles
        ours, _ = timed(lambda: label(scenes, folder / "ours", workers))
        plain, _ = timed(lambda: label_plainly(scenes, folder / "plain", scene_categories()))
    cells = [f"{count / seconds:.1f} images/s" for seconds in (ours, plain)]
    title = f"labels, {size[1]} x {size[0]}, given edges, {workers} workers"
    return [title, *cells, f"{plain / ours:.1f} x", ""]


def label(scenes: Path, output: Path, workers: int) -> None:
    """Ours: the command that users run, with the oracle edges.

    Raises:
        RuntimeError: the command failed.
    """
    command = ["--images", f"{scenes}/images", "--semantic", f"{scenes}/semantic"]
    command += ["--categories", f"{scenes}/categories.json", "--edges", f"{scenes}/edges_oracle"]
    command += ["--output", str(output), "--workers", str(workers), "--quiet"]
    status = runpy.run_path(str(TOOLS / "make_pseudo_panoptic.py"))["main"](command)
    if status:
        raise RuntimeError(f"make_pseudo_panoptic ended with {status}")


def edge_metric_row(size: tuple[int, int], repeats: int) -> Row:
    """Scores of the colour gradient's edges in a scene of ``size`` (H, W).

    Times are those of the processor, as both ways use one core.
    """
    scene = make_scene(0, 0, size)
    truth = truth_boundaries(scene.segment_ids)
    edges = color_gradient_edges(scene.image)
    edge_counts(edges[:8, :8], truth[:8, :8])  # compiles once
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    turns = in_turns(
        lambda: edge_counts(edges, truth),
        lambda: edge_counts_plainly(edges, truth, THRESHOLDS, MAX_DISTANCE),
        repeats,
        time.process_time,
    )
    cv2.setNumThreads(threads)
    ours, plain = turns.results
    found = np.stack((ours.matched, ours.predictions, ours.skeleton_inside, ours.truth_inside))
    title = f"edge scores, {size[1]} x {size[0]}, {len(THRESHOLDS)} thresholds"
    return turns.row(title, largest(found, plain))
