#!/usr/bin/env python
"""Mean IoU of semantic maps against those of a benchmark, or against any others.

    python tools/evaluate_semantic.py --truth VOC2012/SegmentationClass --rule voc21 \\
        --list VOC2012/ImageSets/Segmentation/val.txt --predictions DIR --categories voc

Predictions are PNGs named after the images, pixel = id of a category, 255 = unknown; or .npy or
.npz of scores, a map a category; or the output folder of refine_semantic.py. A rule says which
values of the truth are which class, and which are left out; without one the truth is written as the
predictions are. Classes are found by name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trace_d2.complaints import Complaints
from trace_d2.evaluation import (
    SemanticQuality,
    semantic_class_table,
    semantic_quality,
    semantic_table,
)
from trace_d2.evaluation.arguments import add_scoring_options, missing_note
from trace_d2.evaluation.semantic_files import check_folder
from trace_d2.io.atomic import write_json
from trace_d2.io.categories import BUILTIN_CATEGORIES, Category, load_categories
from trace_d2.io.listing import read_names, some
from trace_d2.io.paths import check_output_file
from trace_d2.io.semantic_rules import RULES, SemanticRule, load_rule
from trace_d2.terminal import say

_MISSED = "pixels as wrong"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status: 0 done, 2 bad input."""
    args = _parser().parse_args(arguments)
    try:
        rule = load_rule(args.rule) if args.rule else None
        categories, stems = _given(args, rule)
        quality = semantic_quality(
            args.truth,
            args.predictions,
            categories,
            rule,
            origin=args.categories,
            stems=stems,
            workers=args.workers,
            missing=args.missing,
            threshold=args.background_threshold,
            progress=sys.stderr.isatty(),
        )
        if args.json:
            write_json(args.json, {"rule": args.rule, **quality.to_dict()}, indent=1)
    except (ValueError, OSError) as error:
        say(f"evaluate_semantic: {error}", error=True)
        return 2
    if args.per_category:
        say(f"{semantic_class_table(quality)}\n")
    say(semantic_table({args.rule or "": quality}))
    note = missing_note(len(quality.missing), args.missing, _MISSED)
    say(f"\n{quality.images} images{note}")
    for remark in _remarks(rule, categories, quality):
        say(remark)
    return 0


def _given(
    args: argparse.Namespace, rule: SemanticRule | None
) -> tuple[tuple[Category, ...], list[str] | None]:
    """The categories and the names of ``--list``, once nothing is wrong with the command line."""
    wrong = Complaints()
    wrong.of(check_output_file, args.json, categories=args.categories, list=args.list)
    for option in ("truth", "predictions"):
        wrong.of(check_folder, getattr(args, option), option)
    categories = wrong.of(load_categories, args.categories)
    if rule and categories:
        wrong.of(rule.ranks, categories, args.categories)
        wrong.of(rule.check_threshold, args.background_threshold, categories)
    stems = wrong.of(read_names, args.list, "correct --list") if args.list else None
    wrong.end()
    return categories, stems


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", type=Path, required=True, help="folder of the true maps")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of predicted maps")
    parser.add_argument(
        "--categories",
        required=True,
        metavar="NAME|FILE",
        help="what ids of the predictions stand for: a text with a name a line, a JSON list of "
        f"{{id, name, isthing}}, or one of {', '.join(BUILTIN_CATEGORIES)}",
    )
    parser.add_argument("--rule", choices=RULES, help="how the truth of a benchmark is read")
    parser.add_argument("--list", type=Path, help="text of the images that count, a name a line")
    parser.add_argument(
        "--background-threshold",
        type=float,
        metavar="T",
        help="of scores whose categories lack the background of the rule: it is where none reaches "
        "T (default: that of the rule)",
    )
    add_scoring_options(parser, "class", _MISSED)
    return parser


def _remarks(
    rule: SemanticRule | None, categories: Sequence[Category], quality: SemanticQuality
) -> list[str]:
    """What predictions hold that is no class of the rule, or that is one without saying so."""
    if rule is None:
        return []
    remarks = []
    if rule.leaves_background_over(categories):
        remarks.append(
            "the categories have no background: that is 255 in predictions, and where no score "
            "reaches the threshold"
        )
        remarks += _extreme(rule, quality)
    beyond = rule.beyond(categories)
    if beyond:
        remarks.append(f"predicted as no class of {rule.name}, so wrong: {some(beyond)}")
    return remarks


def _extreme(rule: SemanticRule, quality: SemanticQuality) -> list[str]:
    """What to say where the background is nowhere, or everywhere."""
    assert rule.background is not None
    predicted = quality.per_class[rule.background.id].predicted
    counted = sum(own.truth for own in quality.per_class.values())
    if 0 < predicted < counted:
        return []
    return [
        f"note: {'100' if predicted else '0'} % of the pixels are predicted as background: of "
        "scores, --background-threshold must be in their unit and range"
    ]


if __name__ == "__main__":
    sys.exit(main())
