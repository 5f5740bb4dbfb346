#!/usr/bin/env python3
"""Predict the edges of photographs by the distilled student: one forward pass an image.

    python tools/predict_edges.py --config-file configs/edges/trace_tiny.yaml \\
        [--weights DIR] --images DIR --output DIR [KEY VALUE ...]
    python tools/predict_edges.py --merge OUTPUT

OUTPUT/edges/<stem>.png holds edge strengths that other tools take as --edges. An image that cannot
be read is recorded in OUTPUT/journal.jsonl, and the others go on. A job that was cut short, in
whatever way, continues when the same command runs again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trace_d2.jobs.command_line import exit_status
from trace_d2.jobs.kinds.edge_command import detect, edge_parser, merge
from trace_d2.jobs.kinds.edge_store import EdgeStore


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    parser = edge_parser(__doc__)
    parser.add_argument(
        "--weights",
        metavar="DIR",
        help="folder of a student (student.json); short for MODEL.TRACE.STUDENT.WEIGHTS DIR",
    )
    args = parser.parse_intermixed_args(argv)
    if args.merge:
        return exit_status(lambda: merge(args.merge, EdgeStore))
    opts = ["MODEL.TRACE.EDGES.SOURCE", "student"]
    if args.weights:
        opts += ["MODEL.TRACE.STUDENT.WEIGHTS", args.weights]
    return exit_status(lambda: detect(args, opts))


if __name__ == "__main__":
    sys.exit(main())
