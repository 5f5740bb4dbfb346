"""Mean IoU of semantic maps, with the numbers of Detectron2's ``SemSegEvaluator`` and of mmseg.

All pixels of a data set are counted together, by true and by predicted class; pixels that the truth
leaves out count nowhere. With t true and p predicted pixels of a class, b of them both: IoU is
b / (t + p - b), accuracy b / t. A class that is only predicted has IoU 0; one in neither has none,
and no mean takes it in. A pixel of a known class that is predicted as none is a miss, as in mmseg:
to leave pixels out gains nothing. (Detectron2's models never do that.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np

from trace_d2.complaints import Complaints
from trace_d2.io.categories import Category
from trace_d2.io.images import UnknownClassError, read_class_mask, read_semantic
from trace_d2.io.score_stacks import SCORE_SUFFIXES, is_of_aspect, read_scores
from trace_d2.io.semantic_rules import NO_CLASS, STRANGE, SemanticRule, plain_rule
from trace_d2.parallel import ordered_map

from .panoptic import MISSING_POLICIES
from .semantic_files import check_missing, check_scored, listed, predictions, truth_files

_IMAGES_A_WORKER = 100  # see ``panoptic``
_MOST = 2**24  # pixels that a histogram in float32 counts exactly
_SHOWN = 5  # complaints of one folder

Pair: TypeAlias = tuple[Path, Path | None]
"""The truth of an image, and its prediction if it has one."""

Cells: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows and columns of some cells of a confusion matrix, and the pixels of each."""


@dataclass(frozen=True)
class ClassQuality:
    """One class.

    Attributes:
        iou: 0..1; NaN where the class is neither in the truth nor predicted.
        accuracy: 0..1; NaN where it is not in the truth.
        truth, predicted, both: pixels that have it in the truth (of those that count), in the
            prediction, and in both.
    """

    iou: float
    accuracy: float
    truth: int
    predicted: int
    both: int


@dataclass(frozen=True)
class SemanticQuality:
    """The result over a data set; means are in 0..1, and NaN where they are over nothing.

    Attributes:
        miou, macc: means of IoU and of accuracy over classes.
        fwiou: IoU, classes weighted by their true pixels.
        pacc: share of pixels that are right.
        per_class: by the id of the class.
        classes: in their order.
        images: how many went in.
        missing: stems of the truth that had no prediction.
    """

    miou: float
    fwiou: float
    macc: float
    pacc: float
    per_class: dict[int, ClassQuality]
    classes: tuple[Category, ...]
    images: int
    missing: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: Detectron2's names of the means, counts besides; None for NaN."""
        means = {"mIoU": self.miou, "fwIoU": self.fwiou, "mACC": self.macc, "pACC": self.pacc}
        return {
            **_without_nan(means),
            "per_class": {
                str(own.id): {"name": own.name, **_without_nan(vars(self.per_class[own.id]))}
                for own in self.classes
            },
            "images": self.images,
            "missing": list(self.missing),
        }


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of one image by true class (rows) and predicted class (columns).

    Args:
        truth, prediction: (H, W) integers: ranks of classes, and ``NO_CLASS`` (-1) where a pixel
            of the truth is left out, or one of the prediction has no class.
        classes: how many there are, C.

    Returns:
        (C, C + 1) int64; the last column is for no class.

    Raises:
        ValueError: sizes differ, or a rank is none of ``classes``.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"maps of different sizes: {truth.shape} and {prediction.shape}")
    for ranks in (truth, prediction):
        if ranks.size and not NO_CLASS <= ranks.min() <= ranks.max() < classes:
            raise ValueError(
                f"classes are ranks of 0..{classes - 1} or {NO_CLASS}, not {ranks.min()} to "
                f"{ranks.max()}"
            )
    counted = truth != NO_CLASS
    rows, columns = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    cells = rows * (classes + 1) + np.where(columns == NO_CLASS, classes, columns)
    return np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def summarize(
    confusion: np.ndarray,
    classes: Sequence[Category],
    images: int,
    missing: Iterable[str] = (),
) -> SemanticQuality:
    """Qualities from ``confusion_matrix`` (C, C + 1), added over ``images`` images."""
    both = confusion.diagonal().astype(np.float64)
    truth, predicted = confusion.sum(1), confusion[:, :-1].sum(0)
    iou = _shares(both, truth + predicted - both)
    accuracy = _shares(both, truth)
    total = truth.sum()
    return SemanticQuality(
        miou=_mean(iou),
        fwiou=float(np.nansum(iou * truth) / total) if total else math.nan,
        macc=_mean(accuracy),
        pacc=float(both.sum() / total) if total else math.nan,
        per_class={
            own.id: ClassQuality(
                float(iou[k]), float(accuracy[k]), int(truth[k]), int(predicted[k]), int(both[k])
            )
            for k, own in enumerate(classes)
        },
        classes=tuple(classes),
        images=images,
        missing=tuple(missing),
    )


def semantic_quality(
    truth_dir: str | Path,
    predicted_dir: str | Path,
    categories: Sequence[Category],
    rule: SemanticRule | None = None,
    *,
    origin: str = "categories",
    stems: Collection[str] | None = None,
    workers: int = 1,
    missing: str = "error",
    threshold: float | None = None,
    progress: bool = False,
) -> SemanticQuality:
    """Score maps of classes, 8-bit ``<stem>.png`` in sub-folders or not.

    Args:
        truth_dir: folder of the truth, written as the rule says.
        predicted_dir: folder of the predictions, pixel = id of a category, 255 = unknown; or of
            stacks of scores (``io.score_stacks``), a map a category; or the output folder of
            ``tools/refine_semantic.py``. Those that the truth lacks are not looked at.
        categories, origin: what the predictions may hold, and where that is from, for messages.
        rule: None: the truth is written as the predictions are, 255 is left out.
        stems: names of images that count, as lists of splits give them; None: all of the truth.
        workers: processes at most, see ``ordered_map``; less than 200 images run in this one.
        missing: what an image without prediction means, one of ``MISSING_POLICIES``; ``"miss"``:
            no class at any pixel.
        threshold: of scores, see ``SemanticRule.classes_of_scores``.
        progress: show a progress bar.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: files are missing or wrong; the message
            names some of them.
    """
    if missing not in MISSING_POLICIES:
        raise ValueError(f"missing={missing!r}; choose one of {', '.join(MISSING_POLICIES)}")
    rule = rule or plain_rule(categories)
    rule.check_threshold(threshold, categories)
    predicted_ranks = rule.ranks(categories, origin)
    way, truth = truth_files(truth_dir, rule, whole=stems is None)
    if stems is not None:
        truth = listed(truth, stems, rule, truth_dir)
    found = predictions(predicted_dir, truth, way, rule)
    check_scored(found.values(), threshold)
    absent = [stem for stem in truth if stem not in found]
    check_missing(absent, len(truth), missing, str(predicted_dir))
    pairs = [
        (path, found.get(stem))
        for stem, path in truth.items()
        if missing != "skip" or stem in found
    ]
    read = partial(_read_prediction, rule, categories, origin, threshold)
    count = partial(_count_pair, read, way.ranks(), predicted_ranks, origin, rule.name)
    confusion = _added(count, pairs, len(rule.classes), workers, progress)
    if not confusion.any():
        raise ValueError(
            f"{truth_dir}: all pixels of {len(pairs)} maps are left out, so there is nothing to "
            "score: correct --truth or --rule"
        )
    return summarize(confusion, rule.classes, len(pairs), absent)


def _added(
    count: Callable[[Pair], Cells | str],
    pairs: Sequence[Pair],
    classes: int,
    workers: int,
    progress: bool,
) -> np.ndarray:
    """The confusion matrix (C, C + 1) int64 of all ``pairs``; raises what is wrong with some."""
    confusion = np.zeros((classes, classes + 1), np.int64)
    wrong = Complaints()
    for result in ordered_map(
        count, pairs, workers, items_a_worker=_IMAGES_A_WORKER, progress=progress
    ):
        if isinstance(result, str):
            wrong.say(result)
            if len(wrong.lines) == _SHOWN:
                break
        else:
            rows, columns, pixels = result
            np.add.at(confusion, (rows, columns), pixels)
    wrong.end()
    return confusion


def _read_prediction(
    rule: SemanticRule,
    categories: Sequence[Category],
    origin: str,
    threshold: float | None,
    path: Path,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Ids uint8 of a map, or of a stack of scores at ``shape`` (H, W)."""
    if path.suffix.lower() not in SCORE_SUFFIXES:
        return read_class_mask(path, categories, origin)
    scores = read_scores(path, len(categories))
    if not is_of_aspect(*scores.shape[1:], *shape):
        return scores[0]  # whose size is refused
    return rule.classes_of_scores(scores, categories, shape, threshold)


def _count_pair(
    read: Callable[[Path, tuple[int, ...]], np.ndarray],
    truth_ranks: np.ndarray,
    predicted_ranks: np.ndarray,
    origin: str,
    rule_name: str,
    pair: Pair,
) -> Cells | str:
    """Cells of the confusion matrix and their pixels, of one image; or what is wrong with it."""
    truth_path, path = pair
    try:
        truth = read_semantic(truth_path)
        if path is None:  # a miss at every pixel
            counts = np.bincount(truth.ravel(), minlength=256)[:, None]
            predicted_ranks = np.array([NO_CLASS])
        else:
            prediction = read(path, truth.shape)
            _check_size(truth, prediction, truth_path, path)
            counts = _value_counts(truth, prediction)
        values, others = np.nonzero(counts)
        rows, columns = truth_ranks[values], predicted_ranks[others]
        remedy = f"the rule {rule_name} knows" if rule_name else f"the categories ({origin}) have"
        check_values(truth_ranks, values, truth_path, f"{remedy}: correct --truth or --rule")
        remedy = f"the categories ({origin}) have: correct --categories, or write 255 for unknown"
        check_values(predicted_ranks, others, path, remedy)
    except (ValueError, OSError) as error:
        return str(error)
    counted = rows != NO_CLASS
    # The last column, -1, is of no class.
    return rows[counted], columns[counted], counts[values, others][counted]


def _value_counts(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Pixels by the values of two maps uint8 (H, W): (256, 256) int64.

    OpenCV's histogram takes a tenth of the time of ``np.bincount``, but counts in float32.
    """
    counts = np.zeros((256, 256), np.int64)
    height = max(1, _MOST // max(1, truth.shape[1]))
    for top in range(0, truth.shape[0], height):
        maps = [truth[top : top + height], prediction[top : top + height]]
        part = cv2.calcHist(maps, [0, 1], None, [256, 256], [0, 256, 0, 256])
        counts += part.astype(np.int64)
    return counts


def _check_size(truth: np.ndarray, prediction: np.ndarray, truth_path: Path, path: Path) -> None:
    if truth.shape != prediction.shape:
        (height, width), (rows, columns) = truth.shape, prediction.shape
        raise ValueError(
            f"{path} is {columns}x{rows} pixels, and its truth {truth_path} is {width}x{height}: "
            "make it again at the size of the image"
        )


def check_values(
    ranks: np.ndarray, present: np.ndarray, path: str | Path | None, remedy: str
) -> None:
    """Raise an UnknownClassError for values ``present`` in a map that ``ranks`` has as strange."""
    strange = np.unique(present[ranks[present] == STRANGE])
    if strange.size:
        few = ", ".join(map(str, strange[:5]))
        raise UnknownClassError(f"{path} holds {few}, which no class that {remedy}")


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """float64; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }
