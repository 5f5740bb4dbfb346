#!/usr/bin/env python
"""Panoptic quality of a folder of labels against COCO panoptic truth.

    python tools/evaluate_panoptic.py --truth-json F --truth-dir D --predictions OUTPUT

OUTPUT holds panoptic.json and panoptic/*.png, as make_pseudo_panoptic.py writes them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trace_d2.evaluation import category_table, panoptic_quality, quality_table
from trace_d2.evaluation.arguments import add_scoring_options, missing_note
from trace_d2.evaluation.panoptic import AVERAGES
from trace_d2.io.atomic import write_json
from trace_d2.io.joining import MATCHES
from trace_d2.io.paths import check_output_file
from trace_d2.terminal import say

_MISSED = "segments as missed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status: 0 done, 2 bad input."""
    args = _parser().parse_args(arguments)
    try:
        labels = args.predictions / "panoptic.json"
        check_output_file(args.json, truth_json=args.truth_json, predictions=labels)
        quality = panoptic_quality(
            args.truth_json,
            args.truth_dir,
            labels,
            args.predictions / "panoptic",
            workers=args.workers,
            missing=args.missing,
            match=args.match,
            average=args.average,
            progress=sys.stderr.isatty(),
        )
        if args.json:
            write_json(args.json, quality.to_dict(), indent=1)
    except (ValueError, OSError) as error:
        say(f"evaluate_panoptic: {error}", error=True)
        return 2
    if args.per_category:
        say(f"{category_table(quality)}\n")
    say(quality_table(quality))
    note = ", the mean over those of each category" if args.average == "images" else ""
    note += missing_note(len(quality.missing), args.missing, _MISSED)
    say(f"\n{quality.images} images{note}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="PQ, SQ and RQ (in %) of panoptic labels, with the numbers of panopticapi."
    )
    parser.add_argument("--truth-json", type=Path, required=True, help="COCO panoptic JSON")
    parser.add_argument("--truth-dir", type=Path, required=True, help="folder of its PNGs")
    parser.add_argument(
        "--predictions",
        type=Path,
        required=True,
        help="folder that holds panoptic.json and panoptic/",
    )
    add_scoring_options(parser, "category", _MISSED)
    parser.add_argument(
        "--match",
        choices=MATCHES,
        default="auto",
        help="find the image of a prediction by its id, and by file name where the names of an id "
        "differ (auto), by id alone, or by file name alone",
    )
    parser.add_argument(
        "--average",
        choices=AVERAGES,
        default="data",
        help="PQ of a category: of the segments of all images together (data, the default), or the "
        "mean of its PQ in each image that has it, as is usual for nuclei",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
