#!/usr/bin/env python3
"""Make pseudo edges of photographs, which the student is trained on.

    python tools/make_pseudo_edges.py --config-file configs/edges/trace_tiny_distill.yaml \\
        --images DIR --output DIR [KEY VALUE ...]
    python tools/make_pseudo_edges.py --merge OUTPUT

The teacher (emergence point and ABDiv) of the config's backbone looks at every image, whatever
MODEL.TRACE.EDGES.SOURCE is in FILE; as KEY VALUE, student is refused: that is predict_edges.py.
OUTPUT/pseudo_edges/<stem>.png holds 255 for edge, 0 for none and 128 for ignored;
OUTPUT/edges/<stem>.png holds edge strengths that other tools take as --edges. An image that has no
edges is recorded in OUTPUT/journal.jsonl, and the others go on. A job that was cut short, in
whatever way, continues when the same command runs again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trace_d2.jobs.command_line import run_command
from trace_d2.jobs.kinds.edges import PseudoEdgeJob, edge_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    parser = edge_parser(__doc__)
    args = parser.parse_intermixed_args(argv)
    return run_command(PseudoEdgeJob, args)


if __name__ == "__main__":
    sys.exit(main())
