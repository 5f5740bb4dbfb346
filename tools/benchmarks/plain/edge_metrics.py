"""Edge counts the plain way: scikit-image's thinning and SciPy's matching at every threshold."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree
from skimage.morphology import thin


def edge_counts_plainly(
    edges: np.ndarray, truth: np.ndarray, thresholds: np.ndarray, max_distance: float
) -> np.ndarray:
    """Matched, predicted, predicted in the widened truth, truth in the widened prediction.

    Args:
        edges: (H, W) float32 in 0..1.
        truth: (H, W) bool, one pixel wide.
        thresholds: (T,).
        max_distance: share of the diagonal, of matching and of clDice.

    Returns:
        (4, T) int64.
    """
    radius = max_distance * math.hypot(*truth.shape)
    counts = np.zeros((4, len(thresholds)), np.int64)
    for k, threshold in enumerate(thresholds.astype(np.float32)):
        mask = edges >= threshold
        skeleton = thin(mask)
        counts[:, k] = (
            matching_size(skeleton, truth, radius),
            skeleton.sum(),
            (skeleton & widen(truth, radius)).sum(),
            (truth & widen(mask, radius)).sum(),
        )
    return counts


def matching_size(predicted: np.ndarray, truth: np.ndarray, radius: float) -> int:
    """Size of a maximum matching of the pixels of two maps (H, W) bool within ``radius``."""
    points = [np.argwhere(mask) for mask in (predicted, truth)]
    if not all(map(len, points)):
        return 0
    trees = [cKDTree(some) for some in points]
    pairs = trees[0].query_ball_tree(trees[1], radius + 1e-9)
    rows = np.repeat(np.arange(len(pairs)), [len(some) for some in pairs])
    columns = np.concatenate([np.array(some, np.int64) for some in pairs])
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), [len(some) for some in points])
    return int((maximum_bipartite_matching(graph.tocsr()) >= 0).sum())


def widen(mask: np.ndarray, radius: float) -> np.ndarray:
    """Pixels at most ``radius`` away from ``mask``, (H, W) bool."""
    if not mask.any():
        return np.zeros_like(mask)
    return distance_transform_edt(~mask) <= radius + 1e-9
