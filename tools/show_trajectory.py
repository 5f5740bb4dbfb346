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
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from tqdm import tqdm

from trace_d2.edges import EdgeDetector
from trace_d2.edges.abdiv import ternary_edges
from trace_d2.edges.trajectory import Trajectory, TrajectoryStep, read_trajectory
from trace_d2.io.atomic import write_bytes
from trace_d2.io.coco_panoptic import read_panoptic_png
from trace_d2.io.edge_maps import label_shares
from trace_d2.io.images import read_image
from trace_d2.jobs.command_line import UsageError, exit_status, load_cfg
from trace_d2.jobs.pictures import paint_segments

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "edges" / "trace_tiny.yaml"
COLUMNS = 10  # timesteps side by side
MOST_STEPS = 100  # a sheet with more could not be read
_ACCENT = "#d1495b"
_TERNARY = ListedColormap(["#bdbdbd", "#1d3557", "#f4a300"])  # ignored, none, edge
_CELL = 1.6  # inches
_DPI = 110

Panel = tuple[str, np.ndarray, dict]
"""Title, pixels, and options of ``imshow``."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--config-file", default=str(CONFIG), metavar="FILE", help="default: the embedded model's"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.png", help="default: STEM_trajectory.png, here"
    )
    parser.add_argument(
        "--truth", type=Path, metavar="PANOPTIC.png", help="show the true segments as well"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys")
    return parser.parse_intermixed_args(arguments)


def student_panel(cfg: CfgNode, image: np.ndarray, key: str) -> Panel | str:
    """The student's edges, or why there are none."""
    from trace_d2.edges.detector import StudentDetector
    from trace_d2.edges.student_files import student_folder

    try:
        student_folder(cfg)
    except (ValueError, FileNotFoundError) as error:
        return f"no student: {error}"
    edges = StudentDetector.from_config(cfg)(image, key).edges
    return "student's edges, one pass at t = 0", edges, {"cmap": "gray", "vmin": 0, "vmax": 1}


def overview(
    image: np.ndarray, trajectory: Trajectory, mode: str, truth: np.ndarray | None
) -> list[Panel]:
    """The panels of the whole image: itself, truth, teacher's edges and pseudo edges."""
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1}
    chosen = trajectory.chosen
    labels = ternary_edges(chosen.abdiv, (image.shape[0], image.shape[1]), mode)
    edge, none, ignored = (round(100 * share) for share in label_shares(labels))
    panels: list[Panel] = [(f"image, {image.shape[1]} x {image.shape[0]}", image, {})]
    if truth is not None:
        panels.append(("true segments", paint_segments(image, truth), {}))
    panels.append((f"teacher's edges at t = {chosen.timestep}", trajectory.edges, grey))
    panels.append(
        (
            f"pseudo edges: {edge} % edge (yellow),\n{none} % none (blue), {ignored} % ignored",
            labels,
            {"cmap": _TERNARY, "vmin": -1, "vmax": 1, "interpolation": "nearest"},
        )
    )
    return panels


def draw_sheet(
    image: np.ndarray, panels: list[Panel], trajectory: Trajectory, metric: str, note: str = ""
) -> Figure:
    """The sheet: overview, curve, and two rows for every ten timesteps.

    Args:
        image: uint8 (H, W, 3) RGB; its sides give the shape of all panels.
        panels: of the top row.
        trajectory: what to draw below.
        metric: name of the divergence.
        note: one line at the bottom.
    """
    columns = min(COLUMNS, max(len(trajectory.steps), 5))
    bands = -(-len(trajectory.steps) // columns)
    cell = _CELL * image.shape[0] / image.shape[1]
    top = cell * columns / max(len(panels), 3) * 0.92
    heights = [top + 0.5, 1.9, *([cell + 0.3, cell + 0.1] * bands)]
    figure = Figure(
        figsize=(_CELL * columns + 0.5, sum(heights) + 0.5),
        dpi=_DPI,
        layout=ConstrainedLayoutEngine(h_pad=0.1),
    )
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    top_row = grid[0].subgridspec(1, max(len(panels), 1))
    for column, (title, pixels, options) in enumerate(panels):
        axes = figure.add_subplot(top_row[column])
        _show(axes, pixels, image, **options)
        axes.set_title(title, fontsize=10)
    _draw_curve(figure.add_subplot(grid[1]), trajectory, metric)
    for band in range(bands):
        steps = trajectory.steps[band * columns : (band + 1) * columns]
        for row, name in enumerate(("attention", "ABDiv")):
            cells = grid[2 + 2 * band + row].subgridspec(1, columns)
            for column, step in enumerate(steps):
                axes = figure.add_subplot(cells[column])
                _draw_step(axes, step, image, name, trajectory)
                if column == 0:
                    axes.set_ylabel(name, fontsize=9)
    if note:
        figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    return figure


def _draw_step(
    axes: Axes, step: TrajectoryStep, image: np.ndarray, name: str, trajectory: Trajectory
) -> None:
    if name == "attention":
        _show(axes, step.colors, image, interpolation="nearest")
        marked = step.timestep == trajectory.emergence
        title = f"t* = {step.timestep}" if marked else f"t = {step.timestep}"
        axes.set_title(title, fontsize=9, color=_ACCENT if marked else "black", pad=3)
    else:
        _show(axes, step.edges, image, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    if step.timestep == trajectory.emergence:
        for spine in axes.spines.values():
            spine.set(visible=True, color=_ACCENT, linewidth=2.5)


def _draw_curve(axes: Axes, trajectory: Trajectory, metric: str) -> None:
    curve = trajectory.curve
    axes.plot(list(curve), list(curve.values()), color="#33608c", marker="o", markersize=4)
    axes.axvline(trajectory.emergence, color=_ACCENT, linewidth=1, linestyle="--")
    axes.plot(trajectory.emergence, curve[trajectory.emergence], "o", color=_ACCENT, markersize=8)
    axes.annotate(
        f"t* = {trajectory.emergence}",
        (trajectory.emergence, curve[trajectory.emergence]),
        xytext=(8, 6), textcoords="offset points", color=_ACCENT, fontsize=10,
    )  # fmt: skip
    last = trajectory.steps[-1].timestep
    margin = (last - trajectory.steps[0].timestep) / (2 * max(len(trajectory.steps) - 1, 1))
    # Half a step on either side, as pictures are as wide as a step.
    axes.set_xlim(trajectory.steps[0].timestep - margin, last + margin)
    axes.set_ylim(0, 1.25 * max(curve.values()) or 1)
    if len(trajectory.steps) <= 2 * COLUMNS:
        axes.set_xticks([step.timestep for step in trajectory.steps])
    axes.set_xlabel("timestep", fontsize=9)
    axes.set_ylabel("nats" if metric in ("kl", "jsd", "entropy") else "", fontsize=9)
    axes.set_title(f"{metric}: change of the attention since the timestep before", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _show(axes: Axes, pixels: np.ndarray, image: np.ndarray, **options: Any) -> None:
    """``pixels`` of any grid in the shape of ``image``, without ticks."""
    height, width = image.shape[:2]
    axes.imshow(pixels, extent=(0, width, height, 0), **options)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def read_truth(path: Path | None, image: np.ndarray) -> np.ndarray | None:
    """Segments (H, W) numbered from 1, 0 = void; None without a path.

    Raises:
        UsageError: it is not of the image's size.
    """
    if path is None:
        return None
    ids = read_panoptic_png(path)
    if ids.shape != image.shape[:2]:
        raise UsageError(f"--truth {path} is {ids.shape}, but the image is {image.shape[:2]}")
    present = np.unique(np.append(ids, 0))
    return np.searchsorted(present, ids)


def show(args: argparse.Namespace) -> int:
    """Read, draw, write; returns the exit status."""
    cfg = load_cfg(args.config_file, args.opts)
    trace = cfg.MODEL.TRACE
    if trace.EMERGENCE.STRIDE * MOST_STEPS < 1000:
        raise UsageError(
            f"MODEL.TRACE.EMERGENCE.STRIDE {trace.EMERGENCE.STRIDE} makes more than {MOST_STEPS} "
            "timesteps, too many for a sheet: take 10 or more"
        )
    image = read_image(args.image).pixels
    truth = read_truth(args.truth, image)
    key = args.image.stem
    detector = EdgeDetector.from_config(cfg)
    with tqdm(total=len(detector.timesteps), unit="step", disable=args.quiet) as bar:
        trajectory = read_trajectory(detector, image, key, bar.update)
    del detector  # two backbones at once may not fit
    panels = overview(image, trajectory, trace.ABDIV.THRESHOLD, truth)
    student = student_panel(cfg, image, key)
    note = f"{args.image.name}, {trace.BACKBONE.NAME}"
    if isinstance(student, str):
        note += "; no student is configured"
        print(student)
    else:
        panels.append(student)
    output = args.output or Path(f"{key}_trajectory.png")
    buffer = io.BytesIO()
    draw_sheet(image, panels, trajectory, trace.EMERGENCE.METRIC, note).savefig(buffer)
    write_bytes(output, buffer.getvalue())
    print(f"t* = {trajectory.emergence}; look at {output}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Draw the sheet; returns the exit status."""
    args = parse_arguments(arguments)

    def run() -> int:
        try:
            return show(args)
        except (OSError, ValueError) as error:  # of files and keys; the message says which
            raise UsageError(str(error)) from error

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
