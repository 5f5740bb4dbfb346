#!/usr/bin/env python3
"""One image through the method, on one sheet.

Attention at every timestep (principal components as colours), ABDiv at each, the curve of the
divergence with the instance emergence point, and the edges: the teacher's there, the pseudo edges
that a student is trained on, and the student's own where one is configured.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trace_d2.jobs.command_line import UsageError, asked_keys, exit_status
from trace_d2.terminal import say

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from trace_d2.jobs.trajectory_sheet import Panel

# Of the student's training, so that the pseudo edges are those that it saw.
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "edges" / "trace_tiny_distill.yaml"
MOST_STEPS = 100  # a sheet with more could not be read
REMARKS = {
    "trace-tiny": (
        "trace-tiny denoises pixels, whose clean end shows instances already: on it t = 0 is "
        "sharper, and MODEL.TRACE.EMERGENCE.FIXED_TIMESTEP 0 makes better labels (PQ^th 73.4, "
        "searched 67.8: docs/results.md).\nThe paper's models denoise a learned latent, and there "
        "the search pays (AP^mk 3.2 -> 4.8)."
    )
}
"""What the sheet says of a backbone."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("image", type=Path, metavar="IMAGE")
    add("--config-file", default=str(CONFIG), metavar="FILE", help="default: the embedded model's")
    add("--output", type=Path, metavar="FILE.png", help="default: STEM_trajectory.png, here")
    add("--truth", type=Path, metavar="PANOPTIC.png", help="show the true segments as well")
    add("--quiet", action="store_true", help="no progress bar")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys")
    return parser.parse_intermixed_args(arguments)


def student_panel(cfg: CfgNode, image: np.ndarray, key: str) -> Panel | str:
    """The student's edges, or why there are none."""
    from trace_d2.edges.detector import StudentDetector
    from trace_d2.edges.student_files import student_folder
    from trace_d2.jobs.trajectory_sheet import GREY

    try:
        student_folder(cfg)
    except (ValueError, FileNotFoundError) as error:
        return f"no student: {error}"
    return (
        "student's edges, one pass at t = 0",
        StudentDetector.from_config(cfg)(image, key).edges,
        GREY,
    )


def read_truth(path: Path | None, image: np.ndarray) -> np.ndarray | None:
    """Segments (H, W) numbered from 1, 0 = void; None without a path.

    Raises:
        UsageError: it is not of the image's size.
    """
    if path is None:
        return None
    from trace_d2.io.coco_panoptic import read_panoptic_png

    ids = read_panoptic_png(path)
    if ids.shape != image.shape[:2]:
        raise UsageError(f"--truth {path} is {ids.shape}, but the image is {image.shape[:2]}")
    present = np.unique(np.append(ids, 0))
    return np.searchsorted(present, ids)


def checked(args: argparse.Namespace) -> tuple[CfgNode, np.ndarray, np.ndarray | None]:
    """Config, image and truth; a ValueError or OSError says all that is wrong at once."""
    from trace_d2.backbones.registry import without_diffusion
    from trace_d2.complaints import Complaints
    from trace_d2.config import usable_trace_cfg
    from trace_d2.edges.preflight import check_edges
    from trace_d2.edges.settings import check_whole
    from trace_d2.io.images import read_image
    from trace_d2.jobs.edge_options import SOURCE

    wrong = Complaints()
    cfg = usable_trace_cfg(wrong, args.config_file, args.opts)
    asked = asked_keys(args).get(SOURCE, "teacher")
    if asked not in ("teacher", "student"):
        wrong.say(
            f"{SOURCE} is {asked}, but the sheet shows the teacher's way, and a student's edges: "
            "leave it out"
        )
    teacher = cfg.clone()
    teacher.defrost()
    teacher.MODEL.TRACE.EDGES.SOURCE = "teacher"  # who looks, whatever the config is for
    wrong.of(check_edges, teacher)
    wrong.of(check_whole, cfg, "this sheet")
    if without_diffusion(cfg.MODEL.TRACE.BACKBONE.NAME):
        wrong.say(
            f"MODEL.TRACE.BACKBONE.NAME {cfg.MODEL.TRACE.BACKBONE.NAME} is no diffusion model and "
            "has no trajectory: take one, or tools/make_pseudo_edges.py for this one's edges"
        )
    stride = cfg.MODEL.TRACE.EMERGENCE.STRIDE
    if 0 < stride * MOST_STEPS < 1000:
        wrong.say(
            f"MODEL.TRACE.EMERGENCE.STRIDE {stride} makes more than {MOST_STEPS} timesteps, too "
            "many for a sheet: take 10 or more"
        )
    photograph = wrong.of(read_image, args.image)
    truth = wrong.of(read_truth, args.truth, photograph.pixels) if photograph else None
    wrong.end()
    return cfg, photograph.pixels, truth


def show(args: argparse.Namespace) -> int:
    """Read, draw, write; returns the exit status."""
    cfg, image, truth = checked(args)  # before what takes long to import
    from tqdm import tqdm

    from trace_d2.backbones.registry import canonical_name
    from trace_d2.edges.detector import EdgeDetector
    from trace_d2.edges.sources import timestep_text
    from trace_d2.edges.trajectory import read_trajectory
    from trace_d2.io.atomic import write_bytes
    from trace_d2.jobs.trajectory_sheet import draw_sheet, overview

    trace = cfg.MODEL.TRACE
    key = args.image.stem
    detector = EdgeDetector.from_config(cfg)
    steps = detector.trajectory(detector.backbone.size_of(image.shape[:2]))
    with tqdm(total=len(steps), unit="step", disable=args.quiet) as bar:
        trajectory = read_trajectory(detector, image, key, bar.update)
    del detector  # two backbones at once may not fit
    panels = overview(image, trajectory, trace.ABDIV.THRESHOLD, truth)
    student = student_panel(cfg, image, key)
    note = f"{args.image.name}, {trace.BACKBONE.NAME}"
    remark = REMARKS.get(canonical_name(trace.BACKBONE.NAME))
    if isinstance(student, str):
        note += "; no student is configured"
        say(student)
    else:
        panels.append(student)
    output = args.output or Path(f"{key}_trajectory.png")
    buffer = io.BytesIO()
    note = "\n".join(filter(None, (remark, note)))
    draw_sheet(image, panels, trajectory, trace.EMERGENCE.METRIC, note).savefig(buffer)
    write_bytes(output, buffer.getvalue())
    say(f"t* = {timestep_text(trajectory.emergence)}; look at {output}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Draw the sheet; returns the exit status."""
    args = parse_arguments(arguments)

    def run() -> int:
        try:
            return show(args)
        except (OSError, ValueError, ImportError) as error:  # the message says what is wrong
            raise UsageError(str(error)) from error

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
