"""gpu_check.md: the figures to reach beside the measured ones, and a table of every part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# What, at most, and where it is measured: part, name, and the key of a measurement of several.
_Figure = tuple[str, str, str, str, str, float]
_FIGURES: tuple[_Figure, ...] = (
    ("kernel launches of the maps of 38 blocks", "150", "host", "launches of the maps", "", 1),
    (
        "host synchronisations of a pass that is read", "0",
        "host", "a pass that is read does not wait for the device", "", 1,
    ),
    ("SD3.5-L student, all blocks, 1024²", "110 ms", "sd35-large", "triton: student, ms", "", 1),
    (
        "SD3.5-L student, blocks 0 to 11, 1024²", "45 ms",
        "truncated", "1024 x 1024, blocks 0 to 11, ms", "", 1,
    ),
    ("SD3.5-L teacher, 10 timesteps", "1,000 ms", "sd35-large", "triton: teacher, ms", "", 1),
    (
        "reading, on top of the bare pass", "40 %",
        "sd35-large", "triton: reading, share above it", "", 100,
    ),
    (
        "distillation step, an image", "600 ms",
        "distillation", "triton: step of 2", "ms an image", 1,
    ),
    ("peak memory, student", "18.6 GiB (20 GB)", "sd35-large", "triton: student, peak GiB", "", 1),
)  # fmt: skip


def report(results: dict[str, Any], device: str, small: bool) -> str:
    """Markdown of ``results``: part -> status, seconds, measured."""
    lines = ["# GPU check", ""]
    tried = small or not device.startswith("cuda")  # which says nothing of the figures to reach
    if tried:
        lines += [f"Tried on {device}{', at tiny size' if small else ''}: no figures of a GPU.", ""]
    machine = results.get("machine", {}).get("measured", {}).get("machine", {})
    lines += [", ".join(f"{key} {value}" for key, value in machine.items()) or "machine unknown"]
    lines += ["", "## Figures to reach", ""]
    lines += _table(
        ("what", "at most", "measured"), map(_figure_row({} if tried else results), _FIGURES)
    )
    lines += ["", "## Parts", ""]
    parts = ((name, one["status"], f"{one['seconds']}") for name, one in results.items())
    lines += _table(("part", "status", "seconds"), parts)
    for name, one in results.items():
        rows = [(key, _told(value)) for key, value in one["measured"].items() if key != "machine"]
        if rows:
            lines += ["", f"## {name}", "", *_table(("what", "measured"), rows)]
        if one.get("last_lines"):
            lines += ["", "Its last lines:", "", *(f"    {line}" for line in one["last_lines"])]
    return "\n".join(lines) + "\n"


def _figure_row(results: dict[str, Any]) -> Any:
    def row(figure: _Figure) -> tuple[str, str, str]:
        what, limit, part, name, key, factor = figure
        value = results.get(part, {}).get("measured", {}).get(name)
        if isinstance(value, dict):
            value = value.get(key or "error", value.get("error"))
        if value is True:
            value = 0  # PyTorch raised no error at one
        if isinstance(value, float):
            value *= factor
        return what, limit, "not measured" if value is None else _told(value)

    return row


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_told(one)}" for key, one in value.items() if key != "longest")
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
