#!/usr/bin/env python
"""Labels for the next round of self-training: confident predictions and earlier labels.

    python tools/make_self_training.py --labels round1.json --output round2.json \
        --predictions OUTPUT_DIR/inference/DATASET/coco_instances_results.json

The predictions are those of the trained detector on its own training images, as
``tools/train_net.py --eval-only`` writes them with DATASETS.TEST set to the training set, DATASET.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trace_d2.terminal import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the labels and print a summary; returns the exit status: 0 done, 2 bad input."""
    args = _parser().parse_args(arguments)
    from trace_d2.io.atomic import write_json  # --help loads nothing
    from trace_d2.io.paths import check_output
    from trace_d2.labels.self_training import merge_predictions

    try:
        check_output(args.output, labels=args.labels, predictions=args.predictions)
        content, summary = merge_predictions(
            args.labels, args.predictions, threshold=args.threshold, overlap=args.overlap
        )
        write_json(args.output, content)
    except (ValueError, OSError) as error:
        say(f"make_self_training: {error}", error=True)
        return 2
    say(f"{summary}\nwritten to {args.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Join confident predictions with the earlier labels that they do not cover."
    )
    add = parser.add_argument
    add("--predictions", type=Path, required=True, help="list of COCO results with scores")
    add("--labels", type=Path, required=True, help="earlier COCO instances JSON")
    add("--output", type=Path, required=True, help="COCO instances JSON to write")
    add("--threshold", type=float, default=0.7, help="least score of a prediction (default 0.7)")
    add(
        "--overlap",
        type=float,
        default=0.5,
        help="an earlier label of a higher mask IoU with a prediction goes (default 0.5)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
