"""What strengths of an edge map mean, measured without any truth.

The strength at which an edge is an edge differs from detector to detector. The masks that edges
are to cut say it: the outline between two classes, or of a mask, is a true edge, while most of a
mask's inside is none. Where a strength is as frequent inside as a few borders between touching
objects explain, it is a border; where it is far more frequent there, it is parts, texture and
shadows:

    evidence(s) = log( P(s | outline) / P(s | ridge inside) )

with ridges inside counted as length per area, so that the density of a map without any edge
counts as well. ``trust`` is the share of outlines whose strength a border would be believed at.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from trace_d2.io.categories import UNKNOWN
from trace_d2.io.json_files import JsonError, number, read_json, shown, whole_number
from trace_d2.io.regions import row_bands
from trace_d2.propagation.grid import pool

SAMPLE_IMAGES = 48
"""Images that edges are measured on; twice as many change PQ by a tenth."""

# Lengths are in units of the square root of the image's area, areas of the image's area, so that
# nothing depends on the resolution. The two densities below are of 640 x 480 photographs.
_BORDERS = 0.26  # length of borders between objects of a class an area of it: 4.7e-4 a pixel
_MOST_BORDERS = 3.4  # the same where objects are crowded, or masks merge all classes ...
_MOST_BESIDE_STUFF = 4.5  # ... and where stuff has shown how much is texture
_MOST_CROWDED, _CROWDED = 12.0, 1.2  # the same of edges that are perfect by all signs
_CONSISTENT = 3.0  # factor between densities that are called equal
_SURE = 0.5  # of the borders that are found, as some edges of parts are taken for borders
_TEXTURE = 3.5  # times as dense as in stuff, at most, are edges in things that are no borders
_RIDGES = 16.6  # length of ridges of a map that is all texture: 0.03 a pixel
CELLS = 138.0  # cells along the square root of the image's area: 4 pixels at 640 x 480
_CLEAR = 0.0145  # distance from outlines at which an inside begins: 8 pixels at 640 x 480
BINS = 60  # of strength
LOG_ODDS = (-8.0, 1.0)  # of the log-odds
_LEAST_OUTLINE = 50  # cells; fewer say nothing
_SHRINK = 100  # cells of outline that a full trust needs a multiple of
_FORMAT = 1


@dataclass(frozen=True)
class EdgeCalibration:
    """From edge strengths of one detector, on one kind of images, to evidence for a border.

    Attributes:
        strengths: knots in 0..1, rising.
        log_odds: at the knots, that an edge inside a mask is a border between two objects; they
            never fall. Linear between knots.
        prior: the log-odds that are expected where an edge says nothing.
        trust: 0..1; 0: the edges are useless here.
        images: that it was measured on; 0: it was assumed.
    """

    strengths: tuple[float, ...]
    log_odds: tuple[float, ...]
    prior: float
    trust: float
    images: int

    @classmethod
    def assumed(cls) -> EdgeCalibration:
        """For edges that nothing can be measured of: trusted, and an edge above 0.5."""
        strengths = (0.0, 0.4, 0.5, 0.6, 1.0)
        log_odds = (LOG_ODDS[0], LOG_ODDS[0], -1.2, 0.0, LOG_ODDS[1])
        return cls(strengths, log_odds, _prior(_BORDERS), 1.0, 0)

    @classmethod
    def load(cls, path: str | Path) -> EdgeCalibration:
        """Read a file that a label job wrote (or its folder): what ``to_json`` gave."""
        path = Path(path)
        path = path / "calibration.json" if path.is_dir() else path
        remedy = "name the calibration.json of a label folder"
        try:
            content = read_json(path, "calibration of edges", remedy)
        except JsonError as error:
            raise ValueError(f"{path} is damaged ({error.reason}): make it again") from error
        try:
            if content["format"] != _FORMAT:
                raise ValueError(f"it has format {shown(content['format'])}")
            lists = (content["strengths"], content["log_odds"])
            if not all(isinstance(values, list) for values in lists):
                raise ValueError("its strengths are no list")
            strengths, log_odds = (tuple(map(number, values)) for values in lists)
            calibration = cls(
                strengths=strengths,
                log_odds=log_odds,
                prior=number(content["prior"]),
                trust=number(content["trust"]),
                images=whole_number(content["images"]),
            )
            if not calibration._in_range():
                raise ValueError("its values are out of range")
        except (KeyError, TypeError, ValueError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"{path} is no calibration of edges ({what}): name one that a label job wrote"
            ) from error
        return calibration

    def _in_range(self) -> bool:
        return (
            len(self.strengths) == len(self.log_odds) > 0
            and bool((np.diff(self.strengths) > 0).all())
            and bool((np.diff(self.log_odds) >= 0).all())
            and bool(np.isfinite((*self.log_odds, self.prior)).all())
            and 0 <= self.strengths[0] <= self.strengths[-1] <= 1
            and 0 <= self.trust <= 1
            and self.images >= 0
        )

    def expecting(self, factor: float) -> EdgeCalibration:
        """The same where masks hold ``factor`` times as many borders: they merge all classes."""
        more = math.log(factor)
        log_odds = np.clip(np.array(self.log_odds) + more, *LOG_ODDS)
        return replace(self, log_odds=tuple(log_odds.tolist()), prior=self.prior + more)

    def to_json(self) -> dict[str, Any]:
        """As ``calibration.json`` holds it."""
        lists = {"strengths": list(self.strengths), "log_odds": list(self.log_odds)}
        return {"format": _FORMAT, **asdict(self), **lists}

    @cached_property
    def _table(self) -> np.ndarray:
        """float32 (65536,): log-odds of 16-bit strengths, which edge files hold exactly."""
        table = np.interp(np.arange(65536) / 65535, self.strengths, self.log_odds)
        return table.astype(np.float32)

    def __call__(self, edges: np.ndarray, scale: float = 0.0) -> EdgeEvidence:
        """The evidence in ``edges`` float (H, W), strength in 0..1; ``scale``: see ``add``."""
        levels = np.empty(edges.shape, np.uint16)
        for rows in row_bands(edges.shape):
            levels[rows] = np.rint(edges[rows] * np.float32(65535))
        scale = image_scale(edges.shape, scale)
        return EdgeEvidence(levels, self._table, self.prior, self.trust, scale)


@dataclass(frozen=True)
class EdgeEvidence:
    """What the edges of one image say.

    Attributes:
        levels: uint16 (H, W), strength in 0..65535.
        table: float32 (65536,), what each says.
        prior, trust: see ``EdgeCalibration``.
        scale: in pixels, the square root of the image's area, or less, see ``EdgeStatistics.add``.
    """

    levels: np.ndarray
    table: np.ndarray
    prior: float
    trust: float
    scale: float

    @property
    def log_odds(self) -> np.ndarray:
        """float32 (H, W), that an edge at the pixel is a border between two objects; made anew."""
        return self.table[self.levels]

    @property
    def likelihood(self) -> np.ndarray:
        """float32 (H, W) log-likelihood ratio: the log-odds without what is expected beforehand."""
        return self.log_odds - np.float32(self.prior)

    @property
    def probability(self) -> np.ndarray:
        """float32 (H, W), of a border between two objects."""
        return np.exp(np.minimum(self.log_odds, 0))

    def crop(self, box: tuple[slice, slice]) -> EdgeEvidence:
        """Of a part of the image, at the scale of the whole."""
        return replace(self, levels=self.levels[box])


@dataclass
class EdgeStatistics:
    """Counts over images, of which ``calibrate`` makes a calibration.

    Attributes:
        outline: int64 (60,) cells of outline by the strongest edge near them.
        inside: float64 (60,) length of ridges inside masks by strength.
        area: of the insides.
        stuff: float64 (60,) length of ridges in stuff, where there is no border, by strength.
        stuff_area: of it.
        images: counted.
    """

    outline: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    inside: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    area: float = 0.0
    stuff: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    stuff_area: float = 0.0
    images: int = 0

    def add(
        self,
        labels: np.ndarray,
        objects: np.ndarray,
        edges: np.ndarray,
        stuff: np.ndarray | None = None,
        scale: float = 0.0,
    ) -> None:
        """Count one image.

        Args:
            labels: integer (H, W); an outline lies between two that differ, negative ones are
                unknown and have none.
            objects: bool (H, W), inside what edges are to cut.
            edges: float32 (H, W) in 0..1.
            stuff: bool (H, W), what holds no objects.
            scale: side in pixels of a square that holds about as many objects as a photograph
                does, where the image holds far more; 0: the image is such a one.
        """
        scale = image_scale(edges.shape, scale)
        stride = max(1, round(scale / CELLS))
        outline, near = find_outlines(labels)
        strength = pool(edges, stride)
        # Masks are seldom exact to the pixel: edges count from up to two pixels away, or a cell.
        side = 5 if stride == 1 else 3
        nearby = cv2.dilate(strength, np.ones((side, side), np.uint8))
        self.outline += strength_histogram(nearby[pool(outline, stride)])
        away = cv2.distanceTransform((~near).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        crests, cell = ridges_of(strength), stride / scale

        def count(inside: np.ndarray) -> tuple[np.ndarray, float]:
            clear = ~pool(~(inside & (away > _CLEAR * scale)), stride)
            length = strength_histogram(strength[clear & crests]) * cell
            return length, np.count_nonzero(clear) * cell**2

        length, area = count(objects)
        self.inside += length
        self.area += area
        if stuff is not None:
            length, area = count(stuff)
            self.stuff += length
            self.stuff_area += area
        self.images += 1

    def add_masks(
        self, masks: Sequence[np.ndarray] | np.ndarray, edges: np.ndarray, scale: float = 0.0
    ) -> None:
        """Count one image by the masks alone, bool (H, W) each, that its edges are to cut."""
        labels = paint_masks(masks, edges.shape)
        self.add(labels, labels > 0, edges, scale=scale)

    def add_semantic(
        self,
        semantic: np.ndarray,
        isthing: Mapping[int, bool],
        edges: np.ndarray,
        scale: float = 0.0,
    ) -> None:
        """Count one image by its semantic mask: outlines of all classes, insides of things."""
        things, stuff = np.zeros(256, bool), np.zeros(256, bool)
        things[[category for category, thing in isthing.items() if thing]] = True
        stuff[[category for category, thing in isthing.items() if not thing]] = True
        labels = np.where(semantic == UNKNOWN, -1, semantic.astype(np.int16))
        self.add(labels, things[semantic], edges, stuff[semantic], scale)

    def __iadd__(self, other: EdgeStatistics) -> EdgeStatistics:
        """Take in the counts of other images."""
        for own in fields(self):
            setattr(self, own.name, getattr(self, own.name) + getattr(other, own.name))
        return self

    def calibrate(self) -> EdgeCalibration:
        """The calibration; an assumed one where there are no outlines or no insides."""
        from scipy.optimize import isotonic_regression  # a second of start-up

        cells = int(self.outline.sum())
        if cells < _LEAST_OUTLINE or self.area <= 0:
            return EdgeCalibration.assumed()
        inside = self.inside / self.area
        found = self._borders(inside)
        borders = max(_BORDERS, _SURE * found)
        # Where there is no ridge there is the absence of an edge, the lowest strength.
        ridges = inside.copy()
        ridges[0] += max(0.0, _RIDGES - float(inside.sum()))
        share = self.outline / cells
        seen = borders * share + ridges > _RIDGES * 6.7e-5
        weights = (borders * share + ridges)[seen]
        ratio = np.log(borders * (share[seen] + 2e-5) / (ridges[seen] + _RIDGES * 3e-6))
        log_odds = np.clip(isotonic_regression(ratio, weights=weights).x, *LOG_ODDS)
        believed = np.exp(np.minimum(log_odds, 0))
        if found > _BORDERS:
            believed = np.maximum(believed, self._precision(inside, found)[seen])
        trust = float((self.outline[seen] * believed).sum()) / (cells + _SHRINK)
        if len(log_odds) == 1:  # of one strength everywhere: empty, or too faint to tell apart
            trust = 0.0
        middle = (np.arange(BINS) + 0.5) / BINS
        middle[0], middle[-1] = 0.0, 1.0
        knots = (tuple(middle[seen].tolist()), tuple(log_odds.tolist()))
        return EdgeCalibration(*knots, _prior(borders), trust, self.images)

    def _borders(self, inside: np.ndarray) -> float:
        """How long borders an area are, if the edges tell; else 0.

        If all edges inside are borders, those above a strength are as many times more frequent
        than the strength is on outlines, whatever the strength. Where texture comes in, edges
        become more frequent the weaker they are. What stuff shows of it is taken off first.
        """
        share = np.cumsum(self.outline[::-1]) / self.outline.sum()
        density = np.cumsum(inside[::-1])
        if self.stuff_area > 0:
            density = density - _TEXTURE * np.cumsum(self.stuff[::-1]) / self.stuff_area
        density = density / np.maximum(share, 1e-9)
        lowest = float(density[share >= 0.25].min())
        found = float(density[share >= (0.5 if self.stuff_area > 0 else 0.7)][0])
        # A crowd: nearly all outlines, and nothing more inside at one strength than at another.
        crowd = float(density[share >= 0.9][0])
        if share[-2] >= 0.9 and crowd <= min(_MOST_CROWDED, _CROWDED * lowest):
            return max(found, crowd)
        if self.stuff_area > 0:
            return found if found <= _MOST_BESIDE_STUFF else 0.0
        # Where many outlines have one strength, the weaker half of the others must agree as well.
        most = float(density[share >= max(0.7, (1 + share[0]) / 2)][0])
        return found if found <= _MOST_BORDERS and most <= _CONSISTENT * lowest else 0.0

    def _precision(self, inside: np.ndarray, found: float) -> np.ndarray:
        """float64 (60,), 0..1: how many of the edges inside, that strong or stronger, are borders.

        By the borders found, or by what stuff shows of texture, whichever is more.
        """
        share = np.cumsum(self.outline[::-1]) / self.outline.sum()
        density = np.maximum(np.cumsum(inside[::-1]), 1e-9)
        precision = found * share / density
        if self.stuff_area > 0:
            false = _TEXTURE * np.cumsum(self.stuff[::-1]) / self.stuff_area
            precision = np.maximum(precision, 1 - false / density)
        return np.clip(precision, 0, 1)[::-1]


def draw(seed: int, stem: str) -> int:
    """The rank by which an image is drawn into the sample, whatever other images there are."""
    return zlib.crc32(f"{seed} {stem}".encode())


def paint_masks(masks: Sequence[np.ndarray] | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """int32 (H, W): 1 + the mask that a pixel is in, the smallest of several, 0 = none."""
    labels = np.zeros(shape, np.int32)
    for index in sorted(range(len(masks)), key=lambda i: -np.count_nonzero(masks[i])):
        labels[masks[index]] = index + 1
    return labels


def _prior(borders: float) -> float:
    return math.log(borders / _RIDGES)


def image_scale(shape: tuple[int, ...], given: float = 0.0) -> float:
    own = math.sqrt(shape[0] * shape[1])
    return min(own, given) if given else own


def find_outlines(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool (H, W): outlines between known labels, and outlines of any kind."""
    known, every = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differ = labels[first] != labels[second]
        every[first] |= differ
        known[first] |= differ & (labels[first] >= 0) & (labels[second] >= 0)
    return known, every


def ridges_of(strength: np.ndarray) -> np.ndarray:
    """bool (h, w): cells on a crest, across rows or columns; a plateau has none."""
    smooth = cv2.GaussianBlur(strength, (0, 0), 1.0)
    return _peaks_along_rows(smooth) | _peaks_along_rows(smooth.T).T


def _peaks_along_rows(smooth: np.ndarray) -> np.ndarray:
    """bool (h, w): greater than what lies one and two cells to either side."""
    padded = np.pad(smooth, ((0, 0), (2, 2)), mode="edge")
    width = smooth.shape[1]
    side = [padded[:, k : k + width] for k in range(5)]
    peaks: np.ndarray = (side[2] >= side[1]) & (side[2] > side[3])
    return peaks & (side[2] >= side[0] + 1e-4) & (side[2] > side[4] + 1e-4)


def strength_histogram(strengths: np.ndarray) -> np.ndarray:
    """int64 (60,): how many of ``strengths`` in 0..1 are in each bin."""
    bins = np.minimum((strengths * BINS).astype(np.int64), BINS - 1)
    return np.bincount(bins, minlength=BINS)
