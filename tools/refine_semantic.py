#!/usr/bin/env python3
"""Sharpen class maps of any open-vocabulary or semantic model along instance edges.

    python tools/refine_semantic.py --config-file configs/edges/trace_tiny.yaml \\
        --images DIR --semantic DIR --categories FILE --output DIR [KEY VALUE ...]
    python tools/refine_semantic.py --merge OUTPUT

OUTPUT/semantic/<stem>.png are the maps, as they were but for what edges say. The edges are found as
MODEL.TRACE.EDGES.SOURCE says (by the teacher, or by its student in one pass), read from --edges
DIR, or left out by --no-edges, which moves nothing: scores become the map of their greatest.
An image that cannot be refined is recorded in OUTPUT/journal.jsonl, and the others go on. A job
that was cut short, in whatever way, continues when the same command runs again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trace_d2.jobs.arguments import (
    add_edge_options,
    add_images_option,
    add_output_folder,
    job_parser,
)
from trace_d2.jobs.command_line import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    from trace_d2.jobs.kinds.refined_semantic import SemanticJob  # once the arguments are right

    return run_command(SemanticJob, args)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    all_done = "every image is refined, or skipped for want of a class map"
    parser = job_parser(__doc__, all_done, "refined")
    add_images_option(parser)
    parser.add_argument(
        "--semantic",
        metavar="DIR",
        help="<stem>.png, as of make_pseudo_panoptic.py: pixel = category id, 255 = unknown; or "
        "<stem>.npy or .npz, floating (C, H, W) of any resolution: a score for each category, in "
        "their order",
    )
    parser.add_argument(
        "--categories",
        metavar="FILE",
        help="text with a name a line, or JSON list of {id, name, isthing}, or a built-in name: "
        "voc, coco-panoptic",
    )
    add_output_folder(parser)
    add_edge_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
