"""ODS, OIS and AP of edges under the BSDS protocol, and clDice.

At each threshold the map ``strength >= threshold`` is thinned, and its pixels are matched one to
one to those of the truth, at most ``max_distance`` (0.0075 of the image's diagonal) away. With m
matched of p predicted and n true pixels: precision m / p, recall m / n, F = 2 m / (p + n).

- ODS: the best F of precision and recall of the counts added over all images. As in BSDS both are
  taken as straight between neighbouring thresholds, and of equal ones the lowest threshold counts.
- OIS: F of the counts added over all images, each at the threshold of its own best F; as in BSDS
  these are thresholds that were counted at, and of equal ones the highest.
- AP: area under the precision-recall curve of the added counts. As in BSDS it is the sum of
  precision at 101 recalls times 0.01, so that a perfect curve has 1.01.
- clDice (Shit et al., CVPR 2021): harmonic mean of the share of the predicted skeleton that lies
  in the true mask and the share of the true skeleton that lies in the predicted mask. A truth one
  pixel wide has itself as its skeleton and no inside, so both masks are widened by a tolerance,
  as large as ``max_distance`` unless told otherwise; with 0 it is the plain clDice. Counts are
  added over images, as for ODS.

Nothing is divided by zero: precision, recall and shares of nothing are 0 as in BSDS, but F and
clDice are 1 where prediction and truth are both empty, as nothing could be better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

THRESHOLDS = np.linspace(0.01, 0.99, 99)
"""The 99 thresholds of the BSDS benchmark."""

MAX_DISTANCE = 0.0075
"""How far matched pixels lie apart at most, as a share of the image's diagonal."""

_STEP = 0.01
_RECALLS = np.linspace(0, 1, 101)  # where precision is read off for AP, a step apart
_ROUNDING = 1e-12  # below it values of F are equal


@dataclass(frozen=True)
class EdgeCounts:
    """Counts of one image in pixels; arrays are int64 (T,), a value a threshold.

    Attributes:
        matched: pairs of a predicted and a true pixel.
        predictions: predicted pixels, after thinning.
        truth: true pixels.
        skeleton_inside: predicted pixels, after thinning, in the widened truth.
        truth_inside: true pixels in the widened map of the prediction, which is not thinned.
        thresholds: (T,) float64, ascending.
    """

    matched: np.ndarray
    predictions: np.ndarray
    truth: int
    skeleton_inside: np.ndarray
    truth_inside: np.ndarray
    thresholds: np.ndarray

    @property
    def f_measure(self) -> np.ndarray:
        """F at each threshold, (T,) in 0..1."""
        return f_measure(self.matched, self.predictions, self.truth)

    @property
    def best(self) -> int:
        """Index of the threshold of the best F; of equal ones the highest."""
        return _last_best(self.f_measure)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the best F and where, and all counts."""
        best = self.best
        arrays = ("matched", "predictions", "skeleton_inside", "truth_inside")
        return {
            "best_f": float(self.f_measure[best]),
            "best_threshold": float(self.thresholds[best]),
            "truth": self.truth,
            **{name: getattr(self, name).tolist() for name in arrays},
        }


@dataclass(frozen=True)
class EdgeScores:
    """Scores of a data set, in 0..1 but for AP.

    Attributes:
        ods, ods_threshold: best F of the added counts, and where, maybe between ``thresholds``.
        ois: F with each image at its own best threshold. It may fall below ODS in odd cases, as
            an image's best F is not what helps the sum most.
        ap: up to 1.01; NaN where the curve is a point, as that of edges without strengths is.
        cldice, cldice_threshold: the best clDice of the added counts, and where.
        cldice_half: clDice at the threshold nearest to 0.5, where "edge" begins everywhere else.
        thresholds, precision, recall, f: (T,) float64, the curve.
        images: how many went in.
    """

    ods: float
    ods_threshold: float
    ois: float
    ap: float
    cldice: float
    cldice_threshold: float
    cldice_half: float
    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f: np.ndarray
    images: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON; None where AP does not exist."""
        result = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in vars(self).items()
        }
        return result | {"ap": None if math.isnan(self.ap) else self.ap}


def edge_counts(
    edges: np.ndarray,
    truth: np.ndarray,
    *,
    thresholds: np.ndarray = THRESHOLDS,
    max_distance: float = MAX_DISTANCE,
    cldice_distance: float | None = None,
) -> EdgeCounts:
    """Compare the edges of one image with its truth at every threshold.

    Args:
        edges: (H, W) floating point in 0..1.
        truth: (H, W) bool, one pixel wide, as ``truth_boundaries`` returns it.
        thresholds: (T,) in (0, 1], ascending. A strength equal to one is above it, in float32.
        max_distance: of matched pixels, as a share of the diagonal, both ends included.
        cldice_distance: by how much clDice widens masks, as a share of the diagonal; None:
            ``max_distance``; 0: not at all.

    Raises:
        ValueError: sizes differ, edges are not finite, or a setting is out of its range.
    """
    from . import edge_pixels  # with numba, which who only names thresholds does without

    _check(edges, truth, thresholds, max_distance, cldice_distance)
    diagonal = math.hypot(*truth.shape)
    wide = max_distance if cldice_distance is None else cldice_distance
    discs = [edge_pixels.disc(share * diagonal) for share in (max_distance, wide)]
    margin = max(1, *(int(offsets.max()) for offsets in discs))
    # Level k: as many thresholds as the strength reaches.
    levels = np.searchsorted(thresholds.astype(np.float32), edges.astype(np.float32), "right")
    padded_levels = np.pad(levels.astype(np.int32), margin)
    stride = padded_levels.shape[1]
    counts = edge_pixels.count_levels(
        padded_levels.reshape(-1),
        np.pad(truth.astype(np.uint8), margin).reshape(-1),
        edge_pixels.flat_offsets(discs[0], stride),
        edge_pixels.flat_offsets(discs[1], stride),
        stride,
        edge_pixels.DELETABLE,
        len(thresholds),
    )
    return EdgeCounts(
        matched=counts[0],
        predictions=counts[1],
        truth=int(np.count_nonzero(truth)),
        skeleton_inside=counts[2],
        truth_inside=counts[3],
        thresholds=np.asarray(thresholds, np.float64),
    )


def edge_scores(counts: Sequence[EdgeCounts]) -> EdgeScores:
    """Scores from the counts of all images.

    Raises:
        ValueError: there are no counts, or their thresholds differ.
    """
    if not counts:
        raise ValueError("no image to score: give the counts of one at least")
    thresholds = counts[0].thresholds
    if any(not np.array_equal(one.thresholds, thresholds) for one in counts):
        raise ValueError("the images were counted at different thresholds: count them anew")
    matched, predictions, inside, truth_inside = (
        np.sum([getattr(one, name) for one in counts], axis=0)
        for name in ("matched", "predictions", "skeleton_inside", "truth_inside")
    )
    truth = sum(one.truth for one in counts)
    f = f_measure(matched, predictions, truth)
    own = np.sum([(one.matched[one.best], one.predictions[one.best]) for one in counts], axis=0)
    ois = f_measure(own[0], own[1], truth)
    precision, recall = share(matched, predictions), share(matched, truth)
    topology, sensitivity = share(inside, predictions), share(truth_inside, truth)
    cldice = share(2 * topology * sensitivity, topology + sensitivity)
    cldice[(predictions == 0) & (truth == 0)] = 1
    ods, ods_threshold = _best_between(thresholds, precision, recall, f)
    best_cldice = _last_best(cldice)
    return EdgeScores(
        ods=ods,
        ods_threshold=ods_threshold,
        ois=float(ois),
        ap=average_precision(precision, recall),
        cldice=float(cldice[best_cldice]),
        cldice_threshold=float(thresholds[best_cldice]),
        cldice_half=float(cldice[np.abs(thresholds - 0.5).argmin()]),
        thresholds=thresholds,
        precision=precision,
        recall=recall,
        f=f,
        images=len(counts),
    )


def even_thresholds(count: int) -> np.ndarray:
    """``count`` thresholds evenly between 0 and 1, (T,) float64; 99 gives those of BSDS."""
    if count < 1:
        raise ValueError(f"there is one threshold at least, not {count}")
    step = 1 / (count + 1)
    return np.linspace(step, 1 - step, count)


def f_measure(matched: Any, predictions: Any, truth: Any) -> np.ndarray:
    """F = 2 m / (p + n) of counts that broadcast, in 0..1; 1 where p and n are 0."""
    total = np.asarray(predictions + truth, np.float64)
    return np.where(total == 0, 1.0, share(2 * np.asarray(matched), total))


def share(part: Any, whole: Any) -> np.ndarray:
    """``part / whole`` of arrays that broadcast, float64; 0 where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Area under the curve of (T,) points in any order, 0..1.01; NaN where all have one recall.

    As in BSDS, precision is interpolated linearly between the points, read off at recall 0, 0.01,
    ..., 1, is 0 outside the range that the points span, and is added up times 0.01. Of points of
    one recall the most precise counts.
    """
    order = np.lexsort((-precision, recall))
    known, first = np.unique(recall[order], return_index=True)
    if len(known) < 2:
        return math.nan
    heights = precision[order][first]
    return float(np.interp(_RECALLS, known, heights, left=0, right=0).sum() * _STEP)


def _best_between(
    thresholds: np.ndarray, precision: np.ndarray, recall: np.ndarray, f: np.ndarray
) -> tuple[float, float]:
    """The best F and its threshold, with 98 points between each two of the (T,) thresholds."""
    if len(thresholds) == 1:
        return float(f[0]), float(thresholds[0])
    there = np.linspace(0, 1, 100)

    def between(values: np.ndarray) -> np.ndarray:
        return values[:-1, None] * (1 - there) + values[1:, None] * there

    p, r = between(precision), between(recall)
    curve = share(2 * p * r, p + r)
    curve[:, 0], curve[:, -1] = f[:-1], f[1:]  # which is 1 where there is nothing on either side
    best = int(np.argmax(curve >= curve.max() - _ROUNDING))
    return float(curve.flat[best]), float(between(thresholds).flat[best])


def _last_best(values: np.ndarray) -> int:
    """Index of the largest; of equal ones the last, the highest threshold."""
    return len(values) - 1 - int(np.argmax(values[::-1]))


def _check(
    edges: np.ndarray,
    truth: np.ndarray,
    thresholds: np.ndarray,
    max_distance: float,
    cldice_distance: float | None,
) -> None:
    if edges.ndim != 2 or edges.shape != truth.shape:
        raise ValueError(
            f"edges of {edges.shape} for a truth of {truth.shape}: both are (H, W) of one image"
        )
    if truth.dtype != np.bool_:
        raise ValueError(f"the truth is a bool map, not {truth.dtype}")
    if not np.isfinite(edges).all():
        raise ValueError("the edges have NaN or infinite values: repair the detector")
    if not len(thresholds) or (np.diff(thresholds) <= 0).any():
        raise ValueError("thresholds are one at least, ascending, each of them once")
    if thresholds[0] <= 0 or thresholds[-1] > 1:
        raise ValueError(f"thresholds lie in (0, 1], not in {thresholds[0]}..{thresholds[-1]}")
    for value in (max_distance, cldice_distance):
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"a distance is a share of the diagonal in 0..1, not {value}")
