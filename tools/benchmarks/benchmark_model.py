#!/usr/bin/env python3
"""Teacher against student on one backbone: time an image, peak memory, and what is overhead.

From the pixels of an image to edges of its size. The share beside the denoiser is measured against
the bare forward passes: the same timesteps in the same batches, with nothing read. With
--architecture the backbone has its real configuration and random weights, so nothing is loaded.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from peak_memory import PeakMemory
from random_backbones import ARCHITECTURES, random_backbone
from tabulate import tabulate
from tqdm import tqdm

from trace_d2.attention import native_attention
from trace_d2.backbones import build_backbone
from trace_d2.backbones.loading import pick_device, pick_dtype
from trace_d2.edges.detector import EdgeDetector, StudentDetector
from trace_d2.edges.lora import merge_lora_adapters
from trace_d2.edges.student import EdgeStudent
from trace_d2.edges.student_files import student_folder
from trace_d2.io.atomic import write_json
from trace_d2.io.images import read_image
from trace_d2.io.listing import list_images, spread
from trace_d2.jobs.command_line import UsageError, count, exit_status, load_cfg
from trace_d2.scenes.procedural import make_scene

Images = dict[str, np.ndarray]
"""Stem to uint8 (H, W, 3) RGB."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE", help="YAML; default: all keys' defaults")
    parser.add_argument(
        "--architecture", choices=sorted(ARCHITECTURES), help="real size, random weights"
    )
    parser.add_argument("--resolution", type=int, default=0, help="MODEL.TRACE.BACKBONE.RESOLUTION")
    parser.add_argument("--images", metavar="DIR", help="photographs; default: scenes made here")
    parser.add_argument("--count", type=count, default=4, help="images; default %(default)s")
    parser.add_argument(
        "--repeats", type=count, default=3, help="times each image is timed; default %(default)s"
    )
    parser.add_argument("--threads", type=count, help="of the CPU; default: PyTorch's")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor time instead of wall time, for a CPU that others use as well",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as well")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys")
    return parser.parse_args(arguments)


def load_backbone(cfg: CfgNode, architecture: str | None) -> Any:
    """The backbone of the config, or one of random weights."""
    if architecture is None:
        return build_backbone(cfg)
    options = cfg.MODEL.TRACE.BACKBONE
    device = pick_device(cfg.MODEL.TRACE.DEVICE)
    return random_backbone(
        architecture,
        pick_dtype(options.DTYPE, device),
        device,
        resolution=options.RESOLUTION,
        aspect=options.ASPECT,
    )


def make_student(cfg: CfgNode, backbone: Any, trained: bool) -> tuple[StudentDetector, str]:
    """The student of the config where there is one, else an untrained one of the same cost.

    The backbone gets its adapters.

    Returns:
        the detector, and what it is.
    """
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


def forward_passes(backbone: Any, images: Images, batches: list[list[int]]) -> Callable[[str], Any]:
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


@dataclass(frozen=True)
class Stopwatch:
    """Times calls.

    Attributes:
        clock: seconds, wall time or processor time.
        repeats: how often each image is timed.
        bar: progress, of one step a call.
    """

    clock: Callable[[], float]
    repeats: int
    bar: Any

    def median_ms(self, run: Callable[[str], Any], keys: list[str]) -> float:
        """Median milliseconds of ``run(key)`` over all keys, after one that is not counted."""
        times = []
        for turn, key in enumerate([keys[0], *(self.repeats * keys)]):
            _synchronise()
            start = self.clock()
            run(key)
            _synchronise()
            if turn:
                times.append(1000 * (self.clock() - start))
            self.bar.update()
        return statistics.median(times)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(
    detector: Any, backbone: Any, images: Images, batches: list[list[int]], watch: Stopwatch
) -> dict[str, float]:
    """Figures of a detector: milliseconds, share beside the denoiser, bytes at the peak."""
    keys = list(images)
    memory = PeakMemory(backbone.device)
    whole = watch.median_ms(lambda key: detector(images[key], key), keys)
    peak, growth = memory.peak(), memory.growth()
    bare = watch.median_ms(forward_passes(backbone, images, batches), keys)
    return {
        "milliseconds": whole,
        "denoiser_milliseconds": bare,
        "share_beside_denoiser": 1 - bare / whole,
        "peak_bytes": peak,
        "peak_bytes_above_weights": max(growth, 0),  # other memory may be given back meanwhile
    }


def teacher_batches(teacher: EdgeDetector, images: Images) -> list[list[int]]:
    """The timesteps of the trajectory as the teacher takes them, for the first image's grid."""
    backbone, image = teacher.backbone, next(iter(images.values()))
    batch = teacher.batch(backbone.layout(backbone.size_of(image.shape[:2])))
    steps = list(teacher.timesteps)
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
        watch = Stopwatch(clock, args.repeats, bar)
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
        "timesteps": len(teacher.timesteps),
        "images": len(images),
        "repeats": args.repeats,
        "times_faster": figures["teacher"]["milliseconds"] / figures["student"]["milliseconds"],
        **figures,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def show(result: dict[str, Any]) -> str:
    """The figures as a table, with what was run."""
    rows = [
        [
            name,
            f"{result[name]['milliseconds']:.1f}",
            f"{result[name]['denoiser_milliseconds']:.1f}",
            f"{100 * result[name]['share_beside_denoiser']:.0f} %",
            f"{result[name]['peak_bytes'] / 2**30:.2f}",
            f"{result[name]['peak_bytes_above_weights'] / 2**30:.2f}",
        ]
        for name in ("teacher", "student")
    ]
    headers = ["", "ms an image", "of it the denoiser's", "beside it", "peak GiB", "above weights"]
    lines = [
        f"{result['backbone']} ({result['weights']} weights), {result['dtype']}, "
        f"{result['resolution']} pixels, {result['timesteps']} timesteps, {result['device']}",
        f"student: {result['student_weights']}, decoder {result['decoder']}; "
        f"medians of {result['images']} images x {result['repeats']}, {result['clock']} time",
        tabulate(rows, headers, disable_numparse=True),
        f"the student is {result['times_faster']:.1f} times faster",
    ]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit status."""
    try:
        result = compare(args)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UsageError(str(error)) from error
    print(show(result))
    if args.json:
        write_json(args.json, result, indent=1)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Compare teacher and student; returns the exit status."""
    args = parse_arguments(arguments)
    return exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
