#!/usr/bin/env python3
"""Time ours against the plain way of doing the same, side by side in one run.

Each row alternates the two and prints the median of each, the median of the ratios pair by pair,
and how far the results lie apart. The plain ways are those of tools/benchmarks/plain, which the
tests compare against, too. Run it on a machine that is otherwise idle.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repeats", type=int, default=5, help="of each fast row; default 5")
    add("--threads", type=int, default=2, help="default %(default)s")
    add("--small", action="store_true", help="small sizes, to try the tool")
    add("--mapper", action="store_true", help="time the dataset mapper as well (needs Detectron2)")
    add(
        "--distillation", type=int, nargs="?", const=38, metavar="HEADS",
        help="time and peak memory of a distillation step as well: 12 GiB with the 38 heads of "
        "Stable Diffusion 3.5 Large (default), less with fewer",
    )  # fmt: skip
    add(
        "--against", type=Path, metavar="CHECKOUT",
        help="another checkout of this repository: time its maps, KL, ABDiv and readers, too",
    )  # fmt: skip
    add(
        "--device",
        default="cpu",
        help="of attention, KL, ABDiv and the distillation step; default %(default)s",
    )
    add("--json", type=Path, help="write the table to this file as well")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run all rows and print the table."""
    args = parse_arguments(arguments)
    import torch  # --help loads nothing
    from benchmark_maps import map_rows
    from benchmark_methods import method_rows
    from benchmark_reading import reading_rows
    from tabulate import tabulate

    from trace_d2.io.atomic import write_json

    torch.set_num_threads(args.threads)
    rows = map_rows(args.small, args.repeats, args.against, args.device)
    rows += method_rows(args.small, args.repeats, args.threads)
    rows += reading_rows(args.small, args.repeats, args.against)
    if args.mapper:
        from benchmark_mapper import mapper_rows  # imports Detectron2

        rows += mapper_rows(*((2, 32) if args.small else (64, 256)), repeats=args.repeats)
    if args.distillation:
        from benchmark_distillation import StepSize, distillation_rows

        dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
        side = 8 if args.small else 64
        step = StepSize(side, args.distillation, dtype=dtype, device=args.device)
        rows += distillation_rows(step, 1 if args.device == "cpu" else args.repeats)
    headers = ["", "ours", "plain", "plain / ours", "apart"]
    print(tabulate(rows, headers, disable_numparse=True))
    if args.json:
        write_json(args.json, [dict(zip(headers, row, strict=True)) for row in rows], indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
