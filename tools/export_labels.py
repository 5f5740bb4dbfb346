#!/usr/bin/env python3
"""Export labels and predictions: YOLO-seg, Cityscapes' instance PNGs, CVAT's XML.

    python tools/export_labels.py LABELS --format yolo|cityscapes|cvat --output DIR
    python tools/export_labels.py --merge OUTPUT

LABELS is a folder of make_pseudo_panoptic.py or predict.py, a COCO file of instances (refined
masks, predictions), or a COCO panoptic JSON with its PNGs in a folder of the same name. What the
format cannot hold is left out, counted and told. An export that was cut short, in whatever way,
continues when the same command runs again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trace_d2.complaints import Complaints
from trace_d2.jobs.arguments import check_command, job_parser
from trace_d2.jobs.command_line import exit_status, run_command
from trace_d2.jobs.job import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    args = build_parser().parse_args(argv)
    from trace_d2.jobs.kinds.exports import EXPORTS  # once the arguments are right

    if not (args.merge or args.status or args.format):
        return exit_status(lambda: _refuse(args))
    kinds = [EXPORTS[args.format]] if args.format else list(EXPORTS.values())
    if args.merge:
        kind_name = _kind_name(args.merge)
        kinds = [kind for kind in kinds if kind.layout.kind == kind_name] or kinds
    return run_command(kinds[0], args)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    all_done = "every image is exported, or skipped"
    parser = job_parser(__doc__, all_done, "exported", config=False)
    add = parser.add_argument
    add("labels", metavar="LABELS", nargs="?", help="what to export")
    add("--format", choices=("yolo", "cityscapes", "cvat"), help="what to export it to")
    add("--output", metavar="DIR", help="new folder, or one to continue")
    add(
        "--images",
        metavar="DIR",
        help="photographs, which are then looked at: labels are turned as people see them, and "
        "must be of their size",
    )
    placing = parser.add_mutually_exclusive_group()
    placing.add_argument(
        "--copy-images",
        action="store_true",
        help="copy the photographs, from --images or where the labels were made from",
    )
    placing.add_argument("--link-images", action="store_true", help="link to them instead")
    add(
        "--images-json",
        metavar="FILE",
        help="COCO file whose images and categories go with a bare list of results",
    )
    add(
        "--classes",
        metavar="NAME,NAME",
        help="these alone, in this order (default: all)",
    )
    add(
        "--stuff",
        choices=("keep", "drop"),
        help="export segments of stuff as well (default: drop for yolo, keep for the others)",
    )
    add(
        "--min-score",
        type=float,
        default=0.0,
        metavar="S",
        help="leave out shapes that score less (default 0)",
    )
    add(
        "--val-share",
        type=_share,
        default=0.1,
        metavar="F",
        help="yolo: share of the images to put into val.txt, evenly spread (default 0.1)",
    )
    return parser


def _refuse(args: argparse.Namespace) -> int:
    wrong = Complaints()
    check_command(wrong, args)
    wrong.say("--format missing; see --help")
    raise UsageError(str(wrong.joined()))


def _kind_name(output: str) -> str:
    """What kind of export ``output`` holds."""
    from trace_d2.jobs.layout import Layout
    from trace_d2.jobs.store import JobStore

    try:
        return str(JobStore(output, Layout("exported labels")).read_settings().get("kind"))
    except (ValueError, OSError):
        return ""  # which merging tells in its own words


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must lie in 0..1, below 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
