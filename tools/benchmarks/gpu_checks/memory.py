"""Large backbones with weights of 4 bits (bitsandbytes' NF4): memory and time of one pass."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import torch
from torch import nn

from gpu_checks.common import Check
from trace_d2.edges import EdgeDetector


def run(check: Check) -> None:
    """Measure."""
    if importlib.util.find_spec("bitsandbytes") is None:
        check.measure("NF4", lambda: "not measured: bitsandbytes is not installed")
        return
    for name in check.size(("sd35-large", "flux1-dev"), ("flux1-dev",)):
        check.measure(f"{name}, NF4", partial(_measure, check, name))


def _measure(check: Check, name: str) -> dict[str, float]:
    """One pass at t = 0 and its edges."""
    backbone = check.backbone(name)
    _quantise(backbone.denoiser)
    options = ("MODEL.TRACE.EMERGENCE.FIXED_TIMESTEP", 0)
    detector = EdgeDetector.from_config(check.cfg(name, *options), backbone)
    image = check.image()
    return {
        "ms": check.milliseconds(lambda: detector(image, "image"), 3, 1),
        "peak GiB": check.peak(lambda: detector(image, "image")),
    }


@torch.no_grad()
def _quantise(denoiser: Any) -> None:
    """The linear layers of the blocks to NF4 in place, as diffusers does when it loads."""
    import bitsandbytes as bnb

    for blocks in denoiser.children():
        if not isinstance(blocks, nn.ModuleList):
            continue
        for parent in list(blocks.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Linear):
                    weight = layer.weight.detach()
                    packed = bnb.nn.Linear4bit(
                        layer.in_features, layer.out_features, layer.bias is not None,
                        compute_dtype=weight.dtype, quant_type="nf4", device="meta",
                    )  # fmt: skip
                    packed.bias = layer.bias
                    kept: Any = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
                    packed.weight = kept.to(weight.device)  # which packs it
                    setattr(parent, name, packed)
