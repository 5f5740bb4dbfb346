"""Teacher and student on a real configuration: milliseconds by part, and memory at the peak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from measuring import timed

from gpu_checks.common import Check
from trace_d2.attention import mean_divergence_tensor, native_attention
from trace_d2.backbones.backbone import compile_network
from trace_d2.backbones.passes import to_host
from trace_d2.edges import EdgeDetector, attention_boundary_divergence
from trace_d2.edges.detector import StudentDetector
from trace_d2.edges.lora import merge_lora_adapters
from trace_d2.edges.student import EdgeStudent


def run(check: Check, name: str) -> None:
    """Measure."""
    cfg = check.cfg(name)
    backbone = check.backbone(name)
    check.measure("resolution", lambda: backbone.resolution)
    teacher = EdgeDetector.from_config(cfg, backbone)
    bare = _measure_parts(check, teacher)
    for kernels in check.kernels:
        teacher.attention = replace(teacher.attention, kernels=kernels)
        _measure_teacher(check, teacher, kernels, bare)
    # After the teacher: adapters change the denoiser.
    student = make_student(check, cfg, backbone)
    for kernels in check.kernels:
        student.attention = replace(student.attention, kernels=kernels)
        _measure_student(check, student, kernels)
    student.attention = replace(student.attention, kernels="auto")
    _measure_compiled(check, student)


def make_student(check: Check, cfg: Any, backbone: Any) -> EdgeStudent:
    """An untrained student of the same cost as a trained one, its adapters merged."""
    student = EdgeStudent.from_config(cfg, backbone).requires_grad_(False)
    merge_lora_adapters(backbone.network)
    return student.eval()


def bare_pass(view: Any, timesteps: list[float]) -> Callable[[], Any]:
    """The denoiser at ``timesteps``, with nothing read."""

    @torch.inference_mode()
    def work() -> Any:
        with native_attention(view.backbone):
            return view.backbone.run(view.prepared, timesteps)

    return work


@torch.inference_mode()
def _measure_parts(check: Check, teacher: EdgeDetector) -> float | None:
    """What is the same for all kernels; gives the milliseconds of a bare pass."""
    backbone, image = teacher.backbone, check.image()
    ready, view = teacher.ready(image, "image"), teacher.view(image, "image")
    placed = backbone.place([ready.read])
    edges = torch.zeros(image.shape[:2], device=check.device)
    for name, work in {
        "made ready on the CPU": lambda: teacher.ready(image, "image"),
        "placed on the device": lambda: backbone.place([ready.read]),
        "VAE": lambda: backbone.prepare(*placed),
        "copy back": lambda: to_host([edges]),
    }.items():
        check.measure(f"{name}, ms", partial(check.milliseconds, work))
    steps = list(teacher.trajectory(view.size)[: teacher.timesteps_a_pass(view.layout)])
    check.measure("timesteps a pass of the teacher", lambda: len(steps))
    check.measure(
        "denoiser, those timesteps, ms", lambda: check.milliseconds(bare_pass(view, steps), 3, 1)
    )
    bare: float | None = check.measure(
        "denoiser, ms", lambda: check.milliseconds(bare_pass(view, [0]))
    )
    return bare


@torch.inference_mode()
def _measure_teacher(check: Check, teacher: EdgeDetector, kernels: str, bare: float | None) -> None:
    image = check.image()
    ready, view = teacher.ready(image, "image"), teacher.view(image, "image")
    repeats = 3 if kernels == "triton" else 1
    reading = check.measure(
        f"{kernels}: denoiser and maps, ms",
        lambda: check.milliseconds(lambda: view([0]), repeats, 1),
    )
    if reading and bare:
        check.measure(f"{kernels}: reading, share above it", lambda: round(reading / bare - 1, 3))
    pair = tuple(view([0, 100]))
    grid = view.layout.largest
    for name, work in {
        "divergence of two maps": partial(mean_divergence_tensor, *pair, kernels=kernels),
        "ABDiv": partial(attention_boundary_divergence, pair[1], grid, kernels=kernels),
    }.items():
        check.measure(f"{kernels}: {name}, ms", partial(check.milliseconds, work))
    check.measure(
        f"{kernels}: teacher, ms",
        lambda: check.milliseconds(lambda: teacher.find([ready]), repeats, 1),
    )
    check.measure(
        f"{kernels}: teacher, peak GiB", lambda: check.peak(lambda: teacher.find([ready]))
    )


def _measure_student(check: Check, student: EdgeStudent, kernels: str) -> None:
    image, detector = check.image(), StudentDetector(student)
    ready = detector.ready(image, "image")
    check.measure(
        f"{kernels}: student, ms", lambda: check.milliseconds(lambda: detector.find([ready]))
    )
    check.measure(
        f"{kernels}: student, peak GiB", lambda: check.peak(lambda: detector.find([ready]))
    )
    if kernels == check.kernels[0]:
        check.measure(
            "student, making ready included, ms",
            lambda: check.milliseconds(lambda: detector(image, "image")),
        )
        for images in (2, 4):
            check.measure(
                f"student, {images} images a pass, ms an image",
                partial(_milliseconds_an_image, check, detector, [ready] * images),
            )
        pixels = student.backbone.to_pixels(image)
        layout = student.backbone.layout((pixels.shape[-2], pixels.shape[-1]))
        attention = torch.full((1, layout.tokens, layout.tokens), 1 / layout.tokens)
        attention = attention.to(check.device)
        decode = torch.inference_mode()(lambda: student.decoder(attention, layout.largest, pixels))
        check.measure("decoder, ms", lambda: check.milliseconds(decode))


def _milliseconds_an_image(check: Check, detector: StudentDetector, images: list[Any]) -> float:
    return round(check.milliseconds(lambda: detector.find(images), 3, 1) / len(images), 3)


def _measure_compiled(check: Check, student: EdgeStudent) -> None:
    """The student with ``MODEL.TRACE.BACKBONE.COMPILE``."""
    detector = StudentDetector(student)
    ready = detector.ready(check.image(), "image")
    expected = detector.find([ready])[0].edges

    def first_pass() -> dict[str, float]:
        compile_network(student.backbone.network, **check.size({}, {"backend": "eager"}))
        seconds, found = timed(lambda: detector.find([ready])[0].edges)
        difference = float(np.abs(found - expected).max())
        return {"seconds": round(seconds, 1), "largest difference": round(difference, 4)}

    if check.measure("compiled: student, the first pass", first_pass):
        check.measure(
            "compiled: student, ms", lambda: check.milliseconds(lambda: detector.find([ready]))
        )
