#!/usr/bin/env python3
"""Write COCO val2017, COCO-20K, LVIS or any COCO instances file with the one class "object".

Without options: coco/annotations/instances_val2017.json. Files get the names CutLER gives them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trace_d2.data.dataset_files import datasets_root
from trace_d2.data.prepare.class_agnostic import prepare_class_agnostic, read_file_names

_ANNOTATIONS = "coco/annotations"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=datasets_root(), help="data sets (DETECTRON2_DATASETS)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--coco20k", type=Path, metavar="LIST",
        help="COCO-20K: a text file of image names of train2014, one a line",
    )  # fmt: skip
    source.add_argument(
        "--lvis", type=Path, metavar="JSON",
        help="LVIS v1 val; CutLER's has COCO's classes only (prepare_cocofied_lvis.py)",
    )  # fmt: skip
    source.add_argument("--instances", type=Path, metavar="JSON", help="any; with --output")
    parser.add_argument("--output", type=Path, metavar="JSON", help="if not CutLER's place")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    if args.instances and not args.output:
        parser.error("--instances needs --output")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Write the file; 0 on success, 2 if something is missing or damaged."""
    args = parse_arguments(arguments)
    annotations, names = args.root / _ANNOTATIONS, None
    try:
        if args.coco20k:
            source, target = "instances_train2014.json", "coco20k_trainval_gt.json"
            names = read_file_names(args.coco20k)
        elif args.lvis:
            source, target = args.lvis.absolute(), "lvis1.0_cocofied_val_cls_agnostic.json"
        elif args.instances:
            source, target = args.instances.absolute(), args.output
        else:
            source = "instances_val2017.json"
            target = "coco_cls_agnostic_instances_val2017.json"
        output = args.output or annotations / target
        images, instances = prepare_class_agnostic(
            annotations / source, output, names, not args.quiet
        )
    except (ValueError, OSError) as error:
        print(f"prepare_coco_class_agnostic: {error}", file=sys.stderr)
        return 2
    print(f"{images} images with {instances} instances in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
