"""Boundary-guided propagation: masks and instance edges to instances.

1. Each mask is cut into pieces: the connected components that edges leave of it, or basins.
2. Each piece walks at random over a coarse grid until edges stop it. Basins hold every pixel of
   their mask already, so that they walk only where they may leave it.
3. Pieces whose walks cover the same pixels (IoU above the threshold) are one instance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from scipy import ndimage

from trace_d2.propagation.calibration import EdgeCalibration, EdgeStatistics
from trace_d2.propagation.grid import (
    REFERENCE_PIXELS,
    ScaleSettings,
    check_edges,
    pool,
    pool_labels,
    upsample,
)
from trace_d2.propagation.merging import (
    PropagatedInstances,
    check_masks,
    merge_groups,
    unite,
)
from trace_d2.propagation.regions import (
    CUTS,
    cut_basins,
    cut_components,
    settle_tiny_pieces,
)
from trace_d2.settings import NodeSettings, one_of, within

if TYPE_CHECKING:
    from trace_d2.propagation.walk import RandomWalk

# Log-odds that a border in a mask that merges objects of any class has on top of one in a class.
_MERGED = 0.8

# Pieces walked at once: bounds the memory of an image with thousands of pieces.
_PIECES_A_WALK = 32


# A bool mask (H, W) to the labels (H, W) of its pieces, 1..count, and their number.
_Cut = Callable[[np.ndarray], tuple[np.ndarray, int]]


@dataclass
class _Piece:
    source: int
    pixels: np.ndarray  # flat indices of the pixels that are its own
    reach: np.ndarray  # flat indices of the pixels that its walk covers


@dataclass(frozen=True)
class BgpSettings(NodeSettings, node="MODEL.TRACE.BGP"):
    """How masks are cut, propagated and merged; ``config`` says what the keys mean.

    ``cut`` is ``components``, what edges leave connected, as the paper does, which leaks through a
    gap of one pixel; or ``basins``, basins between edges, merged where a border between them is
    unlikely. With ``grow`` off basins do not walk, so that no gap can join them again, instances
    stay inside the masks they came from, and every pixel of a mask goes to exactly one of its
    instances (semantic masks). With it an instance may spread to the edges around it (coarse masks
    of unsupervised segmentation).
    """

    cut: str = one_of(*CUTS, default="basins")
    neck_depth: float = within(0.0, default=2.0)
    radius: int = within(2, default=5)
    beta: float = within(1e-6, default=10.0)
    steps: int = within(0, default=256)
    stride: int = within(1, default=4)
    merge_iou: float = within(0.0, 1.0, default=0.5)
    reach: float = within(1e-6, 1.0, default=0.5)
    min_area: int = within(0, default=64)
    grow: bool = False
    threads: int = within(1, default=1)


class BoundaryGuidedPropagation:
    """Cut masks by edges, propagate the pieces and merge them (BGP).

    Args:
        settings: how; None: the defaults.
        calibration: what the strengths of the edges mean, for basins; None: measured anew on the
            masks of each image.
        scale: of what edges are measured against, see ``EdgeStatistics.add``.
    """

    def __init__(
        self,
        settings: BgpSettings | None = None,
        calibration: EdgeCalibration | None = None,
        scale: float = 0.0,
    ) -> None:
        self.settings = settings or BgpSettings()
        self.calibration = calibration
        self.scale = scale

    @classmethod
    def from_config(
        cls, cfg: Any, calibration: EdgeCalibration | None = None
    ) -> BoundaryGuidedPropagation:
        """Build it from the ``MODEL.TRACE.BGP`` keys."""
        scale = ScaleSettings.from_config(cfg).scale
        return cls(BgpSettings.from_config(cfg), calibration, scale)

    def __call__(
        self, masks: np.ndarray, edges: np.ndarray, scores: np.ndarray | None = None
    ) -> PropagatedInstances:
        """Instances of the masks of one image.

        Args:
            masks: (K, H, W) bool; they may overlap, an empty one gives no instance.
            edges: (H, W) float, strength in 0..1; above 0.5 is an edge.
            scores: (K,) confidences; 1 for all when left out.
        """
        check_edges(edges)
        masks, scores = check_masks(masks, scores)
        if masks.shape[1:] != edges.shape:
            raise ValueError(f"masks {masks.shape} and edges {edges.shape} differ in size")
        walker = _GridWalk(edges, self.settings)
        basins = self.settings.cut == "basins"
        cut = self._basins(edges, masks) if basins else self._components(edges)
        pieces = [
            piece
            for source, mask in enumerate(masks)
            if mask.any()
            for piece in self._pieces(source, mask, *cut(mask), walker)
        ]
        reaches = [piece.reach for piece in pieces]
        groups = merge_groups(reaches, edges.size, self.settings.merge_iou)
        return self._instances(pieces, groups, scores, edges.shape)

    def _sliver(self, edges: np.ndarray) -> int:
        """Pixels below which a piece is a sliver in an image of this size."""
        return round(self.settings.min_area * max(1.0, edges.size / REFERENCE_PIXELS))

    def _components(self, edges: np.ndarray) -> _Cut:
        sliver = self._sliver(edges)

        def cut(mask: np.ndarray) -> tuple[np.ndarray, int]:
            labels, count = cut_components(mask, edges, min_area=sliver)
            # Where nothing remains beside edges and specks, the mask itself is the one piece.
            return (labels, count) if count else (mask.astype(np.int32), 1)

        return cut

    def _basins(self, edges: np.ndarray, masks: np.ndarray) -> _Cut:
        strength = edges.astype(np.float32, copy=False)
        sliver = self._sliver(edges)
        calibration = self.calibration
        if calibration is None:
            statistics = EdgeStatistics()
            statistics.add_masks(masks, strength, self.scale)
            calibration = statistics.calibrate()
        evidence = calibration(strength, self.scale)

        def cut(mask: np.ndarray) -> tuple[np.ndarray, int]:
            box = _bounding_box(mask)
            regions = cut_basins(mask[box], evidence.crop(box), self.settings.neck_depth, _MERGED)
            labels = np.zeros(mask.shape, np.int32)
            labels[box] = settle_tiny_pieces(regions, sliver, 0.0, "join")
            return labels, int(labels.max())

        return cut

    def _pieces(
        self, source: int, mask: np.ndarray, labels: np.ndarray, count: int, walker: _GridWalk
    ) -> list[_Piece]:
        """Walk the pieces 1..count of a mask, and give each pixel of the mask to one of them."""
        if not self.settings.grow and (count == 1 or self.settings.cut == "basins"):
            owners = mask.ravel().astype(np.int32) if count == 1 else labels.ravel()
            return [_Piece(source, pixels, pixels) for pixels in _pixels_of(owners, count)]
        cut = np.flatnonzero(mask.ravel() & (labels.ravel() == 0))
        best = np.zeros(len(cut), np.float32)
        owner = np.zeros(len(cut), np.int32)
        reaches = []
        for label, score in enumerate(walker(labels, count), start=1):
            reaches.append(self._reach(score, labels == label, mask))
            at_cut = score.ravel()[cut]
            owner[at_cut > best] = label
            np.maximum(best, at_cut, out=best)
        owners = labels.ravel().copy()
        owners[cut] = owner
        if not owner.all():
            owners[cut] = np.where(owner > 0, owner, _nearest(labels).ravel()[cut])
        return [
            _Piece(source, pixels, reach)
            for pixels, reach in zip(_pixels_of(owners, count), reaches, strict=True)
        ]

    def _reach(self, score: np.ndarray, piece: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Flat pixels where the walk of a piece has its share of its maximum, and the piece."""
        top = score.max()
        covered = score >= self.settings.reach * top if top > 0 else np.zeros_like(piece)
        if not self.settings.grow:
            covered &= mask
        return np.flatnonzero(covered | piece)

    def _instances(
        self,
        pieces: list[_Piece],
        groups: np.ndarray,
        scores: np.ndarray,
        shape: tuple[int, ...],
    ) -> PropagatedInstances:
        parts: list[list[_Piece]] = [[] for _ in range(int(groups.max(initial=-1)) + 1)]
        for piece, group in zip(pieces, groups, strict=True):
            parts[group].append(piece)
        members = [
            _union([part.reach if self.settings.grow else part.pixels for part in own])
            for own in parts
        ]
        # Unions of whole pieces may meet where their walks did not: merge until nothing changes.
        merged = merge_groups(members, shape[0] * shape[1], self.settings.merge_iou)
        sources = [[part.source for part in own] for own in parts]
        best = [scores[own].max() for own in sources]
        return unite(members, merged, best, [min(own) for own in sources], shape)


def boundary_guided_propagation(
    masks: np.ndarray,
    edges: np.ndarray,
    scores: np.ndarray | None = None,
    *,
    cut: str = "components",
    calibration: EdgeCalibration | None = None,
    **options: Any,
) -> PropagatedInstances:
    """`BoundaryGuidedPropagation` of one image, with the paper's cut where no other is asked for.

    ``options`` are further fields of ``BgpSettings``.
    """
    settings = BgpSettings(cut=cut, **options)
    return BoundaryGuidedPropagation(settings, calibration)(masks, edges, scores)


class _GridWalk:
    """Walks pieces given by a label map on the coarse grid of one image."""

    def __init__(self, edges: np.ndarray, settings: BgpSettings) -> None:
        self._edges = edges
        self._settings = settings

    @cached_property
    def _walk(self) -> RandomWalk:
        # Only now: most images of one mask an object need no walk at all, nor Numba.
        from trace_d2.propagation.walk import RandomWalk

        settings = self._settings
        return RandomWalk(
            pool(self._edges, settings.stride),
            radius=settings.radius,
            beta=settings.beta,
            steps=settings.steps,
            threads=settings.threads,
        )

    def __call__(self, labels: np.ndarray, count: int) -> Iterator[np.ndarray]:
        """Yield the (H, W) float32 score of each piece 1..count of (H, W) ``labels``."""
        stride, (height, width) = self._settings.stride, self._edges.shape
        for start in range(0, count, _PIECES_A_WALK):
            stop = min(start + _PIECES_A_WALK, count)
            part = np.where((labels > start) & (labels <= stop), labels - start, 0)
            for score in self._walk(pool_labels(part, stop - start, stride)):
                yield upsample(score, (height, width), stride)


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest box that holds a mask which is not empty."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return slice(top, top + height), slice(left, left + width)


def _pixels_of(owners: np.ndarray, count: int) -> list[np.ndarray]:
    """Sorted flat indices of the pixels of each label 1..count of a flat label map."""
    inside = np.flatnonzero(owners)
    inside = inside[np.argsort(owners[inside], kind="stable")]
    ends = np.cumsum(np.bincount(owners[inside], minlength=count + 1))
    return [inside[ends[k] : ends[k + 1]] for k in range(count)]


def _union(parts: list[np.ndarray]) -> np.ndarray:
    """Sorted flat indices that are in any of the parts."""
    return parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))


def _nearest(labels: np.ndarray) -> np.ndarray:
    """Label of the nearest labelled pixel, for every pixel."""
    at = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return labels[tuple(at)]
