"""Boundary-guided propagation: masks and instance edges to instances.

1. Each mask is cut into the connected pieces that edges leave of it.
2. Each piece walks at random over a coarse grid until edges stop it.
3. Pieces whose walks cover the same pixels (IoU above the threshold) are one instance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from trace_d2.propagation.affinity import check_edges
from trace_d2.propagation.components import cut_components
from trace_d2.propagation.grid import pool_edges, pool_labels, upsample
from trace_d2.propagation.merging import check_masks, merge_groups, merge_masks
from trace_d2.propagation.random_walk import RandomWalk

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


@dataclass
class _Piece:
    source: int
    pixels: np.ndarray  # flat indices of the pixels that are its own
    reach: np.ndarray  # flat indices of the pixels that its walk covers


class BoundaryGuidedPropagation:
    """Cut masks by edges, propagate the pieces and merge them (BGP).

    Args:
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

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
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
    ) -> None:
        if stride < 1:
            raise ValueError(f"stride must be at least 1 pixel, not {stride}")
        if not 0 < reach <= 1:
            raise ValueError(f"reach must lie in (0, 1], not {reach}")
        if not 0 <= merge_iou <= 1:
            raise ValueError(f"merge_iou must lie in 0..1, not {merge_iou}")
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
        # A wrong option of the walk fails here rather than at some image.
        self._walk(np.zeros((1, 1), np.float32))

    @classmethod
    def from_config(cls, cfg: Any) -> BoundaryGuidedPropagation:
        """Build it from the ``MODEL.TRACE.BGP`` keys."""
        bgp = cfg.MODEL.TRACE.BGP
        return cls(
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
        pieces = [
            piece
            for source, mask in enumerate(masks)
            if mask.any()
            for piece in self._pieces(source, mask, edges, walker)
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

    def _pieces(
        self, source: int, mask: np.ndarray, edges: np.ndarray, walker: _GridWalk
    ) -> list[_Piece]:
        """Cut one mask, walk its pieces, and give each pixel of the mask to one of them."""
        labels, count = cut_components(mask, edges, min_area=self.min_area)
        if count == 0:
            # Nothing remains beside edges and specks: the mask itself is the one piece.
            labels, count = mask.astype(np.int32), 1
        if count == 1 and not self.grow:
            whole = np.flatnonzero(mask)
            return [_Piece(source, whole, whole)]
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
        # Sorted by owner, so that each piece's pixels are one slice.
        inside = np.flatnonzero(owners)
        inside = inside[np.argsort(owners[inside], kind="stable")]
        ends = np.cumsum(np.bincount(owners[inside], minlength=count + 1))
        return [
            _Piece(source, inside[ends[k] : ends[k + 1]], reach) for k, reach in enumerate(reaches)
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
        count = int(groups.max(initial=-1)) + 1
        masks = np.zeros((count, *shape), bool)
        best = np.full(count, -np.inf, np.float32)
        sources = np.full(count, len(scores), np.int64)
        for piece, group in zip(pieces, groups, strict=True):
            masks[group].ravel()[piece.reach if self.grow else piece.pixels] = True
            best[group] = max(best[group], scores[piece.source])
            sources[group] = min(sources[group], piece.source)
        # Unions of whole pieces may meet where their walks did not: merge until nothing changes.
        merged = merge_masks(masks, best, iou_threshold=self.merge_iou)
        first = np.full(len(merged.masks), len(scores), np.int64)
        np.minimum.at(first, merged.groups, sources)
        return PropagatedInstances(merged.masks, merged.scores, first)


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


def _nearest(labels: np.ndarray) -> np.ndarray:
    """Label of the nearest labelled pixel, for every pixel."""
    at = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return labels[tuple(at)]
