"""The pictures of the study's report."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ablation_rows import SHIPPED, TIMESTEPS

if TYPE_CHECKING:
    from ablation_report import Numbers

_DPI = 90
_PARTS = {
    "none": "no edges",
    "t 0": "ABDiv, t = 0",
    "teacher": "IEP + ABDiv",
    "student": "+ distillation",
    SHIPPED: "student\nthat ships",
}
_METRICS = {"ods": "ODS", "pq_th": "PQ^th", "ap": "AP^mk"}


def draw_timesteps(numbers: Numbers, path: Path) -> bool:
    """ODS and PQ^th at each timestep, the KL curve and where t* falls; False without numbers."""
    curves = numbers.extra("teacher", "curves")
    if not curves:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for metric in ("ods", "pq_th"):
        values = [list(numbers.of(f"t {t}", metric).values()) for t in TIMESTEPS]
        _line(left, TIMESTEPS, 100 * np.array(values), _METRICS[metric])
        searched = 100 * statistics.fmean(numbers.of("teacher", metric).values())
        colour = left.lines[-1].get_color()
        left.axhline(searched, color=colour, linestyle=":", label=f"{_METRICS[metric]}, searched")
    left.set(xlabel="timestep", ylabel="%", title="edges read at one timestep")
    left.legend(fontsize=8)
    steps = numbers.extra("teacher", "curve_timesteps")[0]
    _line(right, steps, np.array([np.mean(seed, axis=0) for seed in curves]).T, "mean KL")
    right.set(xlabel="timestep", ylabel="KL from the step before, nats", title="where t* falls")
    right.legend(loc="upper center", fontsize=8)
    bars = right.twinx()
    found = Counter(t for seed in numbers.extra("teacher", "timesteps") for t in seed["teacher"])
    bars.bar(list(found), list(found.values()), width=60, color="tab:orange", alpha=0.5)
    bars.set_ylabel("scenes with this t*")
    figure.savefig(path, dpi=_DPI)
    return True


def draw_parts(numbers: Numbers, path: Path) -> bool:
    """Bars of the method's parts, each added to those before; False without numbers."""
    present = {row: name for row, name in _PARTS.items() if numbers.of(row, "ods")}
    if not present:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 3), _METRICS.items(), strict=True):
        values = [[100 * v for v in numbers.of(row, metric).values()] for row in present]
        spread = [statistics.stdev(v) if len(v) > 1 else 0 for v in values]
        bars = axes.bar(
            range(len(present)), [statistics.fmean(v) for v in values], yerr=spread, capsize=3
        )
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
        axes.margins(y=0.15)
        axes.set_title(f"{title}, %")
        axes.set_xticks(range(len(present)), list(present.values()), rotation=30, fontsize=8)
    figure.savefig(path, dpi=_DPI)
    return True


def _line(axes: Any, x: Any, values: np.ndarray, name: str) -> None:
    """Mean and deviation over the columns of ``values`` (x, seeds)."""
    seeds = values.shape[1]
    spread = values.std(axis=1, ddof=1) if seeds > 1 else np.zeros(len(values))
    axes.errorbar(x, values.mean(axis=1), yerr=spread, label=name, marker="o", capsize=3)
