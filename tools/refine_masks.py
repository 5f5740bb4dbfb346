#!/usr/bin/env python3
"""Refine masks of training-free methods: cut them along instance edges, propagate and merge.

    python tools/refine_masks.py --config-file configs/edges/trace_tiny.yaml \\
        --images DIR --masks maskcut.json --output refined.json [KEY VALUE ...]
    python tools/refine_masks.py --merge refined.json

The masks are COCO JSON as MaskCut, ProMerge, TokenCut, UnSAM and CutLER write it. They are checked
before anything else; what cannot be used is counted here and listed in
refined.json.work/left_out.jsonl. The edges are found as MODEL.TRACE.EDGES.SOURCE says (by the
teacher, or by its student in one pass), read from --edges DIR, or left out by --no-edges, which
merges only. A job that was cut short, in whatever way, continues when the same command runs again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trace_d2.jobs.arguments import add_edge_options, add_images_option, add_sam_option, job_parser
from trace_d2.jobs.command_line import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    from trace_d2.jobs.kinds.refined_masks import RefineJob  # once the arguments are right

    return run_command(RefineJob, args)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    all_done = "every image is refined, or skipped: absent, or without a mask"
    parser = job_parser(__doc__, all_done, "refined", "refined.json.work")
    add_images_option(parser)
    parser.add_argument(
        "--masks",
        metavar="FILE",
        help="COCO JSON with RLE or polygons, or a bare list of results",
    )
    parser.add_argument(
        "--images-json",
        metavar="FILE",
        help="COCO file whose images go with a bare list of results. Without it the image ids are "
        "taken as file names",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="COCO JSON to write, or to continue; or s3://... or gs://...",
    )
    add_edge_options(parser)
    add_sam_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
