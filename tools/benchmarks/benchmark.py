#!/usr/bin/env python3
"""Time ours against the plain way of doing the same, side by side in one run.

Each row alternates the two and prints the median of each, the median of the ratios pair by pair,
and how far the results lie apart. The plain ways are those of trace_d2/reference, which the tests
compare against, too. Run it on a machine that is otherwise idle.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plain_labels
import torch
from benchmark_edges import edge_metric_rows
from peak_memory import PeakMemory
from plain.attention import mean_kl_materialised, mean_softmax_attention
from plain.edges import abdiv_of_shifted_views
from plain.random_walk import dense_random_walk
from tabulate import tabulate

from trace_d2.attention.divergences import mean_divergence
from trace_d2.attention.mean_softmax import accumulate_mean_softmax
from trace_d2.edges import attention_boundary_divergence
from trace_d2.io.atomic import write_json
from trace_d2.propagation import random_walk
from trace_d2.scenes.dataset import SceneSettings, scene_categories, write_scenes

SCRATCH_MB = 16


@dataclass(frozen=True)
class Comparison:
    """Two ways to one result. ``difference`` compares what they return."""

    name: str
    ours: Callable[[], Any]
    plain: Callable[[], Any]
    difference: Callable[[Any, Any], float]


def _largest(ours: Any, plain: Any) -> float:
    return float(np.abs(np.asarray(ours) - np.asarray(plain)).max())


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


def attention_row(tokens: int, heads: int) -> Comparison:
    query, key = attention_inputs(tokens, heads)
    return Comparison(
        f"attention, {tokens} tokens, {heads} heads",
        lambda: accumulate(query, key),
        lambda: mean_softmax_attention(query, key),
        _largest,
    )


def divergence_rows(side: int) -> list[Comparison]:
    tokens = side * side
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.softmax(torch.randn(tokens, tokens, generator=generator), -1) for _ in "pq"
    )
    return [
        Comparison(
            f"KL of two maps, {tokens} tokens",
            lambda: mean_divergence(first, second, "kl"),
            lambda: mean_kl_materialised(first, second),
            lambda a, b: abs(a - b),
        ),
        Comparison(
            f"ABDiv, {tokens} tokens",
            lambda: attention_boundary_divergence(first, (side, side)),
            lambda: abdiv_of_shifted_views(first, (side, side)),
            _largest,
        ),
    ]


def walk_row(side: int) -> Comparison:
    generator = np.random.default_rng(0)
    edges = (generator.random((side, side)) ** 3).astype(np.float32)
    masks = (generator.random((8, side, side)) > 0.5).astype(np.float32)
    random_walk(masks, edges, threads=torch.get_num_threads())  # compiles once
    return Comparison(
        f"BGP walk, {side} x {side}, 8 masks",
        lambda: random_walk(masks, edges, threads=torch.get_num_threads()),
        lambda: dense_random_walk(torch.from_numpy(masks), torch.from_numpy(edges)).numpy(),
        _largest,
    )


def measure(row: Comparison, repeats: int) -> list[str]:
    """Alternate the two ways ``repeats`` times; a row of the table."""
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    results = {}
    for _ in range(repeats):
        for name, way in (("ours", row.ours), ("plain", row.plain)):
            start = time.perf_counter()
            results[name] = way()
            times[name].append(time.perf_counter() - start)
    ratio = statistics.median(p / o for o, p in zip(times["ours"], times["plain"], strict=True))
    ours, plain = (statistics.median(times[name]) for name in ("ours", "plain"))
    apart = row.difference(results["ours"], results["plain"])
    return [row.name, _seconds(ours), _seconds(plain), f"{ratio:.1f} x", f"{apart:.1e}"]


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _peak_of(way: str, tokens: int, heads: int, send: Any) -> None:
    """In a process of its own: the growth of peak memory while one way runs, in bytes."""
    query, key = attention_inputs(tokens, heads)
    small = attention_inputs(64, 2)
    run = accumulate if way == "ours" else mean_softmax_attention
    run(*small)  # what libraries allocate once is not the method's
    memory = PeakMemory()
    run(query, key)
    send.send(memory.growth())


def memory_row(tokens: int, heads: int) -> list[str]:
    """Peak memory of the two ways above the inputs, in N x N float32 maps."""
    peaks = {}
    context = multiprocessing.get_context("spawn")
    for way in ("ours", "plain"):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_peak_of, args=(way, tokens, heads, send))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"measuring memory of {way} ended with {process.exitcode}")
        peaks[way] = receive.recv() / (4 * tokens**2)
    name = f"the same, peak memory ({SCRATCH_MB} MiB scratch)"
    ratio = f"{peaks['plain'] / max(peaks['ours'], 1e-9):.1f} x"
    return [name, f"{peaks['ours']:.2f} maps", f"{peaks['plain']:.2f} maps", ratio, ""]


def label_row(count: int, size: tuple[int, int], workers: int) -> list[str]:
    """Images a second from files to files with given edges: ours, and the plain cut by loops."""
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder) / "scenes"
        write_scenes(scenes, count, SceneSettings(size=size), workers, progress=False)
        start = time.perf_counter()
        plain_labels.label_by_make(scenes, Path(folder) / "ours", workers)
        ours = count / (time.perf_counter() - start)
        start = time.perf_counter()
        plain_labels.label_plainly(scenes, Path(folder) / "plain", scene_categories())
        plain = count / (time.perf_counter() - start)
    name = f"labels, {size[1]} x {size[0]}, given edges, {workers} workers"
    return [name, f"{ours:.1f} images/s", f"{plain:.1f} images/s", f"{ours / plain:.1f} x", ""]


def main(arguments: list[str] | None = None) -> int:
    """Run all rows and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each fast row; default 5")
    parser.add_argument("--threads", type=int, default=2, help="default %(default)s")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the tool")
    parser.add_argument(
        "--mapper", action="store_true", help="time the dataset mapper as well (needs Detectron2)"
    )
    parser.add_argument(
        "--distillation",
        type=int,
        nargs="?",
        const=38,
        metavar="HEADS",
        help="time and peak memory of a distillation step as well: 12 GiB with the 38 heads of "
        "Stable Diffusion 3.5 Large (default), less with fewer",
    )
    parser.add_argument(
        "--device", default="cpu", help="of the distillation step; default %(default)s"
    )
    parser.add_argument("--json", type=Path, help="write the table to this file as well")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    tokens, heads, walks = (256, 4, (12,)) if args.small else (4096, 24, (48, 64))
    rows = [measure(attention_row(tokens, heads), args.repeats), memory_row(tokens, heads)]
    rows += [measure(row, args.repeats) for row in divergence_rows(round(tokens**0.5))]
    # The dense walk takes up to a minute: once is enough.
    rows += [measure(walk_row(side), 1 if side > 16 else args.repeats) for side in walks]
    count, size = (2, (48, 64)) if args.small else (96, (480, 640))
    rows.append(label_row(count, size, args.threads))
    rows += edge_metric_rows(((64, 64),) if args.small else ((128, 128), size), 1)
    if args.mapper:
        from benchmark_mapper import mapper_rows  # imports Detectron2

        rows += mapper_rows(*((2, 32) if args.small else (64, 256)), repeats=args.repeats)
    if args.distillation:
        from benchmark_distillation import StepSize, distillation_rows

        dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
        side = 8 if args.small else 64
        step = StepSize(side, args.distillation, dtype=dtype, device=args.device)
        rows += distillation_rows(step, 1 if args.device == "cpu" else args.repeats)
    headers = ["", "ours", "plain", "plain / ours", "apart"]
    print(tabulate(rows, headers, disable_numparse=True))
    if args.json:
        write_json(args.json, [dict(zip(headers, row, strict=True)) for row in rows], indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
