#!/usr/bin/env python3
"""Write coco/annotations/panoptic_{train,val}2014.json from the annotations of COCO 2017."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trace_d2.data.dataset_files import datasets_root
from trace_d2.data.prepare.coco_2014 import SPLITS, prepare_coco_2014


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=datasets_root(), help="data sets (DETECTRON2_DATASETS)"
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="what to write")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Write the splits; 0 on success, 2 if something is missing or damaged."""
    args = parse_arguments(arguments)
    try:
        for split in args.splits:
            count = prepare_coco_2014(args.root / "coco", split, not args.quiet)
            print(f"{count} images in panoptic_{split}2014.json")
    except (ValueError, OSError) as error:
        print(f"prepare_coco_2014_panoptic: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
