"""ProMerge (Li and Shin, ECCV 2024): what is like seed tokens, pruned and merged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

from .eigen import Graph, normalised_cuts
from .features import TokenFeatures
from .methods import Scored
from .settings import ProMergeSettings


class Proposals(NamedTuple):
    """What the seeds of an image propose.

    Attributes:
        foreground: bool (F, h, w), in the order of their seeds.
        background: bool (h, w), tokens that most background candidates hold; None: there were no
            candidates.
    """

    foreground: np.ndarray
    background: np.ndarray | None


def pro_merge(
    features: TokenFeatures, settings: ProMergeSettings = ProMergeSettings()
) -> Iterator[Scored]:
    """The masks of one image, by the paper's three steps: propose, prune, merge.

    Where there is too little background to prune against, the paper's method gives no masks at
    all; ``need_background`` says whether that is so here. Masks may overlap.

    Yields:
        bool (h, w), and 1 - the normalised cut between the mask and the rest of the image in the
        graph of tokens that are alike (at least 0); the paper scores them all alike.
    """
    h, w = features.grid
    vectors = features.features
    alike = vectors @ vectors.T > settings.tau
    found, background = propose(alike.reshape(h * w, h, w), settings)
    if background is None or background.mean() < settings.min_background:
        if settings.need_background:
            return
        background = np.zeros((h, w), bool)
    means = vectors.double().cpu().numpy()
    masks = merge(prune(found, background, means, settings), means, settings)
    if not masks:
        return
    graph = Graph(alike.double()[None])
    for mask in masks:
        side = torch.from_numpy(mask.ravel()).to(alike.device)
        yield mask, max(0.0, 1 - float(normalised_cuts(graph, side[None])[0]))


def propose(alike: torch.Tensor, settings: ProMergeSettings) -> Proposals:
    """Sort what is like each seed into foreground and background.

    What touches more than ``border_lines`` of the image's four borders, each along at least
    ``border_share`` of it, is a candidate for the background. Of the others each 4-connected part
    that is at least ``component_share`` as large as the seed's own is a foreground mask.

    Args:
        alike: bool (N, h, w), for each token which others are like it.
    """
    h, w = alike.shape[1:]
    rows, columns = np.mgrid[0 : h : settings.stride, 0 : w : settings.stride].reshape(2, -1)
    masks = alike[torch.from_numpy(rows * w + columns).to(alike.device)].cpu().numpy()
    lines = (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1])
    covered = sum((line.mean(-1) >= settings.border_share).astype(int) for line in lines)
    behind = np.asarray(covered) > settings.border_lines
    parts = [
        part
        for mask, row, column in zip(masks[~behind], rows[~behind], columns[~behind], strict=True)
        for part in _parts(mask, mask[row, column] and (row, column), settings)
    ]
    foreground = np.array(parts, bool).reshape(-1, h, w)
    if not behind.any():
        return Proposals(foreground, None)
    return Proposals(foreground, masks[behind].mean(0) > settings.background_votes)


def _parts(
    mask: np.ndarray, seed: tuple[int, int] | bool, settings: ProMergeSettings
) -> list[np.ndarray]:
    """The 4-connected parts that are large enough; none of a seed that is not like itself."""
    if not seed:
        return []
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    least = settings.component_share * sizes[labels[seed]]
    return [labels == one for one in range(1, len(sizes)) if sizes[one] >= least]


def prune(
    masks: np.ndarray, background: np.ndarray, vectors: np.ndarray, settings: ProMergeSettings
) -> list[np.ndarray]:
    """The masks, from the smallest on, that add something which is not background.

    Of the tokens that a mask adds to those kept before it, less than ``max_background_share`` are
    of the background (one that adds none is left out), and the mean vector of the whole mask times
    that of the background is below ``max_background_similarity``.

    Args:
        masks: bool (F, h, w).
        background: bool (h, w).
        vectors: (N, D) of length 1.
    """
    flat = masks.reshape(len(masks), background.size)
    sizes = flat.sum(1)
    likeness = _mean(flat, vectors) @ _mean(background.reshape(1, -1), vectors)[0]
    covered, kept = np.zeros_like(background), []
    for rank in np.argsort(sizes, kind="stable"):
        new = masks[rank] & ~covered
        count = np.count_nonzero(new)
        if not count or likeness[rank] >= settings.max_background_similarity:
            continue
        if np.count_nonzero(new & background) / count < settings.max_background_share:
            kept.append(masks[rank])
            covered |= masks[rank]
    return kept


def merge(
    masks: list[np.ndarray], vectors: np.ndarray, settings: ProMergeSettings
) -> list[np.ndarray]:
    """Masks joined, from the largest on, with all of the clusters before them that they fit.

    They fit where more than ``overlap`` of the mask lies in the cluster, or more than
    ``similar_overlap`` and the product of their mean vectors is at least ``similarity``. The mask
    and all clusters that it fits become one, so that the order of clusters does not matter.

    Returns:
        bool (h, w) each, in the order of their largest masks.
    """
    clusters: list[_Cluster] = []
    for mask in sorted(masks, key=lambda one: -np.count_nonzero(one)):
        own = _Cluster.of(mask, vectors)
        joined = [cluster.takes(own, settings) for cluster in clusters]
        whole = [own.mask, *(c.mask for c, joins in zip(clusters, joined, strict=True) if joins)]
        place = joined.index(True) if True in joined else len(clusters)
        clusters = [c for c, joins in zip(clusters, joined, strict=True) if not joins]
        clusters.insert(place, _Cluster.of(np.any(whole, axis=0), vectors))
    return [cluster.mask for cluster in clusters]


class _Cluster(NamedTuple):
    """A mask bool (h, w), and the mean vector (D,) of its tokens."""

    mask: np.ndarray
    mean: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, vectors: np.ndarray) -> _Cluster:
        return cls(mask, _mean(mask.reshape(1, -1), vectors)[0])

    def takes(self, other: _Cluster, settings: ProMergeSettings) -> bool:
        """Whether a smaller mask fits; see ``merge``."""
        both = int(np.count_nonzero(self.mask & other.mask))
        share = both / int(np.count_nonzero(other.mask))
        if share > settings.overlap:
            return True
        alike = bool(self.mean @ other.mean >= settings.similarity)
        return alike and share > settings.similar_overlap


def _mean(masks: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(M, D) mean of the ``vectors`` (N, D) in each of ``masks`` bool (M, N); 0 of an empty one."""
    return masks.astype(vectors.dtype) @ vectors / np.maximum(1, masks.sum(1, keepdims=True))
