#!/usr/bin/env python3
"""Write semantic truth as maps of contiguous ids, as Detectron2 reads it.

README.md beside this script says what must lie where, and what is written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from trace_d2.data.prepare.command import add_workers, make_parser, run
from trace_d2.data.prepare.sem_seg import (
    MAP_SETS,
    SPLITS,
    prepare_context,
    prepare_instances,
    prepare_maps,
    prepare_voc_sem_seg,
    unannotated,
)
from trace_d2.io.listing import some


def main(arguments: list[str] | None = None) -> int:
    """Write the splits; 0 on success, 2 if something is missing or damaged."""
    parser = make_parser(__doc__)
    parser.add_argument("dataset", choices=tuple(SPLITS), help="which data set")
    parser.add_argument("--splits", nargs="+", help="train (voc: train_aug), val; default: both")
    parser.add_argument("--sbd", type=Path, metavar="DIR", help="voc: SBD, if not ROOT/sbd")
    parser.add_argument(
        "--json", type=Path, help="context: if not ROOT/VOC2010/trainval_merged.json"
    )
    parser.add_argument(
        "--from-instances",
        action="store_true",
        help="coco_object: paint instances_*2017.json instead of taking stuffthingmaps, which the "
        "field does",
    )
    add_workers(parser)
    args = parser.parse_args(arguments)
    splits = args.splits or SPLITS[args.dataset]
    unknown = [split for split in splits if split not in SPLITS[args.dataset]]
    if unknown:
        parser.error(f"--splits of {args.dataset} are {', '.join(SPLITS[args.dataset])}")
    how = args.workers, not args.quiet

    def write() -> Iterator[str]:
        if args.dataset == "context":
            counts = prepare_context(args.root, splits, args.json, *how)
            yield from (f"{count} images of {split}" for split, count in counts.items())
            return
        for split in splits:
            if args.dataset == "voc":
                names, folder = prepare_voc_sem_seg(args.root, split, args.sbd, *how)
            elif args.from_instances:
                names, folder = prepare_instances(args.root, split, *how)
            else:
                names, folder = prepare_maps(args.root, args.dataset, split, *how)
            yield f"{len(names)} maps in {folder}"
            if args.dataset not in MAP_SETS:
                continue
            if bare := unannotated(args.root, args.dataset, split, names):
                yield (
                    f"{len(bare)} more images of {split} have no map ({some(bare)}): are the "
                    "annotations unpacked whole?"
                )

    if args.from_instances and args.dataset != "coco_object":
        parser.error("--from-instances is for coco_object")
    return run(__file__, write())


if __name__ == "__main__":
    sys.exit(main())
