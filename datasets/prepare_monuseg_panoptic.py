#!/usr/bin/env python3
"""Write MoNuSeg's outlines of nuclei as COCO panoptic and COCO instances.

Reads the archives' folders in monuseg/, writes monuseg/panoptic_train/ and monuseg/panoptic_test/.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from trace_d2.data.prepare.command import add_workers, make_parser, run
from trace_d2.data.prepare.nuclei import MONUSEG_FOLDERS, prepare_monuseg


def main(arguments: list[str] | None = None) -> int:
    """Write the splits; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    splits = tuple(MONUSEG_FOLDERS)
    parser.add_argument("--splits", nargs="+", choices=splits, default=splits, help="default: both")
    add_workers(parser)
    args = parser.parse_args(arguments)

    def write() -> Iterator[str]:
        folder = args.root / "monuseg"
        for split in args.splits:
            output = folder / f"panoptic_{split}"
            counts = prepare_monuseg(folder, split, output, args.workers, not args.quiet)
            yield f"{counts[0]} images with {counts[1]} nuclei in {output}"

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
