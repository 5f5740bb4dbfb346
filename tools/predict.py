#!/usr/bin/env python3
"""Predict photographs by a trained model: instances, panoptic segments, and a page to look at.

    python tools/predict.py --config-file OUTPUT_DIR/config.yaml \\
        --weights OUTPUT_DIR/model_final.pth --images DIR --output DIR [KEY VALUE ...]
    python tools/predict.py --merge OUTPUT

OUTPUT/predictions.json holds instances with scores (COCO, RLE), OUTPUT/panoptic.json and
OUTPUT/panoptic/ panoptic segments (COCO panoptic), whichever the model gives. It is any of
tools/train_net.py, or any Detectron2 model with masks; what its classes are stands in the config
and in the checkpoint. With MODEL.TRACE.POSTPROCESSOR.ENABLED True its masks are cut along instance
edges, and the page shows them before and after. An image that cannot be read is recorded in
OUTPUT/journal.jsonl, and the others go on. A job that was cut short, in whatever way, continues
when the same command runs again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trace_d2.jobs.arguments import add_output_folder, job_parser
from trace_d2.jobs.command_line import run_command

if TYPE_CHECKING:
    from trace_d2.jobs.kinds.predictions import PredictionJob

_WORKERS = 2  # they encode files, which takes far less time than predicting


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    from trace_d2.jobs.kinds.predictions import PredictionJob  # once the arguments are right

    return run_command(PredictionJob, args, _job)


def _job(args: argparse.Namespace) -> PredictionJob:
    """The job, checked; what can be known without PyTorch is said before it is imported."""
    from trace_d2.engine.predict_preflight import check_command

    check_command(args)
    from trace_d2.engine.predict_command import predict_job

    return predict_job(args)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = job_parser(__doc__, "every image is predicted", "predicted", workers=_WORKERS)
    parser.add_argument(
        "--weights", metavar="FILE", help="checkpoint of the model: a file, or an address"
    )
    parser.add_argument("--images", metavar="DIR", help="photographs; or s3://... or gs://...")
    add_output_folder(parser)
    parser.add_argument(
        "--score",
        type=float,
        default=0.5,
        metavar="S",
        help="least score of an instance, 0..1 (default: 0.5); 0 keeps all, as evaluation wants. "
        "Panoptic segments have thresholds of their own in the config",
    )
    parser.add_argument(
        "--categories",
        metavar="FILE",
        help="what the classes of the model are, in their order, where neither its config nor its "
        "checkpoint says so: JSON list of {id, name, isthing}, or voc, or coco",
    )
    parser.add_argument(
        "--images-json",
        metavar="FILE",
        help="COCO file whose images give the ids; images that it does not name are skipped. "
        "Without it stems are the ids if all are numbers, else the ranks in the sorted list",
    )
    parser.add_argument(
        "--project",
        action="append",
        default=[],
        dest="projects",
        metavar="MODULE",
        help="import a project that registers the model, and take over its config keys; may be "
        "repeated. Detectron2's own: detectron2.projects.point_rend and others",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
