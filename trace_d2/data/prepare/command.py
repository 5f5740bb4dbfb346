"""What the command lines of ``datasets/`` share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from trace_d2.data.dataset_files import datasets_root
from trace_d2.parallel import worker_count
from trace_d2.terminal import say


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that knows the root of the data sets and ``--quiet``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    place = "folder of the data sets (default: DETECTRON2_DATASETS, else datasets)"
    parser.add_argument("--root", type=Path, default=datasets_root(), help=place)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``."""
    parser.add_argument(
        "--workers", type=worker_count, default=0, help="processes (default: 0, one a CPU)"
    )


def run(script: str, written: Iterator[str]) -> int:
    """Print a line for each thing ``written``; 0 on success, 2 if something is missing or damaged.

    130 where somebody interrupts it. Errors begin with the name of the ``script``.
    """
    try:
        for line in written:
            say(line)
    except (ValueError, OSError) as error:
        say(f"{Path(script).stem}: {error}", error=True)
        return 2
    except BrokenProcessPool:
        say(
            f"{Path(script).stem}: a process was killed, perhaps as memory ran out: run it again "
            "with fewer --workers; a Python script that calls this must do so under "
            'if __name__ == "__main__"',
            error=True,
        )
        return 2
    except KeyboardInterrupt:
        say(f"\n{Path(script).stem}: interrupted: run it again", error=True)
        return 130
    return 0
