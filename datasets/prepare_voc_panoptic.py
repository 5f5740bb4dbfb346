#!/usr/bin/env python3
"""Write VOC 2012 (val) and VOC 2012 + SBD (train_aug) as COCO panoptic and class-agnostic files.

Reads VOC2012/ and sbd/, writes VOC2012/panoptic_train_aug/ and VOC2012/panoptic_val/.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from trace_d2.data.dataset_files import datasets_root
from trace_d2.data.prepare.voc import SPLITS, prepare_voc


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=datasets_root(), help="data sets (DETECTRON2_DATASETS)"
    )
    parser.add_argument("--sbd", type=Path, metavar="DIR", help="SBD, if not ROOT/sbd")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="what to write")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Write the splits; 0 on success, 2 if something is missing or damaged."""
    args = parse_arguments(arguments)
    voc, sbd = args.root / "VOC2012", args.sbd or args.root / "sbd"
    try:
        for split in args.splits:
            output = voc / f"panoptic_{split}"
            count = prepare_voc(voc, sbd, split, output, args.workers, not args.quiet)
            print(f"{count} images in {output}")
    except (ValueError, OSError) as error:
        print(f"prepare_voc_panoptic: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
