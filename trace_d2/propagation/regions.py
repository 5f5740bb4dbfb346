"""Cut a mask into regions along edges.

Two ways: the connected components that edges leave (Section "BGP", step 1 of the paper), which
leak through a single missing edge pixel and believe every edge, and merged basins, which do
neither. The basins are those of the distance to the nearest edge or to the outside of the mask,
so that two objects that touch are two basins even where part of the edge between them is missing,
or all of it and they only narrow; then neighbours are merged across every border that is more
likely inside one object (``BorderMerger``).
"""

from __future__ import annotations

import ctypes
import math
import sys

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from trace_d2.io.regions import label_areas, row_bands
from trace_d2.propagation.borders import (
    Agglomeration,
    Borders,
    measure_borders,
    merge_shallow,
    relabel,
    roots,
)
from trace_d2.propagation.calibration import EdgeEvidence
from trace_d2.propagation.grid import EDGE_THRESHOLD

# How a mask is cut along edges.
CUTS = ("basins", "components")
# What may become of tiny pieces: join the nearest segment of the class, void, nothing.
TINY_PIECES = ("join", "void", "keep")

# Log-odds above which a pixel is an edge (probabilities 0.08 to 0.5): the distance to edges is
# the mean over these, so that it hardly depends on any.
_LEVELS = (-2.5, -1.8, -1.2, -0.7)

_LARGE = 2**24  # pixels of a mask whose flood needs what memory there is
# Coefficients of BorderMerger: constant, evidence, neck, shortness, length, texture.
_UNTRUSTED = (3.4, 0.1, -7.3, 0.3, 0.4, -27.0)
_TRUSTED = (2.6, 1.3, -3.0, 0.0, 0.85, -9.3)
_FULL_TRUST = 0.7  # from which on edges are trusted fully
# Pixels that say nothing, as if every border and every region had so many more.
_SHRINK_BORDER, _SHRINK_REGION = 2.0, 5.0


def cut_components(
    mask: np.ndarray, edges: np.ndarray, min_area: int = 1
) -> tuple[np.ndarray, int]:
    """Label the pieces of ``mask`` that remain when the pixels on an edge are taken out.

    Pixels touch over their sides only (4-connectivity), so that an edge one pixel wide separates
    even where it runs diagonally. Pieces of fewer than ``min_area`` pixels get the label 0.

    Returns:
        labels: (H, W) int32, 0 for every other pixel, pieces counted from 1 in the order in which
            a scan by rows meets them.
        count: number of pieces.
    """
    uncut = mask & ~(edges > EDGE_THRESHOLD)
    total, labels, stats, _ = cv2.connectedComponentsWithStats(
        uncut.view(np.uint8), connectivity=4, ltype=cv2.CV_32S
    )
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area
    keep[0] = False
    if keep[1:].all():
        return labels, total - 1
    renumber = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return renumber[labels], int(keep.sum())


def component_regions(mask: np.ndarray, edges: np.ndarray | None) -> np.ndarray:
    """4-connected components of a mask cut by edges; edge pixels go to the nearest component.

    A component of the mask that edges cover whole stays one region.

    Returns:
        int32 (H, W): labels from 1 inside the mask, 0 outside.
    """
    if edges is None:
        return ndimage.label(mask)[0]
    return _flood([np.zeros(mask.shape, np.uint8), cut_components(mask, edges)[0]], mask)


def cut_basins(
    mask: np.ndarray, evidence: EdgeEvidence, neck_depth: float, prior: float = 0.0
) -> np.ndarray:
    """Cut a mask into basins merged across unlikely borders; gaps in an edge do not leak.

    Args:
        mask, evidence: bool (H, W), and of the edges there.
        neck_depth: pixels; two basins part only where the way between them narrows by this.
        prior: log-odds of a border on top of those in a class mask, see ``BorderMerger``.

    Returns:
        int32 (H, W): labels from 1 inside the mask, 0 outside; 4-connected regions.
    """
    distance = _distance(mask, evidence)
    if not distance.any():
        return ndimage.label(mask)[0]
    maps = [_relief(distance, evidence), _peaks(distance, neck_depth)]
    del distance  # and made again soon: nothing takes as much memory as the flood
    regions = _flood(maps, mask)
    distance = _distance(mask, evidence)

    likelihood = evidence.likelihood
    borders = measure_borders(regions, likelihood, distance)
    peaks = _highest(regions, distance)
    regions = relabel(regions, merge_shallow(borders, peaks, neck_depth))
    if regions.max() < 2:
        return regions

    borders = measure_borders(regions, likelihood, distance)
    del likelihood
    area = label_areas(regions).astype(np.float64)
    edges = _edge_sums(regions, mask, evidence)
    peaks = _highest(regions, distance)
    merger = BorderMerger(borders, area, peaks, edges, evidence.trust, evidence.scale, prior)
    return relabel(regions, merger.merge())


def settle_tiny_pieces(
    regions: np.ndarray, tiny_area: float, tiny_share: float, policy: str
) -> np.ndarray:
    """Join tiny regions of one class to the nearest other, or drop them.

    A region is tiny below ``tiny_area`` pixels or below ``tiny_share`` of the largest region of
    the class; the largest itself never is. Tiny pieces are mostly slivers that an edge left over
    and parts of an object that another one covers. With the ``policy`` void, tiny regions that
    touch a larger one of the class still join it: nothing says that they are something else.

    Returns:
        int32 (H, W): labels 1, 2, ... and 0.
    """
    area = label_areas(regions)
    area[0] = 0
    largest = area.max(initial=0)
    tiny = area < min(largest, max(tiny_area, tiny_share * largest))
    tiny[0] = False
    if policy == "keep" or not tiny.any():
        return regions
    becomes = np.where(tiny, 0, np.cumsum(~tiny) - 1).astype(np.int32)
    settled = becomes[regions]
    piece = np.nonzero(tiny[regions])
    gap, nearest = _nearest_segment(settled, piece)
    label = regions[piece]
    # The nearest pixel of a piece decides for all of it, the first in reading order among equals.
    order = np.lexsort((gap, label))
    first = order[np.unique(label[order], return_index=True)[1]]
    target = nearest[first]
    if policy == "void":
        target = np.where(gap[first] <= 1, target, 0)
    becomes[label[first]] = target
    settled[piece] = becomes[label]
    return settled


def _nearest_segment(
    labels: np.ndarray, where: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance in pixels to the nearest label that is not 0, and that label, at some pixels."""
    distance, source = cv2.distanceTransformWithLabels(
        (labels == 0).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(source.max()) + 1, np.int32)
    for rows in row_bands(labels.shape):
        inside = labels[rows] > 0
        table[source[rows][inside]] = labels[rows][inside]
    return distance[where], table[source[where]]


def _distance(mask: np.ndarray, evidence: EdgeEvidence) -> np.ndarray:
    """float32 (H, W): pixels to the outside of the mask or the next edge, mean over _LEVELS."""
    total = np.zeros(mask.shape, np.float32)
    count = -1
    # The frame of zeros makes the image border an outline of the mask like any other.
    framed = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), bool)
    distance = np.zeros(framed.shape, np.float32)
    for level in _LEVELS:
        np.logical_and(mask, (evidence.table <= level)[evidence.levels], out=framed[1:-1, 1:-1])
        inside = int(np.count_nonzero(framed))
        # A higher level opens a superset: of equal size it is the same, and so are its distances.
        if inside != count:
            cv2.distanceTransform(framed.view(np.uint8), cv2.DIST_L2, 5, dst=distance)
            count = inside
        total += distance[1:-1, 1:-1]
    total /= np.float32(len(_LEVELS))
    return total


def _relief(distance: np.ndarray, evidence: EdgeEvidence) -> np.ndarray:
    """float32 (H, W): what is flooded, low where the distance is great.

    On the edges the distance is flat: there the floods meet on the crest of the edge.
    """
    log_odds = evidence.log_odds
    relief = log_odds - log_odds.min()
    relief += np.float32(1e-3)
    np.negative(distance, out=relief, where=distance > 0)
    return relief


def _highest(regions: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """float32 (R + 1,): the greatest distance in each region."""
    top = np.zeros(int(regions.max()) + 1, np.float32)
    for rows in row_bands(regions.shape):
        np.maximum.at(top, regions[rows].ravel(), distance[rows].ravel())
    return top


def _edge_sums(regions: np.ndarray, mask: np.ndarray, evidence: EdgeEvidence) -> np.ndarray:
    """float64 (R + 1,): the sum of the probability of an edge over each region of ``mask``."""
    sums: np.ndarray = np.zeros(int(regions.max()) + 1)
    ranks = np.arange(len(sums))
    for rows in row_bands(regions.shape):
        band = np.where(mask[rows], evidence.crop((rows, slice(None))).probability, 0)
        # One after the other from what there was: rounded as the sum of the whole map is.
        labels = np.concatenate((ranks, regions[rows].ravel()))
        sums = np.bincount(labels, np.concatenate((sums, band.ravel())))
    return sums


def _peaks(distance: np.ndarray, neck_depth: float) -> np.ndarray:
    """int32 (H, W): a label for each local maximum of a distance map, 0 elsewhere.

    The distance falls by at most 1 a pixel, so a peak within ``neck_depth`` pixels of a higher
    one in the same region would be merged with it in any case.
    """
    side = 2 * max(1, int(neck_depth)) + 1
    top = distance == cv2.dilate(distance, np.ones((side, side), np.uint8))
    top &= distance > 0
    # 4-connected, so that peaks on the two sides of a thin diagonal edge stay two.
    return ndimage.label(top)[0]


def _flood(maps: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
    """Grow seeds over a mask, low relief first; components without a seed become regions.

    ``maps``, relief and seeds, are taken out of their list, so that nobody holds them but the
    flood, which copies them.
    """
    if mask.size > _LARGE:
        _give_back_memory()
    found = watershed(maps.pop(0), _narrow(maps.pop(0)), mask=mask, connectivity=1)
    regions = found.astype(np.int32, copy=False)
    missed = mask & (regions == 0)
    if missed.any():
        extra, _ = ndimage.label(missed)
        regions[missed] = extra[missed] + regions.max(initial=0)
    return regions


def _narrow(labels: np.ndarray) -> np.ndarray:
    """Labels in as few bytes as they fit in: the flood, which copies them, gives them so."""
    return labels.astype(np.min_scalar_type(labels.max(initial=0)), copy=False)


def _give_back_memory() -> None:
    """What was freed goes back to the system before a flood, which takes the most memory of all.

    The C library of Linux keeps freed blocks of up to 32 MiB: some 0.2 GB by then. Others have no
    such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class BorderMerger(Agglomeration):
    """Merges the regions of a mask across borders that are more likely inside one object.

    The log-odds that a border parts two objects are linear in what is known of it::

        constant + evidence * E + neck * N + shortness * log(L / sqrt(a)) + length * log(10 L / s)
        + texture * P

    with L its length, E the mean calibrated evidence along it (shrunk as if two pixels more said
    nothing), N how open the way across is (the height of the pass over the lower of the two
    peaks), a the smaller area, s the square root of the image's area and P the greater mean
    probability of an edge inside the two regions. The border of the lowest log-odds goes first,
    and what it joins is measured anew; it ends when all borders left have positive ones.

    The coefficients lie between two sets, for edges that cannot be trusted and for those that
    can. They were fitted by logistic regression on borders of 50 photographs (with the regions
    that merging by the fit itself comes to) and edges of nine kinds, from perfect to useless;
    docs/results.md says how well they carry over.
    """

    def __init__(
        self, borders: Borders, area: np.ndarray, peak: np.ndarray, edges: np.ndarray,
        trust: float, scale: float, prior: float = 0.0,
    ) -> None:  # fmt: skip
        """Take the regions to merge.

        Args:
            area, peak, edges: float (R + 1,) pixels of each region, its greatest height, and the
                sum of the probability of an edge over it.
            scale: s, in pixels.
            prior: log-odds that borders have on top, as far as the edges are trusted.
        """
        super().__init__(borders, len(area))
        share = min(1.0, trust / _FULL_TRUST)
        self.weights = [u + share * (t - u) for u, t in zip(_UNTRUSTED, _TRUSTED, strict=True)]
        self.weights[0] += share * prior
        self.scale = scale
        self.area = area.tolist()
        self.peak = peak.tolist()
        self.edges = edges.tolist()

    def merge(self) -> np.ndarray:
        """int32 (R + 1,): the label that each label becomes."""
        for _, keep, gone in self.join_below(0.0):
            self.area[keep] += self.area[gone]
            self.edges[keep] += self.edges[gone]
            self.peak[keep] = max(self.peak[keep], self.peak[gone])
        return roots(self.parent)

    def cost(self, one: int, other: int) -> float:
        """The log-odds that the border between two regions that touch parts two objects."""
        length, evidence, height = self.neighbours[one][other]
        smaller = min(self.area[one], self.area[other])
        texture = max(self.edges[i] / (self.area[i] + _SHRINK_REGION) for i in (one, other))
        known = (
            1.0,
            evidence / (length + _SHRINK_BORDER),
            height / max(min(self.peak[one], self.peak[other]), 1e-3),
            math.log(length / math.sqrt(smaller)),
            math.log(10.0 * length / self.scale),
            texture,
        )
        return sum(weight * value for weight, value in zip(self.weights, known, strict=True))
