"""A distillation step as configs/edges/sd35_large_distill.yaml has it, all blocks at full size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from fvcore.common.config import CfgNode
from measuring import PeakMemory

from gpu_checks.common import CONFIGS, GIBIBYTE, Check
from trace_d2.attention import forbid_cudnn_attention
from trace_d2.edges.distillation import dice_loss, reconstruction_loss
from trace_d2.edges.student import EdgeStudent


def run(check: Check) -> None:
    """Measure."""
    forbid_cudnn_attention()  # both as in training
    torch.backends.cuda.matmul.allow_tf32 = True
    name = "sd35-large"
    config = CONFIGS / "sd35_large_distill.yaml"
    rank = ("MODEL.TRACE.STUDENT.LORA.RANK", 2) if check.small else ()
    cfg = check.cfg(name, *rank, config=config)
    solver = CfgNode.load_yaml_with_base(str(config))
    student = EdgeStudent.from_config(cfg, check.backbone(name)).train()
    weights = list(student.trainable().values())
    check.measure("trained weights", lambda: sum(weight.numel() for weight in weights))
    optimizer = torch.optim.AdamW(weights, solver["SOLVER"]["BASE_LR"])
    batches = solver["MODEL"]["TRACE"]["SOLVER"]["ACCUMULATION_STEPS"]
    images = max(1, solver["SOLVER"]["IMS_PER_BATCH"] // batches)
    for kernels in check.kernels:
        student.attention = replace(student.attention, kernels=kernels)
        for count in (1, images) if kernels == check.kernels[0] else (1,):
            check.measure(
                f"{kernels}: step of {count}",
                partial(_measure_step, check, student, optimizer, count),
            )


def _measure_step(
    check: Check, student: EdgeStudent, optimizer: Any, images: int
) -> dict[str, float]:
    memory = PeakMemory(check.device)
    step = _step(check, student, optimizer, images)
    milliseconds = check.milliseconds(step, 2, 1)
    return {
        "ms an image": round(milliseconds / images, 1),
        "peak GiB": round(memory.peak() / GIBIBYTE, 2),
    }


def _step(check: Check, student: EdgeStudent, optimizer: Any, images: int) -> Callable[[], None]:
    side = student.backbone.resolution
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(images, 3, side, side, generator=generator) * 2 - 1
    edges = torch.randint(-1, 2, (images, side, side), generator=generator)
    pixels, edges = pixels.to(check.device), edges.to(check.device)

    def work() -> None:
        output = student(pixels)
        assert output.latent is not None
        assert output.reconstruction is not None
        loss = dice_loss(output.logits, edges)
        loss = loss + reconstruction_loss(output.latent, output.reconstruction)
        loss.backward()
        if not all(bool(w.grad.isfinite().all()) for w in student.trainable().values()
                   if w.grad is not None):  # fmt: skip
            raise FloatingPointError("a gradient is no number")
        optimizer.step()
        optimizer.zero_grad()

    return work
