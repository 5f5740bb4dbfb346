"""Rows of benchmark.py: attention maps, their KL and ABDiv, beside the plain way and a checkout.

On a GPU the plain way is ours too, without kernels (``MODEL.TRACE.ATTENTION.KERNELS plain``).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Checkout, PeakMemory, in_process, in_turns, largest, timed
from plain.attention import mean_kl_materialised, mean_softmax_attention
from plain.edges import abdiv_of_shifted_views
from torch import Tensor

from trace_d2.edges import attention_boundary_divergence

try:
    from trace_d2.attention.divergences import mean_divergence_tensor
    from trace_d2.attention.operators import accumulate_mean_softmax
except ImportError:  # a checkout from before there were operators
    from trace_d2.attention.divergences import (  # type: ignore[assignment]
        mean_divergence as mean_divergence_tensor,
    )
    from trace_d2.attention.mean_softmax import (  # type: ignore[assignment]
        accumulate_mean_softmax,
    )

SCRATCH_MB = 16

Row = list[str]


@dataclass(frozen=True)
class Work:
    """One thing that is done to the inputs.

    Attributes:
        title: of its row.
        ours: takes further options, such as ``kernels``.
        plain: of ``tools/benchmarks/plain``.
    """

    title: str
    ours: Callable[..., Any]
    plain: Callable[[], Any]


def map_rows(small: bool, repeats: int, against: Path | None = None, device: str = "cpu") -> list:
    """All rows; with ``against`` others, beside the trace_d2 of that folder."""
    works = all_works(small, device)
    other = Checkout(against, "benchmark_maps") if against else None
    clock = time.perf_counter
    rows: list[Row] = []
    for name, work in works.items():
        plain = work.plain if device == "cpu" else partial(work.ours, kernels="plain")
        turns = in_turns(work.ours, plain, repeats, clock, 0 if device == "cpu" else 1)
        rows.append(turns.row(work.title, largest(*(_on_cpu(r) for r in turns.results))))
        if other:
            # Times of the other process follow ours: a median of more of them.
            request = name, small, device, torch.get_num_threads()
            turns = other.turns(work.ours, request, 3 * repeats, clock)
            rows.append(turns.row(f"  against {against}", 0.0))
    if other:
        other.close()
    if device == "cpu":
        rows.insert(1, memory_row(*sizes(small)))
    return rows


def sizes(small: bool) -> tuple[int, int]:
    """Tokens and heads."""
    return (256, 4) if small else (4096, 24)


def all_works(small: bool, device: str) -> dict[str, Work]:
    """By name."""
    tokens, heads = sizes(small)
    query, key = (t.to(device) for t in attention_inputs(tokens, heads))
    side = round(tokens**0.5)
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.softmax(torch.randn(tokens, tokens, generator=generator), -1).to(device) for _ in "pq"
    )
    return {
        "attention": Work(
            f"attention, {tokens} tokens, {heads} heads",
            lambda **options: accumulate(query, key, **options),
            lambda: mean_softmax_attention(query, key),
        ),
        "kl": Work(
            f"KL of two maps, {tokens} tokens",
            lambda **options: float(mean_divergence_tensor(first, second, "kl", **options)),
            lambda: mean_kl_materialised(first, second),
        ),
        "abdiv": Work(
            f"ABDiv, {tokens} tokens",
            lambda **options: attention_boundary_divergence(first, (side, side), **options),
            lambda: abdiv_of_shifted_views(first, (side, side)),
        ),
    }


def serve() -> None:
    """Do what lines of standard input ask for, and answer each with the seconds it took."""
    made: dict[tuple[Any, ...], dict[str, Work]] = {}
    for line in sys.stdin:
        name, small, device, threads = json.loads(line)
        torch.set_num_threads(threads)
        if (small, device) not in made:
            made[small, device] = all_works(small, device)
        print(timed(made[small, device][name].ours)[0], flush=True)


def attention_inputs(tokens: int, heads: int, width: int = 64) -> tuple[Tensor, Tensor]:
    """q and k (1, heads, tokens, width) in the layout that diffusers hands to attention."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, tokens, heads, width)
    return (
        torch.randn(shape, generator=generator).transpose(1, 2),
        torch.randn(shape, generator=generator).transpose(1, 2),
    )


def accumulate(query: Tensor, key: Tensor, **options: Any) -> Tensor:
    """Ours: the mean over heads of softmax(QK'/sqrt(d)), by chunks."""
    out = query.new_zeros(1, query.shape[2], key.shape[2])
    scale, scratch = query.shape[-1] ** -0.5, SCRATCH_MB * 2**20
    accumulate_mean_softmax(query, key, out, scale=scale, scratch_bytes=scratch, **options)
    return out


def memory_row(tokens: int, heads: int) -> Row:
    """Peak memory of the two ways above the inputs, in N x N float32 maps."""
    peaks = [in_process(_peak_of, way, tokens, heads) / (4 * tokens**2) for way in "op"]
    ratio = f"{peaks[1] / max(peaks[0], 1e-9):.1f} x"
    cells = [f"{peak:.2f} maps" for peak in peaks]
    return [f"attention, peak memory ({SCRATCH_MB} MiB scratch)", *cells, ratio, ""]


def _peak_of(way: str, tokens: int, heads: int) -> int:
    """Growth of this process's peak memory while one way runs, in bytes."""
    query, key = attention_inputs(tokens, heads)
    run = accumulate if way == "o" else mean_softmax_attention
    run(*attention_inputs(64, 2))  # what libraries allocate once is not the method's
    memory = PeakMemory()
    run(query, key)
    return memory.growth()


def _on_cpu(result: Any) -> Any:
    return result.cpu() if torch.is_tensor(result) else result
