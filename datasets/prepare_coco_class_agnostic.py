#!/usr/bin/env python3
"""Write COCO val2017, COCO-20K, LVIS or any COCO instances file with the one class "object".

Without options: coco/annotations/instances_val2017.json. Files get the names CutLER gives them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from trace_d2.data.prepare.command import make_parser, run
from trace_d2.data.prepare.one_class import SEE, prepare_class_agnostic, prepare_lvis
from trace_d2.io.listing import read_names


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--coco20k", type=Path, metavar="LIST",
        help="COCO-20K: a text file of image names of train2014, one a line",
    )  # fmt: skip
    source.add_argument(
        "--lvis", type=Path, metavar="JSON", nargs="?", const=Path(),
        help="LVIS v1 val (coco/annotations/lvis_v1_val.json), or what prepare_cocofied_lvis.py "
        "made of it: with COCO's classes alone, as CutLER has it",
    )  # fmt: skip
    source.add_argument("--instances", type=Path, metavar="JSON", help="any; with --output")
    place = "with --instances: the file to write; else only if it is not to be in CutLER's place"
    parser.add_argument("--output", type=Path, metavar="JSON", help=place)
    where = "with --instances: write names of images as these lie below this folder"
    parser.add_argument("--images", type=Path, metavar="DIR", help=where)
    args = parser.parse_args(arguments)
    if args.instances and not args.output:
        parser.error("--instances needs --output")
    if args.images and not args.instances:
        parser.error("--images needs --instances")
    if args.lvis and args.output:
        parser.error("--lvis takes no --output: its classes tell which of two files it is")
    return args


def write(args: argparse.Namespace) -> Iterator[str]:
    """Write the file; gives a line about it."""
    folder, names = args.root / "coco/annotations", None
    if args.lvis:
        source = folder / "lvis_v1_val.json" if args.lvis == Path() else args.lvis
        output, images, instances = prepare_lvis(source, folder, not args.quiet)
        yield f"{images} images with {instances} instances in {output}"
        return
    source = args.instances.absolute() if args.instances else folder / "instances_val2017.json"
    target = "coco_cls_agnostic_instances_val2017.json"
    if args.coco20k:
        source, target = folder / "instances_train2014.json", "coco20k_trainval_gt.json"
        names = read_names(args.coco20k, SEE)
    output = args.output or folder / target
    images, instances = prepare_class_agnostic(
        source, output, names, not args.quiet, folder=args.images
    )
    yield f"{images} images with {instances} instances in {output}"


def main(arguments: list[str] | None = None) -> int:
    """Write the file; 0 on success, 2 if something is missing or damaged."""
    return run(__file__, write(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
