"""Boundary-guided propagation: masks and instance edges to instances.

1. Each mask is cut into pieces: the connected components that edges leave of it, or basins.
2. Each piece walks at random over a coarse grid until edges stop it. Basins hold every pixel of
   their mask already, so that they walk only where they may leave it.
3. Pieces whose walks cover the same pixels (IoU above the threshold) are one instance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from trace_d2.propagation.affinity import check_edges
from trace_d2.propagation.calibration import EdgeCalibration, calibrate_on_masks
from trace_d2.propagation.components import cut_components
from trace_d2.propagation.grid import pool_edges, pool_labels, upsample
from trace_d2.propagation.merging import check_masks, merge_groups
from trace_d2.propagation.pieces import settle_tiny_pieces
from trace_d2.propagation.random_walk import RandomWalk
from trace_d2.propagation.regions import cut_basins

CUTS = ("basins", "components")
"""How a mask is cut along edges."""

# Log-odds that a border in a mask that merges objects of any class has on top of one in a class.
_MERGED = 0.8

# Pieces walked at once: bounds the memory of an image with thousands of pieces.
_PIECES_A_WALK = 32


@dataclass(frozen=True)
class PropagatedInstances:
    """What BGP makes of the masks of one image.

    Attributes:
        masks: (N, H, W) bool; none is empty and no two have an IoU above the merging threshold.
        scores: (N,) float32, the highest score of the masks that went into each.
        sources: (N,) int64, the first of the given masks that went into each.
    """

    masks: np.ndarray
    scores: np.ndarray
    sources: np.ndarray


# A bool mask (H, W) to the labels (H, W) of its pieces, 1..count, and their number.
_Cut = Callable[[np.ndarray], tuple[np.ndarray, int]]


@dataclass
class _Piece:
    source: int
    pixels: np.ndarray  # flat indices of the pixels that are its own
    reach: np.ndarray  # flat indices of the pixels that its walk covers


class BoundaryGuidedPropagation:
    """Cut masks by edges, propagate the pieces and merge them (BGP).

    Args:
        cut: ``components``: what edges leave connected, as the paper does, which leaks through a
            gap of one pixel. ``basins``: basins between edges, merged where a border between them
            is unlikely; with ``grow`` off they do not walk, so that no gap can join them again.
        neck_depth: of the basins, see ``MODEL.TRACE.BGP.NECK_DEPTH``.
        radius: neighbours on the walk's grid are closer than this, in cells.
        beta: exponent of the affinities.
        steps: steps of the walk.
        stride: side of a cell in pixels.
        merge_iou: masks with a higher IoU are merged.
        irnet_padding: see `trace_d2.propagation.random_walk.random_walk`; changes no result.
        reach: a piece covers the pixels where its walk has at least this share of its maximum.
        min_area: pieces of fewer pixels are left out; their pixels join a neighbour.
        grow: False keeps each instance inside the masks it came from and gives every pixel of a
            mask to exactly one of its instances (semantic masks). True lets an instance spread to
            the edges around it (coarse masks of unsupervised segmentation).
        threads: threads of the walk.
        calibration: what the strengths of the edges mean, for basins; None: measured anew on the
            masks of each image.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        cut: str = "components",
        neck_depth: float = 2.0,
        radius: int = 5,
        beta: float = 10.0,
        steps: int = 256,
        stride: int = 4,
        merge_iou: float = 0.5,
        irnet_padding: bool = False,
        reach: float = 0.5,
        min_area: int = 16,
        grow: bool = False,
        threads: int = 1,
        calibration: EdgeCalibration | None = None,
    ) -> None:
        if cut not in CUTS:
            raise ValueError(f"MODEL.TRACE.BGP.CUT must be one of {', '.join(CUTS)}, not {cut!r}")
        if stride < 1:
            raise ValueError(f"stride must be at least 1 pixel, not {stride}")
        if not 0 < reach <= 1:
            raise ValueError(f"reach must lie in (0, 1], not {reach}")
        if not 0 <= merge_iou <= 1:
            raise ValueError(f"merge_iou must lie in 0..1, not {merge_iou}")
        self.cut = cut
        self.neck_depth = neck_depth
        self.radius = radius
        self.beta = beta
        self.steps = steps
        self.stride = stride
        self.merge_iou = merge_iou
        self.irnet_padding = irnet_padding
        self.reach = reach
        self.min_area = min_area
        self.grow = grow
        self.threads = threads
        self.calibration = calibration
        # A wrong option of the walk fails here rather than at some image.
        self._walk(np.zeros((1, 1), np.float32))

    @classmethod
    def from_config(
        cls, cfg: Any, calibration: EdgeCalibration | None = None
    ) -> BoundaryGuidedPropagation:
        """Build it from the ``MODEL.TRACE.BGP`` keys."""
        bgp = cfg.MODEL.TRACE.BGP
        return cls(
            cut=bgp.CUT,
            neck_depth=bgp.NECK_DEPTH,
            radius=bgp.RADIUS,
            beta=bgp.BETA,
            steps=bgp.STEPS,
            stride=bgp.STRIDE,
            merge_iou=bgp.MERGE_IOU,
            irnet_padding=bgp.IRNET_PADDING,
            reach=bgp.REACH,
            min_area=bgp.MIN_AREA,
            grow=bgp.GROW,
            threads=bgp.THREADS,
            calibration=calibration,
        )

    def __call__(
        self, masks: np.ndarray, edges: np.ndarray, scores: np.ndarray | None = None
    ) -> PropagatedInstances:
        """Instances of the masks of one image.

        Args:
            masks: (K, H, W) bool; they may overlap, an empty one gives no instance.
            edges: (H, W) float, strength in 0..1; above 0.5 is an edge.
            scores: (K,) confidences; 1 for all when left out.

        Raises:
            ValueError: shapes disagree, a dtype is wrong, or a value is NaN or out of range.
        """
        check_edges(edges)
        masks, scores = check_masks(masks, scores)
        if masks.shape[1:] != edges.shape:
            raise ValueError(f"masks {masks.shape} and edges {edges.shape} differ in size")
        shape = (edges.shape[0], edges.shape[1])
        walker = _GridWalk(lambda: self._walk(edges), shape, self.stride)
        cut = self._basins(edges, masks) if self.cut == "basins" else self._components(edges)
        pieces = [
            piece
            for source, mask in enumerate(masks)
            if mask.any()
            for piece in self._pieces(source, mask, *cut(mask), walker)
        ]
        groups = merge_groups([piece.reach for piece in pieces], edges.size, self.merge_iou)
        return self._instances(pieces, groups, scores, edges.shape)

    def _walk(self, edges: np.ndarray) -> RandomWalk:
        return RandomWalk(
            pool_edges(edges, self.stride),
            radius=self.radius,
            beta=self.beta,
            steps=self.steps,
            irnet_padding=self.irnet_padding,
            threads=self.threads,
        )

    def _components(self, edges: np.ndarray) -> _Cut:
        def cut(mask: np.ndarray) -> tuple[np.ndarray, int]:
            labels, count = cut_components(mask, edges, min_area=self.min_area)
            # Where nothing remains beside edges and specks, the mask itself is the one piece.
            return (labels, count) if count else (mask.astype(np.int32), 1)

        return cut

    def _basins(self, edges: np.ndarray, masks: np.ndarray) -> _Cut:
        strength = edges.astype(np.float32, copy=False)
        calibration = self.calibration or calibrate_on_masks(list(masks), strength)
        evidence = calibration(strength)

        def cut(mask: np.ndarray) -> tuple[np.ndarray, int]:
            box = _bounding_box(mask)
            regions = cut_basins(mask[box], evidence.crop(box), self.neck_depth, _MERGED)
            labels = np.zeros(mask.shape, np.int32)
            labels[box] = settle_tiny_pieces(regions, self.min_area, 0.0, "join")
            return labels, int(labels.max())

        return cut

    def _pieces(
        self, source: int, mask: np.ndarray, labels: np.ndarray, count: int, walker: _GridWalk
    ) -> list[_Piece]:
        """Walk the pieces 1..count of a mask, and give each pixel of the mask to one of them."""
        if not self.grow and (count == 1 or self.cut == "basins"):
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
        covered = score >= self.reach * top if top > 0 else np.zeros_like(piece)
        if not self.grow:
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
            _union([part.reach if self.grow else part.pixels for part in own]) for own in parts
        ]
        # Unions of whole pieces may meet where their walks did not: merge until nothing changes.
        merged = merge_groups(members, shape[0] * shape[1], self.merge_iou)
        count = int(merged.max(initial=-1)) + 1
        masks = np.zeros((count, *shape), bool)
        best = np.full(count, -np.inf, np.float32)
        sources = np.full(count, len(scores), np.int64)
        for own, pixels, group in zip(parts, members, merged, strict=True):
            masks[group].ravel()[pixels] = True
            first = [part.source for part in own]
            best[group] = max(best[group], scores[first].max())
            sources[group] = min(sources[group], *first)
        return PropagatedInstances(masks, best, sources)


def boundary_guided_propagation(
    masks: np.ndarray, edges: np.ndarray, scores: np.ndarray | None = None, **options: Any
) -> PropagatedInstances:
    """`BoundaryGuidedPropagation` with ``options`` on one image; see there."""
    return BoundaryGuidedPropagation(**options)(masks, edges, scores)


class _GridWalk:
    """Walks pieces given by a label map on the coarse grid of one image."""

    def __init__(self, walk: Callable[[], RandomWalk], shape: tuple[int, int], stride: int) -> None:
        self._make = walk
        self._walk: RandomWalk | None = None
        self._shape = shape
        self._stride = stride

    def __call__(self, labels: np.ndarray, count: int) -> Iterator[np.ndarray]:
        """Yield the (H, W) float32 score of each piece 1..count of (H, W) ``labels``."""
        if self._walk is None:
            # Only now: most images of one mask an object need no walk at all.
            self._walk = self._make()
        for start in range(0, count, _PIECES_A_WALK):
            stop = min(start + _PIECES_A_WALK, count)
            part = np.where((labels > start) & (labels <= stop), labels - start, 0)
            for score in self._walk(pool_labels(part, stop - start, self._stride)):
                yield upsample(score, self._shape, self._stride)


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
