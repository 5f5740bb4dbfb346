"""Scores for people: text tables in per cent, and the precision-recall curve as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import cv2
import numpy as np
from tabulate import tabulate

from .edge_metrics import EdgeScores
from .instances import METRICS, ClassAgnosticResult
from .panoptic import PanopticQuality

_SIDE, _MARGIN = 480, 60  # of the plot and around it, in pixels
_INK, _GRID, _ISO = (40, 40, 40), (225, 225, 225), (170, 205, 170)  # RGB
_COLORS = ((200, 40, 40), (40, 80, 200), (30, 140, 60), (160, 60, 170), (220, 130, 20))
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def quality_table(quality: PanopticQuality) -> str:
    """PQ, SQ and RQ of all categories, things and stuff; a dash where no category occurs."""
    groups = {"All": quality.all, "Things": quality.things, "Stuff": quality.stuff}
    rows = [
        [name, *map(_percent, (group.pq, group.sq, group.rq)), group.n]
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
            scores = map(_percent, (own.pq, own.sq, own.rq))
            rows.append([category.name, kind, *scores, own.tp, own.fp, own.fn])
    return _table(rows, ["category", "", "PQ", "SQ", "RQ", "TP", "FP", "FN"])


def comparison_table(results: Mapping[str, PanopticQuality]) -> str:
    """PQ, SQ, RQ, PQ^th and PQ^st of several results, a row each, by name."""
    rows = []
    for name, one in results.items():
        scores = (one.all.pq, one.all.sq, one.all.rq, one.things.pq, one.stuff.pq)
        rows.append([name, *map(_percent, scores)])
    return _table(rows, ["", "PQ", "SQ", "RQ", "PQ^th", "PQ^st"])


def class_agnostic_table(result: ClassAgnosticResult) -> str:
    """AP and AR, a row each for masks and boxes; a dash where the truth has no such object."""
    names = {"segm": "masks", "bbox": "boxes"}
    rows = [
        [names[kind], *(_percent(scores[metric]) for metric in METRICS)]
        for kind, scores in result.scores.items()
    ]
    return _table(rows, ["", *METRICS])


def edge_table(results: Mapping[str, EdgeScores]) -> str:
    """ODS, OIS, AP and clDice of several results, a row each, by name; thresholds beside them."""
    headers = ["", "ODS", "at", "OIS", "AP", "clDice", "at", "clDice at 0.5"]
    rows = [
        [
            name,
            _percent(scores.ods),
            f"{scores.ods_threshold:.2f}",
            _percent(scores.ois),
            _percent(scores.ap),
            _percent(scores.cldice),
            f"{scores.cldice_threshold:.2f}",
            _percent(scores.cldice_half),
        ]
        for name, scores in results.items()
    ]
    return _table(rows, headers)


def _percent(score: float) -> str:
    return "-" if math.isnan(score) else f"{100 * score:.1f}"


def _table(rows: Sequence[Sequence[object]], headers: list[str]) -> str:
    # The numbers are text already: tabulate would otherwise drop their trailing zeros.
    aligned = ["left" if header in ("", "category") else "right" for header in headers]
    return tabulate(rows, headers, tablefmt="simple", colalign=aligned, disable_numparse=True)


def curve_picture(results: Mapping[str, EdgeScores]) -> np.ndarray:
    """Precision over recall of several results, their ODS as dots, on lines of equal F.

    Returns:
        (600, 600, 3) uint8, RGB.
    """
    side = _SIDE + 2 * _MARGIN
    picture = np.full((side, side, 3), 255, np.uint8)
    _draw_axes(picture)
    for rank, (name, scores) in enumerate(results.items()):
        color = _COLORS[rank % len(_COLORS)]
        # Where nothing is predicted, there is no precision to draw.
        shown = scores.precision > 0
        curve = np.stack((scores.recall, scores.precision), axis=1)[shown]
        points = [_place(*point) for point in curve.tolist()]
        for start, end in pairwise(points):
            cv2.line(picture, start, end, color, 2, cv2.LINE_AA)
        best = int(np.flatnonzero(scores.thresholds == scores.ods_threshold)[0])
        if shown[best]:
            dot = _place(scores.recall[best], scores.precision[best])
            cv2.circle(picture, dot, 5, color, -1, cv2.LINE_AA)
        legend = (_MARGIN + 8, side - _MARGIN - 10 - 20 * (len(results) - 1 - rank))
        text = f"{name}: ODS {_percent(scores.ods)}, AP {_percent(scores.ap)}"
        cv2.putText(picture, text, legend, _FONT, 0.45, color, 1, cv2.LINE_AA)
    return picture


def _draw_axes(picture: np.ndarray) -> None:
    for tick in np.linspace(0, 1, 6):
        for start, end in (((tick, 0), (tick, 1)), ((0, tick), (1, tick))):
            cv2.line(picture, _place(*start), _place(*end), _GRID, 1)
        x, y = _place(tick, 0)
        cv2.putText(picture, f"{tick:.1f}", (x - 12, y + 20), _FONT, 0.4, _INK, 1, cv2.LINE_AA)
        x, y = _place(0, tick)
        cv2.putText(picture, f"{tick:.1f}", (x - 32, y + 4), _FONT, 0.4, _INK, 1, cv2.LINE_AA)
    for f in np.arange(1, 10) / 10:
        recall = np.linspace(f / (2 - f), 1, 60)
        line = [_place(r, f * r / (2 * r - f)) for r in recall]
        for start, end in pairwise(line):
            cv2.line(picture, start, end, _ISO, 1, cv2.LINE_AA)
    cv2.rectangle(picture, _place(0, 0), _place(1, 1), _INK, 1)
    side = picture.shape[0]
    at = (side // 2 - 24, side - 14)
    cv2.putText(picture, "recall", at, _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    cv2.putText(picture, "precision", (12, _MARGIN - 16), _FONT, 0.5, _INK, 1, cv2.LINE_AA)


def _place(recall: float, precision: float) -> tuple[int, int]:
    """(x, y) of a point of the curve."""
    return round(_MARGIN + recall * _SIDE), round(_MARGIN + (1 - precision) * _SIDE)
