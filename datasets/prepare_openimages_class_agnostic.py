#!/usr/bin/env python3
"""Write the boxes of OpenImages' validation images with the one class "object"."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from trace_d2.data.prepare.command import make_parser, run
from trace_d2.data.prepare.open_images import prepare_open_images


def main(arguments: list[str] | None = None) -> int:
    """Write the file; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    table = "default: openImages/annotations/validation-annotations-bbox.csv"
    parser.add_argument("--csv", type=Path, metavar="CSV", help=table)
    args = parser.parse_args(arguments)

    def write() -> Iterator[str]:
        folder = args.root / "openImages"
        table = args.csv or folder / "annotations/validation-annotations-bbox.csv"
        output = folder / "annotations/openimages_val_cls_agnostic.json"
        counts = prepare_open_images(table, folder / "validation", output, not args.quiet)
        yield f"{counts[0]} images with {counts[1]} boxes in {output}"

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
