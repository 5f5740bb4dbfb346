#!/usr/bin/env python3
"""Predict the edges of photographs: by the distilled student, or by what it is compared with.

    python tools/predict_edges.py --config-file configs/edges/trace_tiny.yaml \\
        [--weights DIR] --images DIR --output DIR [KEY VALUE ...]
    python tools/predict_edges.py --merge OUTPUT

The student takes one forward pass an image. MODEL.TRACE.EDGES.SOURCE hed, canny, sobel or gradient,
in FILE or as KEY VALUE, puts another detector in its place; the teacher, which configs of backbones
name, is tools/make_pseudo_edges.py.
OUTPUT/edges/<stem>.png holds edge strengths that other tools take as --edges. An image that cannot
be read is recorded in OUTPUT/journal.jsonl, and the others go on. A job that was cut short, in
whatever way, continues when the same command runs again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trace_d2.jobs.command_line import run_command
from trace_d2.jobs.kinds.edges import PredictedEdgeJob, edge_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    parser = edge_parser(__doc__)
    parser.add_argument(
        "--weights",
        metavar="DIR",
        help="folder of a student (student.json); short for MODEL.TRACE.STUDENT.WEIGHTS DIR",
    )
    args = parser.parse_intermixed_args(argv)
    return run_command(PredictedEdgeJob, args)


if __name__ == "__main__":
    sys.exit(main())
