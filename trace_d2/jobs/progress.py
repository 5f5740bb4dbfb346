"""How far a job is, for those who watch it: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

from tqdm import tqdm

_LINE_SECONDS = 30.0
_LINE = "{desc}: {n_fmt} of {total_fmt} images, {rate_fmt}, {remaining} left{postfix}"
# How many processes of one command write to the same terminal or file, as their launchers tell.
_TASKS = ("LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")


def progress_bar(total: int, name: str, shown: bool) -> tqdm[Any]:
    """A bar of ``total`` images.

    Where stderr is no terminal, or one that several tasks write to, it gets whole lines instead, so
    that those of several jobs in one log can be told apart.

    Args:
        name: what is counted, or who counts.
        shown: whether there is anything to see.
    """
    if sys.stderr.isatty() and not _has_siblings():
        return tqdm(total=total, desc=name, unit="image", disable=not shown)
    return tqdm(
        total=total,
        desc=name,
        unit=" images",
        disable=not shown,
        mininterval=_LINE_SECONDS,
        bar_format=_LINE,
        file=_Lines(sys.stderr),
    )


def _has_siblings() -> bool:
    return any(os.environ.get(name, "1") != "1" for name in _TASKS)


class _Lines:
    """A stream that takes each state of a bar as one line, written in one piece."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        self._stream.flush()
