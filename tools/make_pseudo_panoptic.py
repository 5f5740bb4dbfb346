#!/usr/bin/env python3
"""Make pseudo panoptic labels from photographs, semantic masks and instance edges.

    python tools/make_pseudo_panoptic.py --config-file configs/edges/trace_tiny.yaml \\
        --images DIR --semantic DIR --categories FILE --output DIR [KEY VALUE ...]
    python tools/make_pseudo_panoptic.py --merge OUTPUT

The edges are found as MODEL.TRACE.EDGES.SOURCE says (by the teacher, or by its student in one
pass), read from --edges DIR, or left out by --no-edges.
An image that cannot be labelled is recorded in OUTPUT/journal.jsonl, and the others go on. A job
that was cut short, in whatever way, continues when the same command runs again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trace_d2.io.categories import BUILTIN_CATEGORIES
from trace_d2.jobs.arguments import (
    add_edge_options,
    add_images_option,
    add_output_folder,
    add_sam_option,
    job_parser,
)
from trace_d2.jobs.command_line import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    from trace_d2.jobs.kinds.panoptic_labels import LabelJob  # once the arguments are right

    return run_command(LabelJob, args)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    all_done = "every image is labelled, or skipped for want of a semantic mask"
    parser = job_parser(__doc__, all_done, "labelled")
    add_images_option(parser)
    parser.add_argument(
        "--semantic",
        metavar="DIR",
        help="<stem>.png, 8 bit, palette or grey: pixel = category id, 255 = unknown; or RGB in "
        "the colours of the categories; in the same sub-folders as the images",
    )
    parser.add_argument(
        "--categories",
        metavar="FILE",
        help="text with a name a line ([ID] NAME [R,G,B] [thing|stuff]; ids count from 0), or JSON "
        f"list of {{id, name, isthing}}, or a built-in name: {', '.join(BUILTIN_CATEGORIES)}",
    )
    add_output_folder(parser)
    parser.add_argument(
        "--images-json",
        metavar="FILE",
        help="COCO file whose images give the ids; images that it does not name are skipped. "
        "Without it names are the ids if all are numbers, else the ranks in the sorted list",
    )
    add_edge_options(parser)
    add_sam_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
