"""The report of the study: docs/ablation.md and its pictures, from the cells alone."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablation.cells import Cells, Numbers, Values
from ablation.rows import DIVERGENCE_NAMES, HEAD, SECTIONS, SHIPPED, TIMESTEPS, Contrast, Section
from trace_d2.io.atomic import write_json, write_text

COLUMNS = {"ods": "ODS", "ois": "OIS", "cldice": "clDice", "pq_th": "PQ^th", "ap": "AP^mk"}
_STATED = ("ap", "pq_th", "ods")  # in the sentences below a table
_SAME = 0.15  # AP^mk of the paper that counts as no difference: it gives one decimal
_DPI = 90
_PARTS = {
    "none": "no edges",
    "t 0": "ABDiv, t = 0",
    "teacher": "IEP + ABDiv",
    "student": "+ distillation",
    SHIPPED: "student\nthat ships",
}


def write_report(cells: Cells, docs: Path) -> Path:
    """Write ``docs``/ablation.md and the pictures in ``docs``/ablation/; returns the page.

    Raises:
        FileNotFoundError: no number is there yet.
    """
    numbers = Numbers(cells)
    pictures = docs / "ablation"
    pictures.mkdir(parents=True, exist_ok=True)
    lines = [_head(numbers)]
    for section in SECTIONS:
        lines += ["", f"## {section.title}", "", *_table(section, numbers)]
        lines += ["", *([_wrapped(section.text), ""] if section.text else [])]
        lines += [_wrapped(_sentence(contrast, numbers)) for contrast in section.contrasts]
        if section.key in _MEASURED:
            lines += [_wrapped(sentence) for sentence in _MEASURED[section.key](numbers)]
        lines += [_wrapped(remark) for remark in section.remarks]
        draw = _PICTURES.get(section.key)
        if draw and draw(numbers, pictures / f"{section.key}.png"):
            lines += ["", f"![{section.key}](ablation/{section.key}.png)"]
    write_json(pictures / "numbers.json", numbers.to_dict(), indent=1)
    page = docs / "ablation.md"
    write_text(page, "\n".join(lines) + "\n")
    return page


def _head(numbers: Numbers) -> str:
    settings = numbers.settings
    seeds = len({cell["seed"] for cell in numbers.used})
    side, count = settings["side"], settings["thresholds"]
    made = numbers.trainings("iterations")
    trained = f"{' or '.join(made)} iterations each" if made else "not run yet"
    run = (
        f"Per cent, mean ± standard deviation over {seeds} {'seed' if seeds == 1 else 'seeds'}. A "
        f"seed has {settings['scenes']} held-out scenes of {side} x {side} pixels of its own, of "
        "which neither trace-tiny nor a student saw any, noise of its own, and students trained "
        f"with it ({trained})."
    )
    fewer = "At the 99 thresholds of BSDS." if count == 99 else f"At {count} thresholds, not 99."
    return HEAD.format(run=_wrapped(run), thresholds=fewer)


def _wrapped(text: str) -> str:
    """``text`` in lines of the width of the other pages; the lines of a list item are indented."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(
        text, 110, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _table(section: Section, numbers: Numbers) -> list[str]:
    names = [*COLUMNS.values(), "ms"] + (["ms of divergences"] if section.divergence else [])
    lines = [f"| | {' | '.join(names)} | paper |", "| --- " * (len(names) + 2) + "|"]
    for entry in section.entries:
        cells = [_cell(numbers.of(entry.row, metric), 100) for metric in COLUMNS]
        if not numbers.of(entry.row, "ods"):
            cells[0] = "not run"
        for metric in ("ms", section.divergence):
            cells += [_cell(numbers.of(entry.row, metric), 1)] if metric else []
        lines.append(f"| {entry.name} | {' | '.join(cells)} | {entry.paper} |")
    return lines


def _cell(values: Values, scale: float) -> str:
    """Mean and deviation of ``scale`` times the values; a dash where there are none."""
    if not values:
        return "–"
    mean, deviation = _spread([scale * value for value in values.values()])
    digits = 0 if scale == 1 and mean >= 100 else 1
    text = f"{mean:,.{digits}f}"
    return text if math.isnan(deviation) else f"{text} ± {deviation:,.{digits}f}"


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, NaN for one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.fmean(values), deviation


def _sentence(contrast: Contrast, numbers: Numbers) -> str:
    """What the paper and what this study say of a contrast, as a line of a list."""
    paper = contrast.paper or "no figures"
    said = paper if isinstance(paper, str) else f"AP^mk {paper[0]} -> {paper[1]}"
    start = f"- **{contrast.name}**. Paper: {said}"
    parts = []
    for metric in _STATED:
        before, after = (numbers.of(row, metric) for row in (contrast.before, contrast.after))
        seeds = sorted(before.keys() & after.keys())
        if not seeds:
            return f"{start}; here: not run."
        old, new = ([100 * values[seed] for seed in seeds] for values in (before, after))
        gain, spread = _spread([b - a for a, b in zip(old, new, strict=True)])
        margin = "" if math.isnan(spread) else f" ± {spread:.1f}"
        means = f"{statistics.fmean(old):.1f} -> {statistics.fmean(new):.1f}"
        parts.append(f"{COLUMNS[metric]} {means} ({gain:+.1f}{margin})")
        if metric == "ap":
            verdict = _verdict(paper, gain, spread)
    return f"{start}; here: {', '.join(parts)}.{verdict}"


def _verdict(paper: tuple[float, float] | str, gain: float, spread: float) -> str:
    """Whether AP^mk moves as in the paper; empty where the paper gives no figures."""
    if isinstance(paper, str):
        return ""
    if math.isnan(spread):
        return " One seed: no spread to judge by."
    there = 0 if abs(paper[1] - paper[0]) < _SAME else math.copysign(1, paper[1] - paper[0])
    here = 0 if abs(gain) <= spread else math.copysign(1, gain)
    if here == there:
        return " AP^mk: as in the paper."
    if here == 0:
        return " AP^mk: no clear difference here."
    return f" AP^mk: clearly {'more' if here > 0 else 'less'} here, unlike in the paper."


def _emergence(numbers: Numbers) -> list[str]:
    """Where t* falls, in words."""
    found = [t for seed in numbers.extra("teacher", "timesteps") for t in seed["teacher"]]
    if not found:
        return []
    counts = Counter(found)
    inside = sum(300 <= t <= 600 for t in found) / len(found)
    listed = ", ".join(f"{t} in {counts[t]}" for t in TIMESTEPS if counts[t])
    best = {
        metric: max(
            TIMESTEPS, key=lambda t: statistics.fmean(numbers.of(f"t {t}", metric).values())
        )
        for metric in ("pq_th", "ods")
    }
    return [
        f"- **where t* falls**. Paper: at 30 to 60 % of the trajectory; here: {100 * inside:.0f} % "
        f"of {len(found)} scenes in 300..600 ({listed}). PQ^th is best at t = {best['pq_th']}, ODS "
        f"at t = {best['ods']}."
    ]


def _strengths(numbers: Numbers) -> list[str]:
    """What the divergences make of places with and without a boundary, in words."""
    parts = []
    for name in DIVERGENCE_NAMES:
        row = "teacher" if name == "kl" else f"abdiv {name}"
        on, off = (numbers.of(row, place) for place in ("on", "off"))
        if on and off:
            mean_on, mean_off = (statistics.fmean(v.values()) for v in (on, off))
            parts.append(f"{name} {mean_on:.2f} / {mean_off:.2f}")
    if not parts:
        return []
    return [
        "- Mean strength on true boundaries / off them, where 0.5 is the threshold: "
        f"{', '.join(parts)}. Labels then asked a border to stand out by a fixed contrast, so that "
        "a divergence of little spread cut little, however good its order of the pixels (ODS)."
    ]


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
        _line(left, TIMESTEPS, 100 * np.array(values), COLUMNS[metric])
        searched = 100 * statistics.fmean(numbers.of("teacher", metric).values())
        colour = left.lines[-1].get_color()
        left.axhline(searched, color=colour, linestyle=":", label=f"{COLUMNS[metric]}, searched")
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
    for axes, metric in zip(figure.subplots(1, 3), ("ods", "pq_th", "ap"), strict=True):
        values = [[100 * v for v in numbers.of(row, metric).values()] for row in present]
        spread = [statistics.stdev(v) if len(v) > 1 else 0 for v in values]
        bars = axes.bar(
            range(len(present)), [statistics.fmean(v) for v in values], yerr=spread, capsize=3
        )
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
        axes.margins(y=0.15)
        axes.set_title(f"{COLUMNS[metric]}, %")
        axes.set_xticks(range(len(present)), list(present.values()), rotation=30, fontsize=8)
    figure.savefig(path, dpi=_DPI)
    return True


def _line(axes: Any, x: Any, values: np.ndarray, name: str) -> None:
    """Mean and deviation over the columns of ``values`` (x, seeds)."""
    seeds = values.shape[1]
    spread = values.std(axis=1, ddof=1) if seeds > 1 else np.zeros(len(values))
    axes.errorbar(x, values.mean(axis=1), yerr=spread, label=name, marker="o", capsize=3)


_MEASURED = {"timesteps": _emergence, "abdiv": _strengths}
"""Section key -> sentences that further numbers write."""

_PICTURES = {"parts": draw_parts, "timesteps": draw_timesteps}
