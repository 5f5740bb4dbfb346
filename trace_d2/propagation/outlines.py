"""What strengths of an edge map mean beside the outlines of a coarse class map.

Outlines of a map that was made on patches are off by up to a patch, so hardly any edge lies on
them, and a calibration that looks there (``EdgeStatistics``) finds the best of edges useless. But
where the outline of a map runs, a border is not far: ridges of an edge map are denser near
outlines than far from them by as much as borders are among them,

    probability(s) = 1 - density(s | far from outlines) / density(s | near an outline)

which is the share of borders among ridges of strength s near an outline, measured without any
truth. ``trust`` is the share of outlines that have a border so found near them, each counted as
far as it is believed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import cv2
import numpy as np

from trace_d2.io.categories import UNKNOWN
from trace_d2.propagation.calibration import (
    BINS,
    CELLS,
    LOG_ODDS,
    EdgeCalibration,
    find_outlines,
    image_scale,
    ridges_of,
    strength_histogram,
)
from trace_d2.propagation.grid import pool

_LEAST = 50  # cells near outlines, and far from them; fewer say nothing
_SHRINK = 2.0  # ridges of every strength that are taken to be near and far alike


def grid_stride(shape: tuple[int, ...]) -> int:
    """Pixels a side of a cell in an image of ``shape`` (H, W): 4 at 640 x 480."""
    return max(1, round(image_scale(shape) / CELLS))


@dataclass
class OutlineStatistics:
    """Counts over images, of which ``calibrate`` makes a calibration for the outlines of maps.

    Attributes:
        near, far: int64 (60,) cells on a ridge by strength, near outlines and far from them.
        near_cells, far_cells: all cells there.
        outline: cells that an outline runs through.
        images: counted.
    """

    near: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    far: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    near_cells: int = 0
    far_cells: int = 0
    outline: int = 0
    images: int = 0

    def add(self, semantic: np.ndarray, edges: np.ndarray, reach: float) -> None:
        """Count one image.

        Args:
            semantic: uint8 (H, W) class ids, 255 = unknown.
            edges: float32 (H, W) in 0..1.
            reach: pixels by which outlines of the map may be off.
        """
        labels = np.where(semantic == UNKNOWN, -1, semantic.astype(np.int16))
        _, outline = find_outlines(labels)
        if not outline.any():
            return
        stride = grid_stride(edges.shape)
        away = cv2.distanceTransform((~outline).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        strength, away = pool(edges, stride), away[::stride, ::stride]
        crests, known = ridges_of(strength), semantic[::stride, ::stride] != UNKNOWN
        near, far = known & (away <= reach), known & (away > 2 * reach)
        self.near += strength_histogram(strength[crests & near])
        self.far += strength_histogram(strength[crests & far])
        self.near_cells += int(np.count_nonzero(near))
        self.far_cells += int(np.count_nonzero(far))
        self.outline += int(np.count_nonzero(pool(outline, stride)))
        self.images += 1

    def __iadd__(self, other: OutlineStatistics) -> OutlineStatistics:
        """Take in the counts of other images."""
        for own in fields(self):
            setattr(self, own.name, getattr(self, own.name) + getattr(other, own.name))
        return self

    def calibrate(self) -> EdgeCalibration:
        """The calibration; an assumed one where nothing is near outlines, or nothing far."""
        from scipy.optimize import isotonic_regression  # a second of start-up

        if min(self.near_cells, self.far_cells, self.outline) < _LEAST:
            return EdgeCalibration.assumed()
        ratio = self.near_cells / self.far_cells
        near, expected = self.near + _SHRINK, self.far * ratio + _SHRINK
        found = np.clip(1 - expected / near, 0, 1)
        found[0] = 0  # no edge at all
        seen = self.near + self.far > 0
        seen[0] = True
        probability = isotonic_regression(found[seen], weights=(near + expected)[seen]).x
        borders = np.clip(near - expected, 0, None)[seen]
        trust = min(1.0, float((borders * probability).sum()) / self.outline)
        middle = (np.arange(BINS) + 0.5) / BINS
        middle[0], middle[-1] = 0.0, 1.0
        log_odds = np.clip(np.log(np.maximum(probability, 1e-9)), *LOG_ODDS)
        knots = (tuple(middle[seen].tolist()), tuple(log_odds.tolist()))
        return EdgeCalibration(*knots, 0.0, trust, self.images)


def at_outlines(calibration: EdgeCalibration) -> EdgeCalibration:
    """``calibration`` for ridges near outlines, where one is for edges inside of masks.

    Inside, borders are rare; near an outline they are as frequent as ridges of an image that is
    all texture, so that the odds of a border are the likelihood ratio of ``EdgeCalibration``.
    """
    if calibration.prior >= 0:
        return calibration
    ratio = np.array(calibration.log_odds) - calibration.prior
    log_odds = np.clip(ratio - np.logaddexp(0, ratio), *LOG_ODDS)
    return replace(calibration, log_odds=tuple(log_odds.tolist()), prior=0.0)
