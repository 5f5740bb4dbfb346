#!/usr/bin/env python3
"""Discover masks in bare images: no labels, no classes, no other tool's masks.

    python tools/discover_masks.py --method edges --images DIR --output masks.json [KEY VALUE ...]
    python tools/discover_masks.py --merge masks.json

Methods: edges (nodes of the watershed hierarchy of instance edges, of any source), ncut (recursive
normalised cuts of a backbone's tokens), and the published maskcut, tokencut and promerge; the
keys of each are MODEL.TRACE.DISCOVERY.*. masks.json is COCO with scores: tools/refine_masks.py
refines it as it is. An image that has no mask is in it all the same. A job that was cut short, in
whatever way, continues when the same command runs again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trace_d2.jobs.arguments import add_edge_options, add_images_option, job_parser
from trace_d2.jobs.command_line import run_command
from trace_d2.masks.settings import METHODS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    from trace_d2.jobs.kinds.discovered_masks import DiscoveryJob  # once the arguments are right

    return run_command(DiscoveryJob, args)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    all_done = "every image is searched, with masks found or without"
    parser = job_parser(__doc__, all_done, "searched", "masks.json.work")
    parser.add_argument(
        "--method", choices=METHODS, help="default: MODEL.TRACE.DISCOVERY.METHOD of the config"
    )
    add_images_option(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="COCO JSON to write, or to continue; or s3://... or gs://...",
    )
    add_edge_options(parser, none=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
