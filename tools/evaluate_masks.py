#!/usr/bin/env python
"""Class-agnostic AP and AR of instance masks and boxes against COCO truth.

    python tools/evaluate_masks.py --truth instances.json --predictions masks.json

The predictions are a list of results, as Detectron2's coco_instances_results.json, or a COCO
dictionary without scores, as training-free methods write it. Where the truth has boxes alone
(KITTI, Objects365, OpenImages, VOC 2007), boxes alone are scored, and that is said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trace_d2.evaluation import class_agnostic_ap, class_agnostic_table
from trace_d2.evaluation.instances import DETECTIONS, IOU_TYPES, ClassAgnosticResult
from trace_d2.io.atomic import write_json
from trace_d2.io.joining import MATCHES
from trace_d2.io.paths import check_output_file
from trace_d2.terminal import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status: 0 done, 2 bad input."""
    args = _parser().parse_args(arguments)
    try:
        check_output_file(args.output, truth=args.truth, predictions=args.predictions)
        result = class_agnostic_ap(
            args.truth,
            args.predictions,
            args.iou,
            ignore_unknown=args.ignore_unknown,
            match=args.match,
            max_detections=args.max_detections,
        )
        if args.output:
            write_json(args.output, result.to_dict(), indent=1)
    except (ValueError, OSError) as error:
        say(f"evaluate_masks: {error}", error=True)
        return 2
    say(class_agnostic_table(result))
    say(f"\n{_counts(result)}")
    for remark in result.remarks:
        say(f"note: {remark}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Class-agnostic AP and AR (in %) of masks and boxes: COCO's, with all "
        "categories of the truth as one."
    )
    add = parser.add_argument
    add("--truth", type=Path, required=True, help="COCO instances JSON")
    add("--predictions", type=Path, required=True, help="list of results, or COCO JSON")
    add("--output", type=Path, help="write the numbers (0..1) to this JSON file")
    what = "masks, boxes or both (default: what the truth has)"
    add("--iou", nargs="+", choices=IOU_TYPES, help=what)
    most = f"predictions of an image that count, the best first (default: {DETECTIONS}; LVIS: 300)"
    add("--max-detections", type=int, metavar="K", default=DETECTIONS, help=most)
    add(
        "--ignore-unknown",
        action="store_true",
        help="leave out predictions of images that the truth lacks, instead of refusing them",
    )
    add(
        "--match",
        choices=MATCHES,
        default="auto",
        help="find the image of a prediction by its id (auto: by file name where the names of one "
        "id disagree) or by file name",
    )
    return parser


def _counts(result: ClassAgnosticResult) -> str:
    text = (
        f"{result.images} images, {result.instances} true instances, "
        f"{result.predictions} predictions"
    )
    if result.missing:
        text += f"; {len(result.missing)} images without prediction, all their instances missed"
    if result.ignored:
        text += f"; {result.ignored} predictions of other images left out"
    return text


if __name__ == "__main__":
    sys.exit(main())
