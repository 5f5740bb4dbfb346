"""Connected components of a mask that an edge map does not cut (BGP, first step)."""

from __future__ import annotations

import cv2
import numpy as np

# An edge is a strength above this, everywhere in the package.
EDGE_THRESHOLD = 0.5


def cut_components(
    mask: np.ndarray, edges: np.ndarray, *, threshold: float = EDGE_THRESHOLD, min_area: int = 1
) -> tuple[np.ndarray, int]:
    """Label the pieces of ``mask`` that remain when the pixels on an edge are taken out.

    Pixels touch over their sides only (4-connectivity), so that an edge one pixel wide separates
    even where it runs diagonally.

    Args:
        mask: (H, W) bool.
        edges: (H, W) float, strength in 0..1; a pixel above ``threshold`` is an edge.
        threshold: strength that an edge exceeds.
        min_area: pieces of fewer pixels get the label 0.

    Returns:
        labels: (H, W) int32, 0 for every other pixel, pieces counted from 1 in the order in which
            a scan by rows meets them.
        count: number of pieces.

    Raises:
        ValueError: the shapes differ or are not two-dimensional, or ``mask`` is not bool.
    """
    if mask.ndim != 2 or mask.shape != edges.shape:
        raise ValueError(f"mask {mask.shape} and edges {edges.shape} must be one (H, W)")
    if mask.dtype != np.bool_:
        raise ValueError(f"mask must be bool, not {mask.dtype}; threshold it first")
    uncut = mask & ~(edges > threshold)
    total, labels, stats, _ = cv2.connectedComponentsWithStats(
        uncut.view(np.uint8), connectivity=4, ltype=cv2.CV_32S
    )
    if min_area <= 1:
        return labels, total - 1
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area
    keep[0] = False
    renumber = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return renumber[labels], int(keep.sum())
