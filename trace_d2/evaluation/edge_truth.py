"""True edges: the boundaries between the segments of a panoptic map, one pixel wide."""

from __future__ import annotations

import numpy as np

from trace_d2.formats.coco_panoptic import VOID

from .edge_thinning import thin

VOID_BOUNDARIES = ("count", "ignore")
"""Boundaries of segments against void: they are truth; or void bounds nothing."""


def truth_boundaries(segment_ids: np.ndarray, void: str = "count") -> np.ndarray:
    """Boundaries between segments, thinned to lines one pixel wide.

    A pixel is on a boundary where its right or lower neighbour is of another segment, as in the
    oracle edges. The frame of the image is no boundary.

    Args:
        segment_ids: (H, W) integers, 0 = void.
        void: ``"count"``: a boundary against void is one, as the segment does end there; only what
            lies behind it is unknown. In COCO, two fifths of all boundaries are of that kind.
            ``"ignore"``: only boundaries between two segments are truth, and edges found
            elsewhere, those of segments against void too, count as false.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: ``segment_ids`` is not (H, W) of integers, or ``void`` is unknown.
    """
    if segment_ids.ndim != 2 or segment_ids.dtype.kind not in "iu":
        raise ValueError(
            f"segment ids are (H, W) integers, not {segment_ids.dtype} of {segment_ids.shape}"
        )
    if void not in VOID_BOUNDARIES:
        raise ValueError(f"void={void!r}; choose one of {', '.join(VOID_BOUNDARIES)}")
    boundary = np.zeros(segment_ids.shape, bool)
    for here, there, target in (
        (segment_ids[:, :-1], segment_ids[:, 1:], boundary[:, :-1]),
        (segment_ids[:-1], segment_ids[1:], boundary[:-1]),
    ):
        differs = here != there
        if void == "ignore":
            differs &= (here != VOID) & (there != VOID)
        target |= differs
    return thin(boundary)
