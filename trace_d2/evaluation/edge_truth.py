"""True edges: boundaries between segments of a panoptic map, one pixel wide."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from trace_d2.io.coco_panoptic import VOID

from .edge_thinning import thin

VOID_BOUNDARIES = ("count", "ignore")
"""Boundaries of segments against void: they are truth; or void bounds nothing."""

TRUTH_KINDS = {
    "panoptic": "boundaries of all segments",
    "things": "outlines of thing instances",
}
"""What is truth, with its name in reports."""


def truth_boundaries(
    segment_ids: np.ndarray,
    void: str = "count",
    kind: str = "panoptic",
    things: Collection[int] | None = None,
) -> np.ndarray:
    """Boundaries between segments, thinned to lines one pixel wide.

    A pixel is on a boundary where its right or lower neighbour is of another segment, as in the
    oracle edges. The frame of the image is no boundary.

    Args:
        segment_ids: (H, W) integers, 0 = void.
        void: ``"count"``: a boundary against void is one, as the segment does end there; only what
            lies behind it is unknown. In COCO, two fifths of all boundaries are of that kind.
            ``"ignore"``: only boundaries between two segments are truth, and edges found
            elsewhere, those of segments against void too, count as false.
        kind: ``"panoptic"``: all segments have boundaries. ``"things"``: only instances have, each
            against whatever lies beside it; where neither side is an instance, as between two
            segments of stuff, there is no truth, and edges found there count as false.
        things: ids of the instances, which ``kind`` ``"things"`` needs and the other does not
            look at.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: ``segment_ids`` is not (H, W) of integers, ``void`` or ``kind`` is unknown, or
            ``things`` is missing.
    """
    if segment_ids.ndim != 2 or segment_ids.dtype.kind not in "iu":
        raise ValueError(
            f"segment ids are (H, W) integers, not {segment_ids.dtype} of {segment_ids.shape}"
        )
    if void not in VOID_BOUNDARIES:
        raise ValueError(f"void={void!r}; choose one of {', '.join(VOID_BOUNDARIES)}")
    bounded = _bounded(segment_ids, kind, things)
    boundary = np.zeros(segment_ids.shape, bool)
    for here, there in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
    ):
        differs = segment_ids[here] != segment_ids[there]
        if void == "ignore":
            differs &= (segment_ids[here] != VOID) & (segment_ids[there] != VOID)
        boundary[here] |= differs & (bounded[here] | bounded[there])
    return thin(boundary)


def thing_instances(segments: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    """Ids of the things among ``{id, isthing[, iscrowd]}``; a crowd region is no instance."""
    return frozenset(s["id"] for s in segments if s["isthing"] and not s.get("iscrowd", 0))


def _bounded(segment_ids: np.ndarray, kind: str, things: Collection[int] | None) -> np.ndarray:
    """(H, W) bool: pixels of the segments whose boundaries are truth."""
    if kind not in TRUTH_KINDS:
        raise ValueError(f"kind={kind!r}; choose one of {', '.join(TRUTH_KINDS)}")
    if kind == "panoptic":
        return segment_ids != VOID
    if things is None:
        raise ValueError('kind="things" needs the ids of the instances: give things')
    return np.isin(segment_ids, list(things))
