#!/usr/bin/env python3
"""Write the boxes of Objects365 v2 val, or of some of its patches, with the one class "object".

Names of images are written as these lie below objects365/val, in patchN/ or not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from trace_d2.data.prepare.command import make_parser, run
from trace_d2.data.prepare.objects365 import parse_patches, prepare_objects365


def main(arguments: list[str] | None = None) -> int:
    """Write the file; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    source = "default: objects365/annotations/zhiyuan_objv2_val.json"
    parser.add_argument("--json", type=Path, metavar="JSON", help=source)
    some = "images of these patches alone, as 16-40, to objects365_16-40.json"
    parser.add_argument("--patches", metavar="A-B", help=some)
    args = parser.parse_args(arguments)

    def write() -> Iterator[str]:
        folder = args.root / "objects365/annotations"
        patches = parse_patches(args.patches) if args.patches else None
        name = f"objects365_{args.patches}" if args.patches else "zhiyuan_objv2_val_cls_agnostic"
        output = folder / f"{name}.json"
        source = args.json or folder / "zhiyuan_objv2_val.json"
        images = args.root / "objects365/val"
        counts = prepare_objects365(source, images, output, patches, not args.quiet)
        yield f"{counts[0]} images with {counts[1]} boxes in {output}"

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
