"""Rows of benchmark.py: attention, divergences, the walk of BGP, labels, and scores of edges."""

from __future__ import annotations

import runpy
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from measuring import PeakMemory, in_process, in_turns, timed
from plain.attention import mean_kl_materialised, mean_softmax_attention
from plain.edge_metrics import edge_counts_plainly
from plain.edges import abdiv_of_shifted_views
from plain.labels import label_plainly
from plain.random_walk import dense_random_walk

from trace_d2.attention.divergences import mean_divergence
from trace_d2.attention.mean_softmax import accumulate_mean_softmax
from trace_d2.edges import attention_boundary_divergence
from trace_d2.edges.baselines import color_gradient_edges
from trace_d2.evaluation import edge_counts, truth_boundaries
from trace_d2.evaluation.edge_metrics import MAX_DISTANCE, THRESHOLDS
from trace_d2.propagation import random_walk
from trace_d2.scenes.dataset import SceneSettings, scene_categories, write_scenes
from trace_d2.scenes.procedural import make_scene

TOOLS = Path(__file__).resolve().parents[1]
SCRATCH_MB = 16

Row = list[str]


def method_rows(small: bool, repeats: int, threads: int) -> list[Row]:
    """All rows; ``repeats`` of the fast ones."""
    tokens, heads, walks = (256, 4, (12,)) if small else (4096, 24, (48, 64))
    count, size = (2, (48, 64)) if small else (96, (480, 640))
    return [
        attention_row(tokens, heads, repeats),
        memory_row(tokens, heads),
        *divergence_rows(round(tokens**0.5), repeats),
        # The dense walk takes up to a minute: once is enough.
        *(walk_row(side, 1 if side > 16 else repeats) for side in walks),
        label_row(count, size, threads),
        *(edge_metric_row(own, 1) for own in (((64, 64),) if small else ((128, 128), size))),
    ]


def attention_inputs(tokens: int, heads: int, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k (1, heads, tokens, width) in the layout that diffusers hands to attention."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, tokens, heads, width)
    return (
        torch.randn(shape, generator=generator).transpose(1, 2),
        torch.randn(shape, generator=generator).transpose(1, 2),
    )


def accumulate(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Ours: the mean over heads of softmax(QK'/sqrt(d)), by chunks."""
    out = torch.zeros(1, query.shape[2], key.shape[2])
    scale = query.shape[-1] ** -0.5
    accumulate_mean_softmax(query, key, out, scale=scale, scratch_bytes=SCRATCH_MB * 2**20)
    return out


def attention_row(tokens: int, heads: int, repeats: int) -> Row:
    """Mean of the softmax over heads."""
    query, key = attention_inputs(tokens, heads)
    turns = in_turns(
        lambda: accumulate(query, key), lambda: mean_softmax_attention(query, key), repeats
    )
    return turns.row(f"attention, {tokens} tokens, {heads} heads", _largest(*turns.results))


def memory_row(tokens: int, heads: int) -> Row:
    """Peak memory of the two ways above the inputs, in N x N float32 maps."""
    peaks = [in_process(_peak_of, way, tokens, heads) / (4 * tokens**2) for way in "op"]
    ratio = f"{peaks[1] / max(peaks[0], 1e-9):.1f} x"
    cells = [f"{peak:.2f} maps" for peak in peaks]
    return [f"the same, peak memory ({SCRATCH_MB} MiB scratch)", *cells, ratio, ""]


def _peak_of(way: str, tokens: int, heads: int) -> int:
    """Growth of this process's peak memory while one way runs, in bytes."""
    query, key = attention_inputs(tokens, heads)
    run = accumulate if way == "o" else mean_softmax_attention
    run(*attention_inputs(64, 2))  # what libraries allocate once is not the method's
    memory = PeakMemory()
    run(query, key)
    return memory.growth()


def divergence_rows(side: int, repeats: int) -> list[Row]:
    """KL of two maps, and ABDiv of one."""
    tokens = side * side
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.softmax(torch.randn(tokens, tokens, generator=generator), -1) for _ in "pq"
    )
    kl = in_turns(
        lambda: mean_divergence(first, second, "kl"),
        lambda: mean_kl_materialised(first, second),
        repeats,
    )
    abdiv = in_turns(
        lambda: attention_boundary_divergence(first, (side, side)),
        lambda: abdiv_of_shifted_views(first, (side, side)),
        repeats,
    )
    return [
        kl.row(f"KL of two maps, {tokens} tokens", _largest(*kl.results)),
        abdiv.row(f"ABDiv, {tokens} tokens", _largest(*abdiv.results)),
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
    return turns.row(f"BGP walk, {side} x {side}, 8 masks", _largest(*turns.results))


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
    return turns.row(title, _largest(found, plain))


def _largest(ours: Any, plain: Any) -> float:
    return float(np.abs(np.asarray(ours) - np.asarray(plain)).max())
