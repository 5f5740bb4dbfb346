"""What the command lines that score maps share."""

from __future__ import annotations

import argparse
from pathlib import Path

from trace_d2.parallel import worker_count

from .panoptic import MISSING_POLICIES


def add_scoring_options(parser: argparse.ArgumentParser, rows: str, missed: str) -> None:
    """Add ``--workers``, ``--per-category``, ``--json`` and ``--missing``.

    Args:
        rows: what ``--per-category`` prints a row of: ``"category"``.
        missed: what an image without prediction costs: ``"segments as missed"``.
    """
    add = parser.add_argument
    add("--workers", type=worker_count, default=0, help="processes; 0: one a CPU")
    add("--per-category", action="store_true", help=f"also a row a {rows}")
    add("--json", type=Path, help="write the numbers (0..1) to this file")
    add(
        "--missing",
        choices=MISSING_POLICIES,
        default="error",
        help="an image of the truth without prediction: refuse (default), count all its "
        f"{missed}, or leave it out",
    )


def missing_note(missing: int, policy: str, missed: str) -> str:
    """What ends the line that counts the images, of which some are ``missing`` by ``policy``.

    ``missed`` is as of ``add_scoring_options``.
    """
    if not missing:
        return ""
    if policy == "skip":
        return f"; {missing} more without prediction left out"
    what, how = missed.split(" ", 1)
    return f", {missing} of them without prediction, all their {what} counted {how}"
