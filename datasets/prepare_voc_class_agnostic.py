#!/usr/bin/env python3
"""Write the boxes of VOC 2007, Clipart1k, Watercolor2k and Comic2k with the one class "object"."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from trace_d2.data.prepare.command import make_parser, run
from trace_d2.data.prepare.voc_boxes import SETS, prepare_voc_boxes


def main(arguments: list[str] | None = None) -> int:
    """Write the files; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["voc"], help="default: voc")
    counted = "let objects marked as difficult count, rather than neither way, as by VOC's rule"
    parser.add_argument("--difficult", action="store_true", help=counted)
    args = parser.parse_args(arguments)

    def write() -> Iterator[str]:
        for name in args.sets:
            counts = prepare_voc_boxes(args.root / name, name, args.difficult, not args.quiet)
            yield f"{counts[0]} images with {counts[1]} boxes in {args.root / name}/annotations"

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
