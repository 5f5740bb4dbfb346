#!/usr/bin/env python3
"""Teacher against student on one backbone: time an image, peak memory, and what is overhead.

From the pixels of an image to edges of its size. The share beside the denoiser is measured against
the bare forward passes: the same timesteps in the same batches, with nothing read. With
--architecture the backbone has its real configuration and random weights, so nothing is loaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from architectures import ARCHITECTURES

from trace_d2.jobs.arguments import count
from trace_d2.jobs.command_line import UsageError, exit_status


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="YAML; default: all keys' defaults")
    add("--architecture", choices=sorted(ARCHITECTURES), help="real size, random weights")
    add("--resolution", type=int, default=0, help="MODEL.TRACE.BACKBONE.RESOLUTION")
    add("--images", metavar="DIR", help="photographs; default: scenes made here")
    add("--count", type=count, default=4, help="images; default %(default)s")
    add("--repeats", type=count, default=3, help="of each image; default %(default)s")
    add("--threads", type=count, help="of the CPU; default: PyTorch's")
    add(
        "--cpu-time", action="store_true",
        help="processor time instead of wall time, for a CPU that others use as well",
    )  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the figures as well")
    add("--quiet", action="store_true", help="no progress bar")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys")
    return parser.parse_args(arguments)


def show(result: dict[str, Any]) -> str:
    """The figures as a table, with what was run."""
    from tabulate import tabulate

    rows = [
        [
            name,
            f"{result[name]['milliseconds']:.1f}",
            f"{result[name]['denoiser_milliseconds']:.1f}",
            f"{100 * result[name]['share_beside_denoiser']:.0f} %",
            f"{result[name]['peak_bytes'] / 2**30:.2f}",
            f"{result[name]['peak_bytes_above_weights'] / 2**30:.2f}",
        ]
        for name in ("teacher", "student")
    ]
    headers = ["", "ms an image", "of it the denoiser's", "beside it", "peak GiB", "above weights"]
    lines = [
        f"{result['backbone']} ({result['weights']} weights), {result['dtype']}, "
        f"{result['resolution']} pixels, {result['timesteps']} timesteps, {result['device']}",
        f"student: {result['student_weights']}, decoder {result['decoder']}; "
        f"medians of {result['images']} images x {result['repeats']}, {result['clock']} time",
        tabulate(rows, headers, disable_numparse=True),
        f"the student is {result['times_faster']:.1f} times faster",
    ]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit status."""
    from model_figures import compare  # --help loads nothing

    from trace_d2.io.atomic import write_json

    try:
        result = compare(args)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UsageError(str(error)) from error
    print(show(result))
    if args.json:
        write_json(args.json, result, indent=1)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Compare teacher and student; returns the exit status."""
    args = parse_arguments(arguments)
    return exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
