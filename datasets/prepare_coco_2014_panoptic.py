#!/usr/bin/env python3
"""Write coco/annotations/panoptic_{train,val}2014.json from the annotations of COCO 2017."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from trace_d2.data.prepare.coco_2014 import SPLITS, prepare_coco_2014
from trace_d2.data.prepare.command import make_parser, run


def main(arguments: list[str] | None = None) -> int:
    """Write the splits; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: both")
    args = parser.parse_args(arguments)

    def write() -> Iterator[str]:
        for split in args.splits:
            count = prepare_coco_2014(args.root / "coco", split, not args.quiet)
            yield f"{count} images in panoptic_{split}2014.json"

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
