#!/usr/bin/env python3
"""Join SA-1B's annotations, one file a photograph, to sa1b/annotations/sa1b_cls_agnostic.json."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from trace_d2.data.prepare.command import make_parser, run
from trace_d2.data.prepare.sa1b import prepare_sa1b


def main(arguments: list[str] | None = None) -> int:
    """Write the file; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    parser.add_argument("--limit", type=int, metavar="K", help="the first K photographs only")
    args = parser.parse_args(arguments)
    if args.limit is not None and args.limit < 1:
        parser.error("--limit is a count of 1 or more")

    def write() -> Iterator[str]:
        folder, output = args.root / "sa1b/images", "sa1b/annotations/sa1b_cls_agnostic.json"
        counts = prepare_sa1b(folder, args.root / output, args.limit, not args.quiet)
        yield f"{counts[0]} images with {counts[1]} instances in {args.root / output}"

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
