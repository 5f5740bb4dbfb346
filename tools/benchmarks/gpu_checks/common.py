"""What the parts of the GPU check share: measurements that are kept at once, and backbones.

A part is a function ``run(check, ...)``. ``check.measure(name, work)`` keeps what ``work`` gives,
or its error, and the part goes on.
"""

from __future__ import annotations

import json
import statistics
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import torch
from measuring import PeakMemory, timed
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs" / "edges"
GIBIBYTE = 2**30
KERNELS = ("triton", "plain")
_SMALL_SIDE = 128


class Check:
    """Where and how large a part measures, and what it has measured so far.

    Attributes:
        failed: whether a measurement ended in an error.
    """

    def __init__(self, device: str, small: bool, path: Path) -> None:
        self.device, self.small, self.path = torch.device(device), small, path
        self.cuda = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        # Triton's interpreter is for the kernels alone: whole models take minutes in it.
        self.kernels = KERNELS if self.cuda else KERNELS[1:]
        self.failed = False
        self.measured: dict[str, Any] = {}

    def measure(self, name: str, work: Callable[[], Any]) -> Any:
        """What ``work()`` gives, kept under ``name``; None after an error."""
        result = None
        try:
            self.measured[name] = result = work()
        except Exception as error:  # whatever it is, the rest goes on
            traceback.print_exc()
            self.measured[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
            self.failed = True
        print(name, self.measured[name], flush=True)
        self.path.write_text(json.dumps(self.measured, default=str))
        if self.cuda:
            torch.cuda.empty_cache()
        return result

    def measure_quietly(self, name: str, work: Callable[[], Any]) -> Any:
        """What ``work()`` gives, of which nothing is kept but an error; None then."""
        result: Any = None

        def keep() -> str:
            nonlocal result
            result = work()
            return "made"

        self.measure(name, keep)
        return result

    def milliseconds(self, work: Callable[[], Any], repeats: int = 5, warm_up: int = 2) -> float:
        """Median milliseconds of ``work()``, the device's work included."""
        if self.small:
            repeats, warm_up = 1, 0
        for _ in range(warm_up):
            timed(work)
        return round(1000 * statistics.median(timed(work)[0] for _ in range(repeats)), 3)

    def peak(self, work: Callable[[], Any]) -> float:
        """GiB in use at the peak of ``work()``, weights included."""
        memory = PeakMemory(self.device)
        work()
        return round(memory.peak() / GIBIBYTE, 2)

    def size(self, full: Any, small: Any) -> Any:
        """``full``, or ``small`` where only the tool is tried."""
        return small if self.small else full

    def cfg(self, name: str, *options: Any, config: Path | None = None) -> Any:
        """Keys of an architecture on this device."""
        from trace_d2.config import load_trace_cfg  # parts without a backbone load nothing of it

        keys = ["MODEL.TRACE.BACKBONE.NAME", name, "MODEL.TRACE.DEVICE", str(self.device)]
        return load_trace_cfg(config, [*keys, *map(str, options)])

    def backbone(self, name: str, resolution: int = 0) -> Any:
        """A backbone with random weights, at its native resolution or another."""
        from random_backbone import random_backbone

        from trace_d2.backbones.settings import BackboneSettings

        if self.small:
            resolution = _SMALL_SIDE
            architectures.ARCHITECTURES[name] = small_architecture(
                architectures.ARCHITECTURES[name]
            )
        settings = BackboneSettings(name=name, resolution=resolution)
        return random_backbone(name, settings, self.dtype, self.device)

    def image(self, height: int = 480, width: int = 640) -> np.ndarray:
        """A scene of that size, uint8 RGB."""
        from trace_d2.scenes.procedural import make_scene

        scale = self.size(1, 8)
        return make_scene(0, 0, (height // scale, width // scale)).image


def apart(found: Tensor, exact: Tensor) -> dict[str, float]:
    """Largest and relative difference of two tensors."""
    found, exact = found.detach().double().cpu(), exact.detach().double().cpu()
    difference = found - exact
    return {
        "largest": float(f"{float(difference.abs().max()):.3g}"),
        "relative": float(f"{float(difference.norm() / exact.norm()):.3g}"),
    }


def small_architecture(architecture: architectures.Architecture) -> architectures.Architecture:
    """The same classes at toy size."""
    denoiser = dict(architecture.denoiser)
    changes: dict[str, Any] = {
        "joint_attention_dim": 32,
        "cross_attention_dim": 32,
        "pooled_projection_dim": 16,
        "num_layers": 3,
        "num_attention_heads": 2,
        "caption_projection_dim": 2 * denoiser.get("attention_head_dim", 1)
        if "caption_projection_dim" in denoiser
        else None,
        "block_out_channels": (32,) * len(denoiser.get("block_out_channels", ())),
        "transformer_layers_per_block": (1, 1, 1),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    }
    if isinstance(denoiser.get("attention_head_dim"), tuple):
        changes["attention_head_dim"] = (2, 2, 2)
    changes = {key: value for key, value in changes.items() if key in denoiser}
    if "block_out_channels" in denoiser:
        changes["layers_per_block"] = 1
    vae = architecture.vae | {
        "block_out_channels": (8,) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    return replace(architecture, denoiser=denoiser | changes, vae=vae)
