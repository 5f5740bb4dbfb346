"""Semantic masks and instance edges to pseudo panoptic labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from trace_d2.io.categories import UNKNOWN
from trace_d2.io.edge_maps import check_edges
from trace_d2.io.regions import region_statistics, row_bands
from trace_d2.propagation.calibration import EdgeCalibration, EdgeEvidence, EdgeStatistics
from trace_d2.propagation.grid import REFERENCE_PIXELS, ScaleSettings
from trace_d2.propagation.regions import (
    CUTS,
    TINY_PIECES,
    component_regions,
    cut_basins,
    settle_tiny_pieces,
)
from trace_d2.settings import NodeSettings, one_of, within

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from trace_d2.io.categories import Category


@dataclass(frozen=True)
class LabelSettings(NodeSettings, node="MODEL.TRACE.LABELS"):
    """How the masks of thing classes are cut into segments.

    Attributes:
        cut: how along edges.
        neck_depth: pixels by which a mask narrows where basins part.
        tiny_pieces: what becomes of pieces too small for an object.
        tiny_area: pixels of an image of 640 x 480; it grows with the image's area.
        tiny_share: of the area of the largest segment of the class.
    """

    cut: str = one_of(*CUTS, default="basins")
    neck_depth: float = within(0.0, default=2.0)
    tiny_pieces: str = one_of(*TINY_PIECES, default="join")
    tiny_area: float = within(0.0, default=40.0)
    tiny_share: float = within(0.0, 1.0, default=0.05)


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic label.

    Attributes:
        id: its value in ``PanopticLabel.segment_ids``, from 1.
        category_id: its category.
        isthing: whether the category is a thing (one object a segment) or stuff.
        area: pixels.
        bbox: x, y, width, height in pixels.
    """

    id: int
    category_id: int
    isthing: bool
    area: int
    bbox: tuple[int, int, int, int]


@dataclass(frozen=True)
class PanopticLabel:
    """A panoptic label.

    Attributes:
        segment_ids: int32 (H, W), 0 = void.
        segments: by rising id.
    """

    segment_ids: np.ndarray
    segments: list[Segment]


class PanopticLabeler:
    """Turns a semantic mask and instance edges into a ``PanopticLabel``.

    Every pixel of a known class gets exactly one segment (unless tiny pieces are to become void),
    a stuff class is one segment, a thing segment never crosses a class, and unknown pixels stay
    void. Segments are numbered by category id, then by their first pixel in reading order.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        settings: LabelSettings | None = None,
        calibration: EdgeCalibration | None = None,
        scale: float = 0.0,
    ) -> None:
        """Set up.

        Args:
            categories: of the semantic masks.
            settings: how masks are cut; None: the defaults.
            calibration: what the strengths of the edges mean, for basins; None: measured anew on
                each image, which knows less than a data set.
            scale: of what edges are measured against, see ``EdgeStatistics.add``.
        """
        self.isthing = {category.id: bool(category.isthing) for category in categories}
        self.settings = settings or LabelSettings()
        self.calibration = calibration
        self.scale = scale

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        categories: Sequence[Category],
        calibration: EdgeCalibration | None = None,
    ) -> PanopticLabeler:
        """A labeler for ``categories`` with the settings of ``cfg.MODEL.TRACE.LABELS``."""
        scale = ScaleSettings.from_config(cfg).scale
        return cls(categories, LabelSettings.from_config(cfg), calibration, scale)

    def __call__(self, semantic: np.ndarray, edges: np.ndarray | None = None) -> PanopticLabel:
        """Label an image.

        Args:
            semantic: uint8 (H, W) category ids, 255 = unknown.
            edges: float (H, W) edge strength in 0..1; ``None``: no edges, so that every connected
                component of a thing class is a segment.

        Raises:
            ValueError: wrong dtype or shape, an id that the categories lack, edges that are not
                finite or not in 0..1.
        """
        check_semantic(semantic, self.isthing)
        if edges is not None:
            edges = check_edges(edges, "the edge map")
            if edges.shape != semantic.shape:
                raise ValueError(
                    f"edges of shape {edges.shape} do not fit a semantic mask of {semantic.shape}: "
                    "resize them to the image"
                )
            edges = None if of_one_strength(edges) else edges
        evidence = self._evidence(semantic, edges)
        segment_ids = np.zeros(semantic.shape, np.int32)
        categories: list[int] = []
        for category, box in _present(semantic):
            mask = semantic[box] == category
            if self.isthing[category]:
                regions = self._cut(mask, box, edges, evidence)
                regions = _in_reading_order(self._settle(regions, semantic.size))
            else:
                regions = mask.astype(np.int32)
            np.add(regions, len(categories), out=segment_ids[box], where=regions > 0)
            categories.extend([category] * int(regions.max()))
            del regions  # ahead of the flood of the next mask
        return PanopticLabel(segment_ids, self._segments(segment_ids, categories))

    def _segments(self, segment_ids: np.ndarray, categories: Sequence[int]) -> list[Segment]:
        """Segment ``i + 1`` of the map has ``categories[i]``."""
        columns = (column.tolist() for column in region_statistics(segment_ids))
        return [
            Segment(
                label, categories[label - 1], self.isthing[categories[label - 1]], area, tuple(box)
            )
            for label, area, box in zip(*columns, strict=True)
            if label
        ]

    def cut_stuff(self, semantic: np.ndarray, edges: np.ndarray | None) -> tuple[int, int]:
        """Cut stuff as if it were things: masks and the false pieces that edges add to them.

        Args:
            semantic: uint8 (H, W).
            edges: float32 (H, W) in 0..1.
        """
        evidence = self._evidence(semantic, edges)
        masks = pieces = 0
        for category, box in _present(semantic):
            if self.isthing[category]:
                continue
            mask = semantic[box] == category
            # Numbers, not maps: the flood of a large mask takes what memory there is.
            whole = int(self._settle(ndimage.label(mask)[0], semantic.size).max())
            cut = int(self._settle(self._cut(mask, box, edges, evidence), semantic.size).max())
            masks += whole
            pieces += max(0, cut - whole)
        return masks, pieces

    def count_edges(
        self, statistics: EdgeStatistics, semantic: np.ndarray, edges: np.ndarray
    ) -> None:
        """Count the edges float32 (H, W) of one image, for its calibration."""
        statistics.add_semantic(semantic, self.isthing, edges, self.scale)

    def _evidence(self, semantic: np.ndarray, edges: np.ndarray | None) -> EdgeEvidence | None:
        """What the edges of an image say; None where none are looked at."""
        if edges is None or self.settings.cut == "components":
            return None
        calibration = self.calibration
        if calibration is None:
            statistics = EdgeStatistics()
            self.count_edges(statistics, semantic, edges)
            calibration = statistics.calibrate()
        return calibration(edges, self.scale)

    def _cut(
        self,
        mask: np.ndarray,
        box: tuple[slice, slice],
        edges: np.ndarray | None,
        evidence: EdgeEvidence | None,
    ) -> np.ndarray:
        if evidence is None:
            return component_regions(mask, None if edges is None else edges[box])
        return cut_basins(mask, evidence.crop(box), self.settings.neck_depth)

    def _settle(self, regions: np.ndarray, pixels: int) -> np.ndarray:
        own = self.settings
        tiny_area = own.tiny_area * pixels / REFERENCE_PIXELS
        return settle_tiny_pieces(regions, tiny_area, own.tiny_share, own.tiny_pieces)


def check_semantic(semantic: np.ndarray, ids: Collection[int]) -> None:
    """Raise a ValueError unless ``semantic`` is uint8 (H, W) of category ``ids`` and 255."""
    if semantic.dtype != np.uint8 or semantic.ndim != 2 or semantic.size == 0:
        raise ValueError(
            f"the semantic mask must be uint8 of shape (H, W), not {semantic.dtype} "
            f"{semantic.shape}: save it as an 8-bit grey or palette PNG"
        )
    missing = np.setdiff1d(semantic, [UNKNOWN, *ids]).tolist()
    if missing:
        raise ValueError(
            f"the semantic mask has values {missing} that no category has: add them to the "
            f"categories, or write {UNKNOWN} where the class is unknown"
        )


def of_one_strength(edges: np.ndarray) -> bool:
    """Whether edges are everywhere as strong: they say nothing, and labels do without them."""
    return bool(edges.min() == edges.max())


def _present(semantic: np.ndarray) -> list[tuple[int, tuple[slice, slice]]]:
    """Known categories of a semantic mask, by rising id, and the box that holds each."""
    boxes = ndimage.find_objects(semantic + np.uint8(1))  # of which 255 becomes 0, no object
    return [(category, box) for category, box in enumerate(boxes) if box is not None]


def _in_reading_order(regions: np.ndarray) -> np.ndarray:
    """Number labels 1.. by their first pixel."""
    first = np.full(int(regions.max()) + 1, regions.size, np.int64)
    for rows in row_bands(regions.shape):
        band = regions[rows].ravel()
        inside = np.flatnonzero(band)
        np.minimum.at(first, band[inside], inside + rows.start * regions.shape[1])
    table = np.zeros(len(first), np.int32)
    table[1 + np.argsort(first[1:], kind="stable")] = np.arange(1, len(first))
    return table[regions]
