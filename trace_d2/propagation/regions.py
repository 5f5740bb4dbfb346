"""Cut a mask into regions along edges, such that every pixel of it has one.

Two ways: the connected components that edges leave (Section "BGP", step 1 of the paper), which
leak through a single missing edge pixel, and merged basins, which do not. The basins are those of
the distance to the nearest edge or to the outside of the mask, so that two objects that touch are
two basins even where part of the edge between them is missing; then neighbours are merged unless
the border between them, taken as a whole, stands out (``BorderMerger``).
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from trace_d2.propagation.borders import BorderMerger, measure_borders, merge_shallow
from trace_d2.propagation.components import EDGE_THRESHOLD


def edge_width(edges: np.ndarray) -> float:
    """Typical width in pixels of the ridges above the threshold, at least 1.

    Twice the edge pixels by the sides at which an edge pixel meets another: ``w`` for a straight
    ridge of width ``w``.

    Args:
        edges: float (H, W) edge strength in 0..1.
    """
    edge = edges > EDGE_THRESHOLD
    sides = sum(np.count_nonzero(np.diff(edge, axis=axis)) for axis in (0, 1))
    return max(1.0, 2.0 * np.count_nonzero(edge) / max(sides, 1))


def component_regions(mask: np.ndarray, edges: np.ndarray | None) -> np.ndarray:
    """4-connected components of a mask cut by edges; edge pixels go to the nearest component.

    A component of the mask that edges cover whole stays one region.

    Args:
        mask: bool (H, W).
        edges: float (H, W) edge strength in 0..1, or ``None``.

    Returns:
        int32 (H, W): labels from 1 inside the mask, 0 outside.
    """
    if edges is None:
        return ndimage.label(mask)[0]
    seeds, _ = ndimage.label(mask & (edges <= EDGE_THRESHOLD))
    return _flood(np.zeros(mask.shape, np.uint8), seeds, mask)


def cut_basins(
    mask: np.ndarray,
    edges: np.ndarray,
    neck_depth: float,
    contrast: float,
    evidence: float,
) -> np.ndarray:
    """Cut a mask into basins merged across weak borders; gaps in an edge do not leak.

    Args:
        mask: bool (H, W).
        edges: float32 (H, W) edge strength in 0..1.
        neck_depth: pixels; two basins part only where the way between them narrows by this.
        contrast: how far the mean strength of a border must exceed that of the regions beside it.
        evidence: pixels; a border of this length needs a contrast greater by 1, and a border of
            twice the length by 1/2.

    Returns:
        int32 (H, W): labels from 1 inside the mask, 0 outside; 4-connected regions.
    """
    open_mask = mask & (edges <= EDGE_THRESHOLD)
    if not open_mask.any():
        return ndimage.label(mask)[0]
    # The frame of zeros makes the image border an outline of the mask like any other.
    framed = np.pad(open_mask, 1).view(np.uint8)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]
    seeds = _peaks(distance, neck_depth)
    # On the edges the distance is flat: there the floods meet on the crest of the edge.
    relief = np.where(distance > 0, -distance, edges)
    regions = _flood(relief, seeds, mask)

    borders = measure_borders(regions, edges, distance)
    peaks = np.zeros(int(regions.max()) + 1, np.float32)
    np.maximum.at(peaks, regions.ravel(), distance.ravel())
    regions = _relabel(regions, merge_shallow(borders, peaks, neck_depth))

    borders = measure_borders(regions, edges, distance)
    area = np.bincount(regions.ravel())
    strength = np.bincount(regions.ravel(), np.where(mask, edges, 0).ravel())
    merger = BorderMerger(borders, np.maximum(area, 1), strength, evidence)
    return _relabel(regions, merger.merge(contrast))


def _peaks(distance: np.ndarray, neck_depth: float) -> np.ndarray:
    """int32 (H, W): a label for each local maximum of a distance map, 0 elsewhere.

    The distance falls by at most 1 a pixel, so a peak within ``neck_depth`` pixels of a higher
    one in the same region would be merged with it in any case.
    """
    side = 2 * max(1, int(neck_depth)) + 1
    highest = cv2.dilate(distance, np.ones((side, side), np.uint8))
    # 4-connected, so that peaks on the two sides of a thin diagonal edge stay two.
    return ndimage.label((distance == highest) & (distance > 0))[0]


def _flood(relief: np.ndarray, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grow seeds over a mask, low relief first; components without a seed become regions."""
    regions = watershed(relief, seeds.astype(np.int32, copy=False), mask=mask, connectivity=1)
    missed = mask & (regions == 0)
    if missed.any():
        extra, _ = ndimage.label(missed)
        regions[missed] = extra[missed] + regions.max(initial=0)
    return regions.astype(np.int32, copy=False)


def _relabel(regions: np.ndarray, becomes: np.ndarray) -> np.ndarray:
    """Apply a map of labels and close the ranks: labels 1, 2, ... and 0."""
    table = np.zeros(len(becomes), np.int32)
    table[1:] = np.unique(becomes[1:], return_inverse=True)[1] + 1
    return table[regions]
