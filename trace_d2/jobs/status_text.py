"""``--status``: how a job stands, in words or as JSON, once or again and again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trace_d2.jobs.failures import Kind
from trace_d2.jobs.status import ENDED, RUNNING, SILENT, Looker, Part, Status
from trace_d2.jobs.tails import LATELY
from trace_d2.terminal import plain_lines, say

_SHOWN_KINDS = 10
_SHOWN_ROWS = 40  # of parts or workers; JSON has all
_CLEAR = "\x1b[H\x1b[2J"
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def show_status(output: str, every: float | None = None, as_json: bool = False) -> int:
    """Print how the job of ``output`` stands; returns the exit status of ``Status``.

    Args:
        every: seconds after which it is looked at again, until nothing is left to do; None: once.
        as_json: print one line of JSON instead.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is damaged.
    """
    looker = Looker(output)
    while True:
        status = looker.look()
        if as_json:
            print(json.dumps(status_json(status)), flush=True)
        else:
            if every and sys.stdout.isatty():
                sys.stdout.write(_CLEAR)
            say(status_text(status))
            sys.stdout.flush()
        if not every or not status.pending:
            return status.exit_status
        time.sleep(every)


def status_json(status: Status) -> dict[str, Any]:
    """What ``--json`` prints: counts, speeds in images a second, times in seconds since 1970."""
    content = asdict(status)
    for part, own in zip(content["parts"], status.parts, strict=True):
        part["pending"] = own.pending
    return {
        **content,
        "pending": status.pending,
        "seconds_left": status.seconds_left,
        "exit_status": status.exit_status,
    }


def status_text(status: Status) -> str:
    """How a job stands, in lines."""
    return "\n".join(
        [
            f"{status.kind} in {status.output}, {_clock(status.now)}",
            f"{status.done:,} of {status.images:,} images done, {status.skipped:,} skipped, "
            f"{status.failed:,} failed, {status.pending:,} to do",
            *_speed(status),
            *_rows(status),
            *_remarks(status),
            *_reasons("failed", status.failed, status.failures),
            *_reasons("skipped", status.skipped, status.skips),
        ]
    )


def duration(seconds: float) -> str:
    """``"45 s"``, ``"12 min"``, ``"1 h 9 min"``, ``"3 d 4 h"``."""
    left = round(max(seconds, 0.0))
    for rank, (size, unit) in enumerate(_UNITS):
        if left >= size:
            first, rest = divmod(left, size)
            smaller, name = _UNITS[min(rank + 1, 3)]
            more = f" {rest // smaller} {name}" if rank < 2 and rest >= smaller else ""
            return f"{first} {unit}{more}"
    return "0 s"


def _speed(status: Status) -> list[str]:
    if not status.pending:
        return [f"{status.overall:.3g} images/s overall"] if status.overall else []
    speed = f"{status.lately:.3g} images/s lately, {status.overall:.3g} overall"
    left = status.seconds_left
    if left is not None:
        return [f"{speed}; about {duration(left)} left"]
    if any(part.state == RUNNING for part in status.parts):
        if status.pending == status.images:
            return ["no image has ended yet, so the time left is not known"]
        return [f"{speed}; no image in the last {duration(LATELY)}, so the time left is not known"]
    return [f"{speed}; nobody is at work: run the command again, it continues"]


def _rows(status: Status) -> list[str]:
    """A line for each part, and each of its workers."""
    cells = [("", "process", "state", "images", "failed", "images/s", "last sign")]
    for part in status.parts:
        where = part.holder.name if part.holder else ""
        done = f"{part.images - part.pending:,}/{part.images:,}"
        sign = _ago(status.now - part.last) if part.last else ""
        lately = f"{part.lately:.3g}" if part.state == RUNNING else ""
        cells.append((part.name, where, part.state, done, f"{part.failed:,}", lately, sign))
        for worker in part.workers:
            sign, lately = _ago(status.now - worker.last), f"{worker.lately:.3g}"
            counts = f"{worker.images:,}", f"{worker.failed:,}"
            cells.append(("", worker.name, "", *counts, lately, sign))
    shown, more = cells[: _SHOWN_ROWS + 1], len(cells) - _SHOWN_ROWS - 1
    if not shown[1:]:
        return []
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    adjust = [str.ljust] * 3 + [str.rjust] * 4  # words, numbers
    cut = [
        [put(text, n) for put, text, n in zip(adjust, row, widths, strict=True)] for row in shown
    ]
    lines = ["  ".join(row).rstrip() for row in cut]
    return ["", *lines, *([f"and {more} more rows: --json has all"] if more > 0 else [])]


def _remarks(status: Status) -> list[str]:
    """What is to be looked after."""
    lines = []
    if status.unbegun and status.pending:
        shown = ", ".join(status.unbegun[:5]) + (", ..." if len(status.unbegun) > 5 else "")
        lines.append(f"not begun: {shown}")
    lost = [part for part in status.parts if part.state not in (RUNNING, ENDED)]
    waiting = [part for part in lost if part.pending]
    if waiting and any(part.state == RUNNING for part in status.parts):
        lines.append(f"{_names(waiting)}: run the same command again, it continues")
    silent = [part for part in waiting if part.state == SILENT and part.holder]
    for part in silent[:3]:
        lines.append(f"{part.name}: is {part.holder.host} up?")  # type: ignore[union-attr]
    return ["", *lines] if lines else []


def _names(parts: Sequence[Part]) -> str:
    more = f" and {len(parts) - 5} more" if len(parts) > 5 else ""
    return ", ".join(part.name for part in parts[:5]) + more


def _reasons(word: str, count: int, kinds: Sequence[Kind]) -> list[str]:
    if not count:
        return []
    lines = [f"  {kind.count:>7,}  {kind}" for kind in kinds[:_SHOWN_KINDS]]
    more = len(kinds) - _SHOWN_KINDS
    return [
        "",
        f"{count:,} {word}:",
        *map(plain_lines, lines),
        *([f"  and {more} more kinds: --json has all"] if more > 0 else []),
    ]


def _ago(seconds: float) -> str:
    return f"{duration(seconds)} ago"


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
