"""Scores for people: text tables in per cent, and the precision-recall curve as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from trace_d2.io.atomic import atomic_file

from .edge_metrics import EdgeScores
from .instances import ClassAgnosticResult
from .panoptic import PanopticQuality
from .semantic import SemanticQuality

_COMPARED = ("AP", "AP50", "AR_100")


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
    rows = [[names[kind], *map(_percent, own.values())] for kind, own in result.scores.items()]
    return _table(rows, ["", *next(iter(result.scores.values()))])


def mask_comparison_table(results: Mapping[str, ClassAgnosticResult]) -> str:
    """AP^mk and AR_100 of the masks of several results, and how many they are, by name."""
    rows = []
    for name, one in results.items():
        scores = one.scores["segm"]
        rows.append([name, *(_percent(scores[key]) for key in _COMPARED), one.predictions])
    return _table(rows, ["", *_COMPARED, "masks"])


def edge_table(results: Mapping[str, EdgeScores]) -> str:
    """ODS, OIS, AP and clDice of several results, a row each, by name; thresholds beside them."""
    rows = []
    for name, one in results.items():
        f = [_percent(one.ods), f"{one.ods_threshold:.2f}", _percent(one.ois), _percent(one.ap)]
        cldice = [_percent(one.cldice), f"{one.cldice_threshold:.2f}", _percent(one.cldice_half)]
        rows.append([name, *f, *cldice])
    return _table(rows, ["", "ODS", "at", "OIS", "AP", "clDice", "at", "clDice at 0.5"])


def semantic_table(results: Mapping[str, SemanticQuality]) -> str:
    """mIoU, fwIoU, mACC and pACC of several results, a row each, by name."""
    rows = []
    for name, one in results.items():
        rows.append([name, *map(_percent, (one.miou, one.fwiou, one.macc, one.pacc))])
    return _table(rows, ["", "mIoU", "fwIoU", "mACC", "pACC"])


def semantic_class_table(quality: SemanticQuality) -> str:
    """IoU and accuracy of every class that occurs, and its pixels in the truth and predicted."""
    rows = []
    for category in quality.classes:
        own = quality.per_class[category.id]
        if own.truth + own.predicted:
            scores = map(_percent, (own.iou, own.accuracy))
            rows.append([category.name, *scores, own.truth, own.predicted])
    return _table(rows, ["category", "IoU", "ACC", "true pixels", "predicted"])


def _percent(score: float) -> str:
    return "-" if math.isnan(score) else f"{100 * score:.1f}"


def _table(rows: Sequence[Sequence[object]], headers: list[str]) -> str:
    # The numbers are text already: tabulate would otherwise drop their trailing zeros.
    aligned = ["left" if header in ("", "category") else "right" for header in headers]
    return tabulate(rows, headers, tablefmt="simple", colalign=aligned, disable_numparse=True)


def write_curve(path: str | Path, name: str, scores: EdgeScores) -> None:
    """Write precision over recall, the ODS as a dot, on lines of equal F: a PNG of 600 x 600."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(6, 6), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    axes.grid(color="0.9")
    for f in np.arange(1, 10) / 10:
        recall = np.linspace(f / (2 - f), 1, 60)
        axes.plot(recall, f * recall / (2 * recall - f), color="palegreen", linewidth=1)
    # Where nothing is predicted, there is no precision to draw.
    shown = scores.precision > 0
    label = f"{name}: ODS {_percent(scores.ods)}, AP {_percent(scores.ap)}"
    axes.plot(scores.recall[shown], scores.precision[shown], color="firebrick", label=label)
    dot = [
        np.interp(scores.ods_threshold, scores.thresholds, values)
        for values in (scores.recall, scores.precision)
    ]
    if dot[1] > 0:
        axes.plot(*dot, "o", color="firebrick", clip_on=False)
    axes.legend(loc="lower left")
    with atomic_file(path) as file:
        figure.savefig(file, format="png")
