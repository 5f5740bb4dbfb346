"""The report of the study: docs/ablation.md and its pictures, from its numbers alone."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablation.rows import DIVERGENCE_NAMES, HEAD, SECTIONS, SHIPPED, TIMESTEPS, Contrast, Section
from trace_d2.io.atomic import write_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = dict[str, Any]
"""What ``Study.numbers`` gives, and numbers.json holds."""

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


def write_report(numbers: Numbers, docs: Path) -> Path:
    """Write ``docs``/ablation.md and, in ``docs``/ablation/, its numbers and pictures."""
    pictures = docs / "ablation"
    pictures.mkdir(parents=True, exist_ok=True)
    write_json(pictures / "numbers.json", numbers, indent=1)
    for key, draw in {"parts": draw_parts, "timesteps": draw_timesteps}.items():
        figure = draw(numbers)
        if figure:
            figure.savefig(pictures / f"{key}.png", dpi=_DPI)
    return write_page(numbers, docs)


def write_page(numbers: Numbers, docs: Path) -> Path:
    """Write ``docs``/ablation.md alone; returns it. Pictures are those that are there."""
    lines = [_head(numbers["settings"])]
    for section in SECTIONS:
        lines += ["", f"## {section.title}", "", *_table(section, numbers), ""]
        lines += [_wrapped(section.text), ""] if section.text else []
        sentences = [_sentence(contrast, numbers) for contrast in section.contrasts]
        if section.key in _MEASURED:
            sentences += _MEASURED[section.key](numbers)
        lines += [_wrapped(sentence) for sentence in (*sentences, *section.remarks)]
        picture = f"ablation/{section.key}.png"
        if (docs / picture).is_file():
            lines += ["", f"![{section.key}]({picture})"]
    page = docs / "ablation.md"
    write_text(page, "\n".join(lines) + "\n")
    return page


def _head(settings: dict[str, Any]) -> str:
    seeds, side, count = settings["seeds"], settings["side"], settings["thresholds"]
    made = " or ".join(map(str, settings["iterations"]))
    trained = f"{made} iterations each" if made else "not run yet"
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


def _of(numbers: Numbers, row: str, metric: str) -> list[float]:
    """Values of the seeds; empty where it was not run."""
    values = numbers["rows"].get(row, {}).get(metric, ())
    return [value for value in values if value is not None]


def _table(section: Section, numbers: Numbers) -> list[str]:
    names = [*COLUMNS.values(), "ms"] + (["ms of divergences"] if section.divergence else [])
    lines = [f"| | {' | '.join(names)} | paper |", "| --- " * (len(names) + 2) + "|"]
    for entry in section.entries:
        cells = [_cell(_of(numbers, entry.row, metric), 100) for metric in COLUMNS]
        if not _of(numbers, entry.row, "ods"):
            cells[0] = "not run"
        for metric in filter(None, ("ms", section.divergence)):
            cells.append(_cell(_of(numbers, entry.row, metric), 1))
        lines.append(f"| {entry.name} | {' | '.join(cells)} | {entry.paper} |")
    return lines


def _cell(values: list[float], scale: float) -> str:
    """Mean and deviation of ``scale`` times the values; a dash where there are none."""
    if not values:
        return "–"
    mean, deviation = _spread([scale * value for value in values])
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
        rows = (numbers["rows"].get(row, {}) for row in (contrast.before, contrast.after))
        seeds = zip(*(row.get(metric, ()) for row in rows), strict=False)
        pairs = [(100 * a, 100 * b) for a, b in seeds if None not in (a, b)]
        if not pairs:
            return f"{start}; here: not run."
        old, new = zip(*pairs, strict=True)
        gain, spread = _spread([b - a for a, b in pairs])
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
    counts = {int(t): count for t, count in numbers["emergence"].items()}
    if not counts:
        return []
    found = sum(counts.values())
    inside = sum(count for t, count in counts.items() if 300 <= t <= 600) / found
    listed = ", ".join(f"{t} in {count}" for t, count in counts.items())
    best = {
        metric: max(TIMESTEPS, key=lambda t: statistics.fmean(_of(numbers, f"t {t}", metric)))
        for metric in ("pq_th", "ods")
    }
    return [
        f"- **where t* falls**. Paper: at 30 to 60 % of the trajectory; here: {100 * inside:.0f} % "
        f"of {found} scenes in 300..600 ({listed}). PQ^th is best at t = {best['pq_th']}, ODS "
        f"at t = {best['ods']}."
    ]


def _strengths(numbers: Numbers) -> list[str]:
    """What the divergences make of places with and without a boundary, in words."""
    parts = []
    for name in DIVERGENCE_NAMES:
        row = "teacher" if name == "kl" else f"abdiv {name}"
        on, off = (_of(numbers, row, place) for place in ("on", "off"))
        if on:
            parts.append(f"{name} {statistics.fmean(on):.2f} / {statistics.fmean(off):.2f}")
    if not parts:
        return []
    return [
        "- Mean strength on true boundaries / off them, where 0.5 is the threshold: "
        f"{', '.join(parts)}. Labels then asked a border to stand out by a fixed contrast, so that "
        "a divergence of little spread cut little, however good its order of the pixels (ODS)."
    ]


def draw_timesteps(numbers: Numbers) -> Figure | None:
    """ODS and PQ^th at each timestep, the KL curve and where t* falls; None without numbers."""
    if not numbers["curves"]:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for metric in ("ods", "pq_th"):
        values = [_of(numbers, f"t {t}", metric) for t in TIMESTEPS]
        _line(left, TIMESTEPS, 100 * np.array(values), COLUMNS[metric])
        searched = 100 * statistics.fmean(_of(numbers, "teacher", metric))
        colour = left.lines[-1].get_color()
        left.axhline(searched, color=colour, linestyle=":", label=f"{COLUMNS[metric]}, searched")
    left.set(xlabel="timestep", ylabel="%", title="edges read at one timestep")
    left.legend(fontsize=8)
    curves = numbers["curves"]
    steps = list(map(int, curves[0]))
    _line(right, steps, np.array([list(curve.values()) for curve in curves]).T, "mean KL")
    right.set(xlabel="timestep", ylabel="KL from the step before, nats", title="where t* falls")
    right.legend(loc="upper center", fontsize=8)
    bars = right.twinx()
    found = numbers["emergence"]
    bars.bar(list(map(int, found)), found.values(), width=60, color="tab:orange", alpha=0.5)
    bars.set_ylabel("scenes with this t*")
    return figure


def draw_parts(numbers: Numbers) -> Figure | None:
    """Bars of the method's parts, each added to those before; None without numbers."""
    present = {row: name for row, name in _PARTS.items() if _of(numbers, row, "ods")}
    if not present:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 3), ("ods", "pq_th", "ap"), strict=True):
        values = 100 * np.array([_of(numbers, row, metric) for row in present])
        bars = axes.bar(present.values(), values.mean(axis=1), yerr=_deviation(values), capsize=3)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
        axes.margins(y=0.15)
        axes.set_title(f"{COLUMNS[metric]}, %")
        axes.tick_params("x", rotation=30, labelsize=8)
    return figure


def _line(axes: Any, x: Any, values: np.ndarray, name: str) -> None:
    """Mean and deviation over the columns of ``values`` (x, seeds)."""
    mean, spread = values.mean(axis=1), _deviation(values)
    axes.errorbar(x, mean, yerr=spread, label=name, marker="o", capsize=3)


def _deviation(values: np.ndarray) -> np.ndarray:
    """Over the seeds of ``values`` (x, seeds); 0 for one."""
    seeds = values.shape[1]
    return values.std(axis=1, ddof=1) if seeds > 1 else np.zeros(len(values))


_MEASURED = {"timesteps": _emergence, "abdiv": _strengths}
"""Section key -> sentences that further numbers write."""
