"""TokenCut (Wang et al., CVPR 2022): the one object that a normalised cut of the tokens parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from trace_d2.attention import full_precision
from trace_d2.masks.eigen import Eigenvector, Graph, normalised_cuts, second_eigenvectors
from trace_d2.masks.features import TokenFeatures
from trace_d2.masks.methods import Scored
from trace_d2.masks.settings import TokenCutSettings

# Entries of the eigenvector so near to the largest are as large: tokens that are alike in the graph
# have the same entry up to rounding, and the first of them is taken whatever solver found it.
_ALIKE = 1e-6


def token_cut(
    features: TokenFeatures, settings: TokenCutSettings | None = None
) -> Iterator[Scored]:
    """The mask of one image; see ``token_cuts``."""
    yield from token_cuts([features], settings)[0]


def token_cuts(
    images: Sequence[TokenFeatures], settings: TokenCutSettings | None = None
) -> list[list[Scored]]:
    """Section 3 of the paper, of images of one grid at once.

    Two tokens are tied by 1 where their cosine is above ``tau``, else by ``epsilon``. The second
    eigenvector y is cut at its mean; foreground is the side of the token of the largest |y|, the
    seed, and the mask is what is connected with it there, over the sides of tokens.

    Returns:
        A mask an image; none where no cut is better than another (one colour, one token).
        The score is 1 - the normalised cut of the mask and the rest, at least 0.

    Raises:
        ValueError: features are not finite, not as many as the grid has tokens, or of other grids.
    """
    settings = settings or TokenCutSettings()
    graph = binary_graph(images, settings.tau, settings.epsilon)
    masks = []
    for image, found in zip(images, second_eigenvectors(graph), strict=True):
        masks.append(np.zeros(image.grid, bool))
        if found is not None:
            y = oriented(found).reshape(image.grid)
            masks[-1] = component(y > y.mean(), seed_of(y))
    scores = scores_of(graph, masks)
    return [[(m, s)] if m.any() else [] for m, s in zip(masks, scores, strict=True)]


def binary_graph(images: Sequence[TokenFeatures], tau: float, epsilon: float) -> Graph:
    """Graphs whose tokens are tied by 1 where their cosine is above ``tau``, else by ``epsilon``.

    Raises:
        ValueError: see ``token_cuts``.
    """
    if len({image.grid for image in images}) != 1:
        raise ValueError("images whose tokens are cut together must be of one grid, at least one")
    for grid, features in images:
        if features.ndim != 2 or len(features) != grid[0] * grid[1]:
            raise ValueError(
                f"a grid of {grid} tokens cannot have {tuple(features.shape)} features"
            )
        if not bool(torch.isfinite(features).all()):
            raise ValueError(
                "features of tokens must be finite, but some are NaN or infinite: run the backbone "
                "in bfloat16 or float32 (MODEL.TRACE.BACKBONE.DTYPE)"
            )
    ties = torch.stack([_ties(image.features, tau) for image in images])
    if ties.device.type != "cuda":  # Apple's GPUs know no float64
        return Graph(ties.cpu(), epsilon, scale=1 - epsilon)
    return Graph(ties.double(), epsilon, scale=1 - epsilon)


def _ties(features: Tensor, tau: float) -> Tensor:
    """Bool (N, N): cosine above ``tau``; symmetric, which the rounding of a product need not be."""
    with full_precision(features.device):
        tied = features.float() @ features.float().T > tau
    return tied & tied.T.contiguous()


def oriented(found: Eigenvector) -> np.ndarray:
    """(N,) eigenvector, of the two signs that in which its largest entry is positive."""
    y = found.vector.cpu().numpy()
    return y if y[_first_largest(np.abs(y))] > 0 else -y


def seed_of(y: np.ndarray) -> tuple[int, int]:
    """Row and column of the largest of (h, w) entries, the first in reading order."""
    row, column = divmod(_first_largest(y.ravel()), y.shape[1])
    return row, column


def _first_largest(values: np.ndarray) -> int:
    near = values >= values.max() - _ALIKE * np.abs(values).max()
    return int(near.argmax())


def component(side: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """What of a bool (h, w) ``side`` is connected with its ``seed`` over the sides of tokens."""
    _, labels = cv2.connectedComponents(side.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    return (labels == labels[seed]) & side


def scores_of(graph: Graph, masks: Sequence[np.ndarray]) -> list[float]:
    """1 - normalised cut of each image's mask and the rest, at least 0."""
    sides = torch.from_numpy(np.stack([mask.ravel() for mask in masks]))
    cuts = normalised_cuts(graph, sides.to(graph.weights.device))
    return (1 - cuts).clamp(0, 1).tolist()
