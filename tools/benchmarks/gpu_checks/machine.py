"""What is measured on: the device, its packages, and what it can do at best."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

from gpu_checks.common import Check

_PACKAGES = ("torch", "triton", "diffusers", "transformers", "peft", "bitsandbytes", "detectron2")


def run(check: Check) -> None:
    """Measure."""
    check.measure("machine", lambda: _machine(check))
    side = check.size(8192, 64)
    a = torch.randn(side, side, device=check.device).bfloat16()
    check.measure(
        "TFLOP/s of a product in bfloat16",
        lambda: round(2 * side**3 / check.milliseconds(lambda: a @ a, 10) / 1e9, 3),
    )
    source = torch.randn(check.size(2**30, 2**12), device=check.device)
    target = torch.empty_like(source)
    check.measure(
        "TB/s of a copy",
        lambda: round(
            8 * source.numel() / check.milliseconds(lambda: target.copy_(source)) / 1e9, 3
        ),
    )


def _machine(check: Check) -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    if check.cuda:
        found["device"] = torch.cuda.get_device_name(check.device)
        found["GiB"] = round(torch.cuda.mem_get_info(check.device)[1] / 2**30, 1)
        found["cuda"] = torch.version.cuda or torch.version.hip
    else:
        found["device"] = f"CPU, {torch.get_num_threads()} threads"
    return found
