"""One image's trajectory on one sheet: attention, ABDiv, the curve of divergences, and edges."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from trace_d2.edges.abdiv import ternary_edges
from trace_d2.edges.sources import timestep_text
from trace_d2.edges.trajectory import Trajectory, TrajectoryStep
from trace_d2.io.edge_maps import label_shares
from trace_d2.jobs.pictures import paint_segments

COLUMNS = 10  # timesteps side by side
_ACCENT = "#d1495b"
_TERNARY = ListedColormap(["#bdbdbd", "#1d3557", "#f4a300"])  # ignored, none, edge
_CELL = 1.6  # inches
_DPI = 110

GREY: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
"""Options of ``imshow`` for edges."""

Panel = tuple[str, np.ndarray, dict[str, Any]]
"""Title, pixels, and options of ``imshow``."""


def overview(
    image: np.ndarray, trajectory: Trajectory, mode: str, truth: np.ndarray | None
) -> list[Panel]:
    """The panels of the whole image: itself, truth, teacher's edges and pseudo edges."""
    chosen = trajectory.chosen
    labels = ternary_edges(chosen.abdiv, (image.shape[0], image.shape[1]), mode)
    edge, none, ignored = (round(100 * share) for share in label_shares(labels))
    panels: list[Panel] = [(f"image, {image.shape[1]} x {image.shape[0]}", image, {})]
    if truth is not None:
        panels.append(("true segments", paint_segments(image, truth), {}))
    panels.append(
        (f"teacher's edges at t = {timestep_text(chosen.timestep)}", trajectory.edges, GREY)
    )
    panels.append(
        (
            f"pseudo edges: {edge} % edge (yellow),\n{none} % none (blue), {ignored} % ignored",
            labels,
            {"cmap": _TERNARY, "vmin": -1, "vmax": 1, "interpolation": "nearest"},
        )
    )
    return panels


def explanation(trajectory: Trajectory) -> str:
    """Why this step was read, in plain words."""
    first, found, chosen = (
        timestep_text(timestep)
        for timestep in (
            trajectory.steps[0].timestep,
            trajectory.emergence,
            trajectory.chosen.timestep,
        )
    )
    text = (
        f"t* = {found} is where the attention changes most (Algorithm 1), which need not be where "
        f"edges look sharpest; t = {first} has no step before it to compare with, so no value."
    )
    return text if chosen == found else f"{text} Edges are read at t = {chosen}, as configured."


def draw_sheet(
    image: np.ndarray, panels: list[Panel], trajectory: Trajectory, metric: str, note: str = ""
) -> Figure:
    """The sheet: overview, curve, and two rows for every ten timesteps.

    Args:
        image: uint8 (H, W, 3) RGB; its sides give the shape of all panels.
        panels: of the top row.
        trajectory: what to draw below.
        metric: name of the divergence.
        note: lines at the bottom.
    """
    columns = min(COLUMNS, max(len(trajectory.steps), 5))
    bands = -(-len(trajectory.steps) // columns)
    cell = _CELL * image.shape[0] / image.shape[1]
    top = cell * columns / max(len(panels), 3) * 0.92
    heights = [top + 0.5, 2.1, *([cell + 0.3, cell + 0.1] * bands)]
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
        title = f"{'t*' if marked else 't'} = {timestep_text(step.timestep)}"
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
        f"t* = {timestep_text(trajectory.emergence)}",
        (trajectory.emergence, curve[trajectory.emergence]),
        xytext=(8, 6), textcoords="offset points", color=_ACCENT, fontsize=10,
    )  # fmt: skip
    last = trajectory.steps[-1].timestep
    margin = (last - trajectory.steps[0].timestep) / (2 * max(len(trajectory.steps) - 1, 1))
    # Half a step on either side, as pictures are as wide as a step.
    axes.set_xlim(trajectory.steps[0].timestep - margin, last + margin)
    axes.set_ylim(0, 1.25 * max(curve.values()) or 1)
    if len(trajectory.steps) <= 2 * COLUMNS:
        ticks = [step.timestep for step in trajectory.steps]
        axes.set_xticks(ticks, [timestep_text(tick) for tick in ticks])
    axes.set_xlabel("timestep", fontsize=9)
    axes.set_ylabel("nats" if metric in ("kl", "jsd", "entropy") else "", fontsize=9)
    title = f"{metric}: change of the attention since the timestep before"
    axes.set_title(f"{title}\n{explanation(trajectory)}", fontsize=9)
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
