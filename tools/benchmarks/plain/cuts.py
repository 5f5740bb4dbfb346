"""TokenCut and MaskCut the plain way: a full eigendecomposition a cut, masks token by token."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

ALIKE = 1e-6  # entries so near to the largest are as large: of those the first one is the seed


def binary_weights(features: np.ndarray, tau: float, epsilon: float) -> np.ndarray:
    """(N, N): 1 where the cosine of features (N, D) of length 1 is above ``tau``, else epsilon."""
    return np.where(features @ features.T > tau, 1.0, epsilon)


def second_eigenvector_plainly(weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Second smallest eigenvalue and its vector (N,) of (D - W) y = lambda D y, by all of them."""
    degrees = np.diag(weights.sum(axis=1))
    values, vectors = eigh(degrees - weights, degrees)
    return float(values[1]), vectors[:, 1]


def normalised_cut_plainly(weights: np.ndarray, side: np.ndarray) -> float:
    """cut / vol + cut / vol of bool (N,) ``side`` and the rest."""
    cut = weights[side][:, ~side].sum()
    return float(cut / weights[side].sum() + cut / weights[~side].sum())


def token_cut_plainly(
    features: np.ndarray, grid: tuple[int, int], tau: float, epsilon: float
) -> tuple[np.ndarray, float]:
    """The bool (h, w) mask of TokenCut, and 1 - its normalised cut."""
    weights = binary_weights(features, tau, epsilon)
    y = with_positive_seed(second_eigenvector_plainly(weights)[1])
    mask = connected(y > y.mean(), first_largest(y), grid)
    return mask.reshape(grid), 1 - normalised_cut_plainly(weights, mask)


def mask_cut_plainly(
    features: np.ndarray,
    grid: tuple[int, int],
    tau: float,
    epsilon: float,
    *,
    rounds: int = 3,
    corners: int = 3,
    max_iou: float = 0.5,
    min_area: float = 0.01,
) -> list[tuple[np.ndarray, float]]:
    """The bool (h, w) masks of MaskCut that are not empty, and 1 - their normalised cuts."""
    height, width = grid
    corner_tokens = [0, width - 1, (height - 1) * width, height * width - 1]
    whole = binary_weights(features, tau, epsilon)
    covered = np.zeros(len(features), bool)
    before = np.zeros(len(features), bool)
    found = []
    for number in range(rounds):
        left = features.copy()
        left[covered] = 0
        weights = binary_weights(left, tau, epsilon)
        y = with_positive_seed(second_eigenvector_plainly(weights)[1])
        side = y > y.mean()
        if sum(side[token] for token in corner_tokens) >= corners:
            y, side = -y, ~side
        mask = connected(side, first_largest(y), grid)
        if number:
            union = sum(a or b for a, b in zip(mask, before, strict=True))
            both = sum(a and b for a, b in zip(mask, before, strict=True))
            if both / union > max_iou or mask.sum() / mask.size <= min_area:
                mask = np.zeros_like(mask)
        new = mask & ~covered
        covered |= mask
        before = mask
        if new.any():
            found.append((new.reshape(grid), 1 - normalised_cut_plainly(whole, new)))
    return found


def with_positive_seed(y: np.ndarray) -> np.ndarray:
    """``y`` with the sign that makes its largest entry positive."""
    return y if y[first_largest(np.abs(y))] > 0 else -y


def first_largest(y: np.ndarray) -> int:
    """The first entry of those that are as large as the largest."""
    largest = y.max()
    for token, value in enumerate(y):
        if value >= largest - ALIKE * np.abs(y).max():
            return token
    raise ValueError("no entries")


def connected(side: np.ndarray, seed: int, grid: tuple[int, int]) -> np.ndarray:
    """Bool (N,): what of ``side`` is reached from its token ``seed`` over the sides of tokens."""
    height, width = grid
    reached = np.zeros(len(side), bool)
    reached[seed] = True
    front = [seed]
    while front:
        row, column = divmod(front.pop(), width)
        for y, x in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            token = y * width + x
            if 0 <= y < height and 0 <= x < width and side[token] and not reached[token]:
                reached[token] = True
                front.append(token)
    return reached
