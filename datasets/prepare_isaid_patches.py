#!/usr/bin/env python3
"""Cut iSAID into patches, and write their instances as COCO.

Reads iSAID/{train,val}/images/, writes iSAID_patches/{train,val}/. The same command continues.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from trace_d2.data.prepare.command import add_workers, make_parser, run
from trace_d2.data.prepare.isaid import SPLITS, prepare_isaid


def main(arguments: list[str] | None = None) -> int:
    """Write the splits; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: both")
    add_workers(parser)
    args = parser.parse_args(arguments)

    def write() -> Iterator[str]:
        for split in args.splits:
            source, output = args.root / "iSAID" / split / "images", args.root / "iSAID_patches"
            counts = prepare_isaid(source, output / split, args.workers, not args.quiet)
            yield (
                f"{counts.images} images, {counts.patches} patches with {counts.instances} "
                f"instances in {output / split}"
            )

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
