"""What benchmark_model.py measures: teacher and student on one backbone."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from measuring import Clock, PeakMemory, timed
from random_backbone import random_backbone
from tqdm import tqdm

from trace_d2.attention import native_attention
from trace_d2.backbones import build_backbone
from trace_d2.backbones.loading import pick_dtype
from trace_d2.backbones.settings import BackboneSettings
from trace_d2.devices import pick_device
from trace_d2.edges.detector import EdgeDetector, StudentDetector
from trace_d2.edges.lora import merge_lora_adapters
from trace_d2.edges.student import EdgeStudent
from trace_d2.edges.student_files import student_folder
from trace_d2.io.images import read_image
from trace_d2.io.listing import list_images, spread
from trace_d2.jobs.command_line import UsageError, load_cfg
from trace_d2.scenes.procedural import make_scene

Images = dict[str, np.ndarray]
"""Stem to uint8 (H, W, 3) RGB."""

Watch = Callable[[Callable[[str], Any], list[str]], float]
"""Median milliseconds of a run of each key."""


def load_backbone(cfg: CfgNode, architecture: str | None) -> Any:
    """The backbone of the config, or one of random weights, made on its device itself."""
    if architecture is None:
        return build_backbone(cfg)
    settings = replace(
        BackboneSettings.from_config(cfg), name=architecture, offload="none", cpu_offload=False
    )
    device = pick_device(cfg)
    return random_backbone(architecture, settings, pick_dtype(settings.dtype, device), device)


def make_student(cfg: CfgNode, backbone: Any, trained: bool) -> tuple[StudentDetector, str]:
    """The student of the config, or an untrained one of the same cost; and what it is."""
    if trained:
        return StudentDetector.from_config(cfg, backbone), "trained"
    student = EdgeStudent.from_config(cfg, backbone)
    if cfg.MODEL.TRACE.STUDENT.MERGE_LORA:
        merge_lora_adapters(backbone.denoiser)
    return StudentDetector(student.requires_grad_(False), cfg.MODEL.TRACE.SEED), "untrained"


def has_student(cfg: CfgNode, architecture: str | None) -> bool:
    """Whether there is a trained student; a folder that is named must be one."""
    if architecture is not None:
        return False
    try:
        student_folder(cfg)
    except (ValueError, FileNotFoundError) as error:
        if cfg.MODEL.TRACE.STUDENT.WEIGHTS:
            raise UsageError(str(error)) from error
        return False
    return True


def forward_passes(
    backbone: Any, images: Images, batches: list[list[float]]
) -> Callable[[str], Any]:
    """The bare denoiser on the latents of ``images``, which are made beforehand."""
    latents = {key: backbone.encode(backbone.to_pixels(image)) for key, image in images.items()}

    @torch.inference_mode()
    def run(key: str) -> None:
        for batch in batches:
            steps = torch.tensor(batch, device=backbone.device)
            latent = latents[key]
            with native_attention(backbone):
                backbone(latent.expand(len(batch), *latent.shape[1:]), steps)

    return run


def median_ms(
    run: Callable[[str], Any], keys: list[str], *, clock: Clock, repeats: int, bar: Any
) -> float:
    """Median milliseconds of ``run(key)`` over all keys, after one that is not counted."""
    seconds = []
    for key in [keys[0], *(repeats * keys)]:
        seconds.append(timed(partial(run, key), clock)[0])
        bar.update()
    return 1000 * statistics.median(seconds[1:])


def measure(
    detector: Any, backbone: Any, images: Images, batches: list[list[float]], watch: Watch
) -> dict[str, float]:
    """Figures of a detector: milliseconds, share beside the denoiser, bytes at the peak."""
    keys = list(images)
    memory = PeakMemory(backbone.device)
    whole = watch(lambda key: detector(images[key], key), keys)
    peak, growth = memory.peak(), memory.growth()
    bare = watch(forward_passes(backbone, images, batches), keys)
    return {
        "milliseconds": whole,
        "denoiser_milliseconds": bare,
        "share_beside_denoiser": 1 - bare / whole,
        "peak_bytes": peak,
        "peak_bytes_above_weights": max(growth, 0),  # other memory may be given back meanwhile
    }


def teacher_batches(teacher: EdgeDetector, images: Images) -> list[list[float]]:
    """The timesteps of the trajectory as the teacher takes them, for the first image's grid."""
    backbone, image = teacher.backbone, next(iter(images.values()))
    size = backbone.size_of(image.shape[:2])
    batch = teacher.timesteps_a_pass(backbone.layout(size))
    steps = list(teacher.trajectory(size))
    return [steps[start : start + batch] for start in range(0, len(steps), batch)]


def load_images(folder: str | None, number: int, side: int) -> Images:
    """``number`` images of a folder at even distances, or scenes of ``side`` x ``side``."""
    if folder is None:
        side = max(side, 32)
        return {f"scene_{i}": make_scene(0, i, (side, side)).image for i in range(number)}
    names = list_images(folder)
    return {
        stem: read_image(Path(folder) / names[stem]).pixels for stem in spread(list(names), number)
    }


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, as they are written to ``--json``."""
    options = ["MODEL.TRACE.BACKBONE.RESOLUTION", str(args.resolution)] if args.resolution else []
    if args.architecture:
        options += ["MODEL.TRACE.BACKBONE.NAME", args.architecture]
    cfg = load_cfg(args.config_file, [*args.opts, *options])
    if args.threads:
        torch.set_num_threads(args.threads)
    trained = has_student(cfg, args.architecture)
    backbone = load_backbone(cfg, args.architecture)
    if args.cpu_time and backbone.device.type != "cpu":
        raise UsageError(f"--cpu-time says nothing of {backbone.device}: leave it out")
    images = load_images(args.images, args.count, backbone.resolution)
    teacher = EdgeDetector.from_config(cfg, backbone)
    rounds = 4 * (1 + args.repeats * len(images))
    with tqdm(total=rounds, unit="image", disable=args.quiet) as bar:
        clock = time.process_time if args.cpu_time else time.perf_counter
        watch = partial(median_ms, clock=clock, repeats=args.repeats, bar=bar)
        batches = teacher_batches(teacher, images)
        figures = {"teacher": measure(teacher, backbone, images, batches, watch)}
        # In this order: the student changes the denoiser.
        student, kind = make_student(cfg, backbone, trained)
        figures["student"] = measure(student, backbone, images, [[0]], watch)
    return {
        "backbone": cfg.MODEL.TRACE.BACKBONE.NAME,
        "weights": "random" if args.architecture else "loaded",
        "student_weights": kind,
        "decoder": student.student.decoder.name,
        "device": _device_name(backbone.device),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "resolution": backbone.resolution,
        "clock": "cpu" if args.cpu_time else "wall",
        "timesteps": sum(map(len, batches)),
        "images": len(images),
        "repeats": args.repeats,
        "times_faster": figures["teacher"]["milliseconds"] / figures["student"]["milliseconds"],
        **figures,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
