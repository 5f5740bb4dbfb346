"""Panoptic quality and class-agnostic AP as text tables, in per cent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from .class_agnostic import METRICS, ClassAgnosticResult
from .panoptic_quality import GroupQuality, PanopticQuality


def quality_table(quality: PanopticQuality) -> str:
    """PQ, SQ and RQ of all categories, things and stuff; a dash where no category occurs."""
    groups = {"All": quality.all, "Things": quality.things, "Stuff": quality.stuff}
    rows = [
        [name, *(_percent(group, key) for key in ("pq", "sq", "rq")), group.n]
        for name, group in groups.items()
    ]
    return _table(rows, ["", "PQ", "SQ", "RQ", "categories"])


def category_table(quality: PanopticQuality) -> str:
    """PQ, SQ and RQ with TP, FP and FN of every category that occurs."""
    rows = []
    for category in quality.categories:
        own = quality.per_category[category.id]
        if own.tp + own.fp + own.fn:
            kind = "thing" if category.isthing else "stuff"
            scores = [f"{100 * score:.1f}" for score in (own.pq, own.sq, own.rq)]
            rows.append([category.name, kind, *scores, own.tp, own.fp, own.fn])
    return _table(rows, ["category", "", "PQ", "SQ", "RQ", "TP", "FP", "FN"])


def comparison_table(results: Mapping[str, PanopticQuality]) -> str:
    """PQ, SQ, RQ, PQ^th and PQ^st of several results, a row each, by name."""
    rows = [
        [
            name,
            *(_percent(quality.all, key) for key in ("pq", "sq", "rq")),
            _percent(quality.things, "pq"),
            _percent(quality.stuff, "pq"),
        ]
        for name, quality in results.items()
    ]
    return _table(rows, ["", "PQ", "SQ", "RQ", "PQ^th", "PQ^st"])


def class_agnostic_table(result: ClassAgnosticResult) -> str:
    """AP and AR, a row each for masks and boxes; a dash where the truth has no such object."""
    names = {"segm": "masks", "bbox": "boxes"}
    rows = []
    for kind, scores in result.scores.items():
        cells = [scores[metric] for metric in METRICS]
        rows.append(
            [names[kind], *("-" if math.isnan(cell) else f"{100 * cell:.1f}" for cell in cells)]
        )
    return _table(rows, ["", *METRICS])


def halves_table(
    rows: Mapping[str, Mapping[str, Sequence[float | None]]], floor: str, metrics: Sequence[str]
) -> str:
    """A Markdown table of scores over all images and over two halves: ``all (one / other)``.

    Args:
        rows: by name, then by metric: the three scores, 0..1; None where there is none.
        floor: the row that the others are held against. A score below its own is bold.
        metrics: columns, in this order.
    """
    body = []
    for name, scores in rows.items():
        cells = [_halves(scores.get(metric, ()), rows[floor].get(metric, ())) for metric in metrics]
        body.append([name, *cells])
    aligned = ["left"] + ["right"] * len(metrics)
    return tabulate(body, ["", *metrics], tablefmt="pipe", colalign=aligned, disable_numparse=True)


def below(score: float | None, floor: float | None) -> bool:
    """Whether a score is lower than that of the row it is held against, by more than rounding."""
    return score is not None and floor is not None and score < floor - 1e-9


def _halves(scores: Sequence[float | None], floors: Sequence[float | None]) -> str:
    texts = ["-" if score is None else f"{100 * score:.1f}" for score in scores]
    for rank, (score, floor) in enumerate(zip(scores, floors, strict=False)):
        if below(score, floor):
            texts[rank] = f"**{texts[rank]}**"
    return f"{texts[0]} ({' / '.join(texts[1:])})" if texts else ""


def _percent(group: GroupQuality, key: str) -> str:
    return f"{100 * getattr(group, key):.1f}" if group.n else "-"


def _table(rows: Sequence[Sequence[object]], headers: list[str]) -> str:
    # The numbers are text already: tabulate would otherwise drop their trailing zeros.
    aligned = ["left" if header in ("", "category") else "right" for header in headers]
    return tabulate(rows, headers, tablefmt="simple", colalign=aligned, disable_numparse=True)
