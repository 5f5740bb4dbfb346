#!/usr/bin/env python3
"""Write TNBC's painted nuclei as COCO panoptic and COCO instances.

Reads TNBC_NucleiSegmentation/, writes tnbc/.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from trace_d2.data.prepare.command import add_workers, make_parser, run
from trace_d2.data.prepare.nuclei import prepare_tnbc


def main(arguments: list[str] | None = None) -> int:
    """Write the files; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    add_workers(parser)
    args = parser.parse_args(arguments)

    def write() -> Iterator[str]:
        source, output = args.root / "TNBC_NucleiSegmentation", args.root / "tnbc"
        counts = prepare_tnbc(source, output, args.workers, not args.quiet)
        yield f"{counts[0]} images with {counts[1]} nuclei in {output}"

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
