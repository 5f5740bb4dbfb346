#!/usr/bin/env python3
"""Write VOC 2012 (val) and VOC 2012 + SBD (train_aug) as COCO panoptic and class-agnostic files.

Reads VOC2012/ and sbd/, writes VOC2012/panoptic_train_aug/ and VOC2012/panoptic_val/.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from trace_d2.data.prepare.command import add_workers, make_parser, run
from trace_d2.data.prepare.voc import SPLITS, prepare_voc


def main(arguments: list[str] | None = None) -> int:
    """Write the splits; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    parser.add_argument("--sbd", type=Path, metavar="DIR", help="SBD, if not ROOT/sbd")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: both")
    add_workers(parser)
    args = parser.parse_args(arguments)

    def write() -> Iterator[str]:
        voc, sbd = args.root / "VOC2012", args.sbd or args.root / "sbd"
        for split in args.splits:
            output = voc / f"panoptic_{split}"
            count = prepare_voc(voc, sbd, split, output, args.workers, not args.quiet)
            yield f"{count} images in {output}"

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
