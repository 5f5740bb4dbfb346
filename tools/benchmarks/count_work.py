#!/usr/bin/env python3
"""What reading attention adds to a denoiser: kernel launches, waits of the host, time of the host.

Launches and waits are counted on the meta device, with the published configurations: no GPU and no
weights. A wait is a value that the host reads or a copy from its memory, in the pass itself. Time
of the host is that of the processor for one pass of the same denoisers with all their blocks and
few channels, so that next to nothing is computed; the least of some passes, as others may be busy.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from architectures import ARCHITECTURES

from trace_d2.jobs.arguments import count
from trace_d2.jobs.command_line import exit_status

# What makes a denoiser narrow, and leaves it as deep as it is.
_NARROW: dict[str, dict[str, Any]] = {
    "StableDiffusionBackbone": {"block_out_channels": (8,) * 4, "cross_attention_dim": 8},
    "StableDiffusionXLBackbone": {
        "block_out_channels": (8,) * 3,
        "cross_attention_dim": 8,
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 8,
    },
    "PixArtBackbone": {
        "num_attention_heads": 2,
        "attention_head_dim": 6,
        "cross_attention_dim": 12,
        "caption_channels": 8,
    },
    "StableDiffusion3Backbone": {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "caption_projection_dim": 16,
        "joint_attention_dim": 8,
        "pooled_projection_dim": 8,
    },
    "FluxBackbone": {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "axes_dims_rope": (2, 2, 4),
        "joint_attention_dim": 8,
        "pooled_projection_dim": 8,
    },
}
PARTS = ("encode", "pass", "pass, read", "search", "edges", "decoder")
"""What is counted: the search is of ten maps, and the edges come at the size of the image."""
_UNET = {"attention_head_dim": 2, "norm_num_groups": 4}
_NARROW_PIXELS = 128


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = list(ARCHITECTURES)
    add("--architectures", nargs="+", choices=names, default=names, metavar="NAME", help="all")
    add("--repeats", type=count, default=10, help="timed passes; default %(default)s")
    add("--json", type=Path, metavar="FILE", help="write the figures as well")
    return parser.parse_args(arguments)


def counts(backbone: Any) -> dict[str, Any]:
    """Counts of a pass on the meta device, of the parts around it, and where the host waits."""
    import torch
    from pass_parts import PassParts
    from work_counts import count as counted

    parts = PassParts(backbone)
    ways = (parts.encode, parts.run, parts.read, parts.search, parts.edges, parts.decode)
    with torch.no_grad():
        parts.encode()
        parts.run()  # constants are made once
        parts.read()  # and a network is known from here on
        work = {name: counted(way, _launches) for name, way in zip(PARTS, ways, strict=True)}
    return {
        "tokens": parts.layout.tokens,
        "attention_calls": parts.calls,
        **{
            name: {
                "operations": part.operations,
                "launches": part.launches,
                "waits": part.waits.total(),
                "places": dict(part.waits),
            }
            for name, part in work.items()
        },
        "launches_of_the_map": work["pass, read"].launches - work["pass"].launches,
    }


def _launches(operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Kernels of one call of an operator of ours."""
    import torch

    from trace_d2.attention.kernels.mean_softmax import map_launches

    if operator is not torch.ops.trace_d2.accumulate_mean_softmax.default:
        return 1
    query, key, out, scale, _, _, weights, _ = args
    log_sums = query.new_empty(query.shape[:3], dtype=torch.float32)
    return len(map_launches(query, key, out, scale, log_sums, column_weights=weights))


def host_milliseconds(backbone: Any, repeats: int) -> dict[str, float]:
    """Least milliseconds of the processor: a pass, one that is read first, a later one."""
    import torch

    from trace_d2.attention import SelfAttentionReader, native_attention

    size = (backbone.resolution, backbone.resolution)
    layout = backbone.layout(size)
    pixels = torch.zeros(1, 3, *size)

    def bare() -> None:
        backbone.run(prepared, [0])

    def read(network: Any) -> Callable[[], None]:
        def run() -> None:
            # No block is averaged: on the CPU that would not be the host's time.
            reader = SelfAttentionReader(layout, blocks=(10**6,), network=network)
            with native_attention(backbone), reader:
                backbone.run(prepared, [0])

        return run

    with torch.inference_mode():
        prepared = backbone.prepare(pixels, (0, ""))
        ways = {"pass": bare, "first, read": read(None), "later, read": read(backbone.network)}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(repeats + 2):
            for name, way in ways.items():
                start = time.process_time()
                way()
                if turn > 1:
                    times[name].append(1000 * (time.process_time() - start))
    return {name: min(values) for name, values in times.items()}


def narrow(name: str) -> Any:
    """The architecture with all its blocks and few channels, on the CPU."""
    import torch
    from random_backbone import random_backbone

    from trace_d2.backbones.registry import REGISTERED_MODELS
    from trace_d2.backbones.settings import BackboneSettings

    family = REGISTERED_MODELS[name].family
    changes = _NARROW[family] | (_UNET if "block_out_channels" in _NARROW[family] else {})
    architecture = ARCHITECTURES[name]
    vae = architecture.vae | {"block_out_channels": (4,) * 4, "norm_num_groups": 2}
    architecture = replace(architecture, denoiser=architecture.denoiser | changes, vae=vae)
    settings = BackboneSettings(name=name, resolution=_NARROW_PIXELS)
    return random_backbone(name, settings, torch.float32, torch.device("cpu"), architecture)


def measure(name: str, repeats: int) -> dict[str, Any]:
    """All figures of one architecture."""
    import torch
    from random_backbone import random_backbone

    from trace_d2.backbones.settings import BackboneSettings

    settings, meta = BackboneSettings(name=name), torch.device("meta")
    found = counts(random_backbone(name, settings, torch.bfloat16, meta))
    found["host_milliseconds"] = host_milliseconds(narrow(name), repeats)
    return found


def show(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures as a table, and the places where the host waits."""
    from tabulate import tabulate

    rows, waits = [], []
    for name, found in figures.items():
        times = found["host_milliseconds"].values()
        rows.append(
            [
                name,
                found["attention_calls"],
                found["tokens"],
                found["pass"]["launches"],
                found["launches_of_the_map"],
                f"{found['launches_of_the_map'] / found['attention_calls']:.1f}",
                sum(
                    part["waits"]
                    for part in found.values()
                    if isinstance(part, dict) and "waits" in part
                ),
                *(f"{milliseconds:.1f}" for milliseconds in times),
            ]
        )
        for part in PARTS:
            places = found[part]["places"].items()
            waits += [f"{name}, {part}: {n} x {place}" for place, n in places]
    headers = [
        "", "calls", "N", "launches of a pass", "of its map", "a call", "waits of all parts",
        "host ms", "first read", "later read",
    ]  # fmt: skip
    return "\n".join([tabulate(rows, headers, disable_numparse=True), *waits])


def run(args: argparse.Namespace) -> int:
    """Count, print, write; returns the exit status."""
    import torch

    from trace_d2.io.atomic import write_json

    torch.set_num_threads(1)
    figures = {name: measure(name, args.repeats) for name in args.architectures}
    print(show(figures))
    if args.json:
        write_json(args.json, figures, indent=1)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Count; returns the exit status."""
    args = parse_arguments(arguments)
    return exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
