#!/usr/bin/env python3
"""Write the boxes of KITTI, or the masks that KINS has of its images, with the one class "object".

Without options: kitti/training/label_2/*.txt, to kitti/annotations/trainval_cls_agnostic.json.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from trace_d2.data.prepare.command import make_parser, run
from trace_d2.data.prepare.kitti import SPLITS, prepare_kins, prepare_kitti


def main(arguments: list[str] | None = None) -> int:
    """Write the files; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    what = "masks of these images (default, without a value: train) instead of KITTI's boxes"
    parser.add_argument("--kins", nargs="*", choices=SPLITS, help=what)
    whole = "with --kins: objects with what others hide of them, rather than what is seen"
    parser.add_argument("--amodal", action="store_true", help=whole)
    args = parser.parse_args(arguments)
    if args.amodal and args.kins is None:
        parser.error("--amodal needs --kins")

    def write() -> Iterator[str]:
        kitti = args.root / "kitti"
        if args.kins is None:
            output = kitti / "annotations/trainval_cls_agnostic.json"
            images, boxes = prepare_kitti(kitti, output, not args.quiet)
            yield f"{images} images with {boxes} boxes in {output}"
            return
        for split in args.kins or ["train"]:
            name = f"kins_{split}{'_amodal' if args.amodal else ''}_cls_agnostic.json"
            output = kitti / "annotations" / name
            images, masks = prepare_kins(kitti, split, output, args.amodal, not args.quiet)
            yield f"{images} images with {masks} masks in {output}"

    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
