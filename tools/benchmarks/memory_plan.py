#!/usr/bin/env python3
"""Compute what a student takes of a GPU's memory, without one: a table in Markdown.

Weights are counted on the meta device, of the published configurations. Activations are the most
bytes of tensors that live at a time in a pass of the VAE and one of the denoiser over an image,
counted there as well; attention takes no memory beyond its output, as fused kernels do. On top come
the accumulated map, scratch, adapters that are not merged (MODEL.TRACE.STUDENT.LORA at its
defaults), one layer that is turned back from few bits, and what CUDA itself takes (0.6 GB, an
assumption). Nothing here is measured; GB are 10^9 bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from architectures import ARCHITECTURES

from trace_d2.jobs.command_line import exit_status

GB = 1e9
CUDA_BYTES = 0.6e9  # context, libraries and their workspaces
# Bytes a weight of a quantised layer. NF4: 4 bits, and a float32 for 64 of them. GGUF: a float16
# for 32 (Q8_0), two for 256 and 12 bytes of scales (Q4_K). int8: a scale a row counts for nothing.
BYTES = {
    "bf16": 2.0,
    "int8": 1.0,
    "GGUF Q8_0": 34 / 32,
    "GGUF Q4_K": 144 / 256,
    "nf4": 0.5 + 4 / 64,
}


@dataclass(frozen=True)
class Plan:
    """Bytes on the device. ``blocks`` are of the two largest blocks, which group offload moves."""

    denoiser: float
    blocks: float
    outside: float
    vae: float
    adapters: float
    activations: float
    reading: float
    layer: float

    @property
    def total(self) -> float:
        """Of a student with everything on the device."""
        return self.denoiser + self._rest

    @property
    def grouped(self) -> float:
        """With OFFLOAD "group"."""
        return min(self.denoiser, self.blocks + self.outside) + self._rest

    @property
    def _rest(self) -> float:
        parts = self.vae, self.adapters, self.activations, self.reading, self.layer, CUDA_BYTES
        return sum(parts)


def plans(name: str, resolution: int = 0) -> dict[str, Plan]:
    """What a student of a registered model takes, one image a pass, by the kind of its weights."""
    import torch
    from random_backbone import random_backbone
    from torch import nn

    from trace_d2.backbones.quantization import modules_kept
    from trace_d2.backbones.settings import BackboneSettings

    settings = BackboneSettings(name=name, resolution=resolution, dtype="bfloat16")
    backbone = random_backbone(name, settings, torch.bfloat16, torch.device("meta"))
    denoiser, activations = backbone.denoiser, _activations(backbone)
    kept = modules_kept(type(denoiser), denoiser.config)
    few = {
        f"{path}.weight": module
        for path, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and path.split(".")[0] not in kept
    }
    largest = max(2.0 * layer.weight.numel() for layer in few.values())
    made = {}
    for scheme, width in BYTES.items():
        sizes = {
            key: tensor.numel() * (width if key in few else 2.0)
            for key, tensor in chain(denoiser.named_parameters(), denoiser.named_buffers())
        }
        blocks, whole = _blocks(sizes), sum(sizes.values())
        apart = scheme != "bf16"  # adapters are not merged
        made[scheme] = Plan(
            denoiser=whole,
            blocks=sum(sorted(blocks.values())[-2:]),
            outside=whole - sum(blocks.values()),
            vae=sum(2.0 * weight.numel() for weight in backbone.vae.parameters()),
            adapters=_adapters(denoiser) if apart else 0.0,
            activations=activations,
            reading=_reading(backbone),
            layer=largest if apart else 0.0,
        )
    return made


def _blocks(sizes: Mapping[str, float]) -> dict[str, float]:
    """Bytes of each block that lies in a list of them."""
    blocks: dict[str, float] = defaultdict(float)
    for key, size in sizes.items():
        first, second = (*key.split("."), "")[:2]
        if second.isdigit():
            blocks[f"{first}.{second}"] += size
    return blocks


def _adapters(denoiser: Any) -> float:
    """float32 A and B of every layer that is adapted."""
    from trace_d2.edges.lora import LoraSettings, lora_layers

    settings = LoraSettings()
    layers = [denoiser.get_submodule(path) for path in lora_layers(denoiser, settings.layers)]
    return sum(4.0 * settings.rank * (layer.in_features + layer.out_features) for layer in layers)


def _activations(backbone: Any) -> float:
    """The most bytes of tensors in a pass of the VAE, then the denoiser, over one image."""
    import torch
    from live_memory import FusedAttention, LiveBytes

    side = backbone.resolution
    with torch.no_grad(), torch.device("meta"), FusedAttention(), LiveBytes() as live:
        latent = backbone.encode(torch.empty(1, 3, side, side))
        step = torch.zeros(1, dtype=torch.int64)
        backbone.predict(latent.to(torch.bfloat16), step)
    return float(live.peak)


def _reading(backbone: Any) -> float:
    from trace_d2.attention import AttentionSettings

    side = backbone.resolution
    tokens = backbone.layout((side, side)).tokens
    return 4.0 * tokens**2 + AttentionSettings().scratch_mb * 2**20


def table(models: Sequence[str], resolution: int) -> str:
    """A row for each model and scheme."""
    lines = [
        "| model | weights | denoiser | VAE | adapters | activations | map, scratch | student |"
        " blocks in main memory |",
        "| --- | --- " + "| ---: " * 7 + "|",
    ]
    for name in models:
        for scheme, made in plans(name, resolution).items():
            numbers = (
                *(made.denoiser, made.vae, made.adapters, made.activations, made.reading),
                *(made.total, made.grouped),
            )
            cells = " | ".join(f"{number / GB:.2f}" for number in numbers)
            lines.append(f"| {name} | {scheme} | {cells} |")
    return "\n".join(lines)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--resolution", type=int, default=0, help="pixels; 0: the native one")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    """Print the table; returns the exit status."""
    print(table(args.models, args.resolution))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Compute; returns the exit status."""
    args = parse_arguments(arguments)
    return exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
