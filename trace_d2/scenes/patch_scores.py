"""Scores as open-vocabulary models give them on patches: the truth, degraded.

Such models compare the tokens of a vision transformer, patches of 14 or 16 pixels of an image whose
shorter side is 448, with the names of classes. So a patch tells which classes it shows, not where:
outlines are off by up to a patch, objects bleed over their borders, the more the likelier their
class, small ones drown in what is around them, and some patches are taken for another class.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage

from trace_d2.io.categories import UNKNOWN

from .noise import nearest_known

_PATCHES = 28  # along the shorter side: 448 / 16
# At level 1; all scale with the level.
_BLEED = 1.0  # patches that a score is blurred by (sigma)
_GAIN = 0.25  # standard deviation of the log of what a class's scores are multiplied by
_CONFUSED = 0.15  # of connected pieces, a part of which is taken for another class
_NOISE = ((0.7, 0.07), (2.5, 0.05))  # sigma in patches, and standard deviation of scores
_LOW, _RISE = 0.15, 0.2  # cosines of a class that is not there, and what one that is has more


def patch_scores(semantic: np.ndarray, ids: Sequence[int], level: float, seed: int) -> np.ndarray:
    """Scores of an image by its true classes.

    Args:
        semantic: (H, W) uint8 class ids, 255 = unknown, where the nearest known class counts.
        ids: of all classes, C of them.
        level: 0 (the share of each patch that each class has) to 1 (poor).
        seed: fixes the errors.

    Returns:
        (C, H', W') float16 cosines, 28 patches along the shorter side.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"the noise level lies in 0..1, not {level}")
    rng = np.random.default_rng(seed)
    labels = nearest_known(semantic, semantic != UNKNOWN)
    side = min(labels.shape) / _PATCHES
    size = (round(labels.shape[1] / side), round(labels.shape[0] / side))
    present = [rank for rank, identity in enumerate(ids) if (labels == identity).any()]
    shares = np.zeros((len(ids), size[1], size[0]), np.float32)
    for rank in present:
        share = _on_patches(labels == ids[rank], size)
        blurred = cv2.GaussianBlur(
            share, (0, 0), _BLEED * level + 1e-3, borderType=cv2.BORDER_REPLICATE
        )
        shares[rank] = blurred * np.exp(rng.normal(0, _GAIN * level))
    for rank in present:
        _confuse(shares, rank, labels == ids[rank], present, _CONFUSED * level, rng)
    for sigma, deviation in _NOISE:
        shares += deviation * level * _smooth_noise(shares.shape, sigma, rng)
    return (_LOW + _RISE * shares).astype(np.float16)


def _on_patches(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32: the share of each patch that ``mask`` bool (H, W) covers."""
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _confuse(
    shares: np.ndarray,
    rank: int,
    mask: np.ndarray,
    present: Sequence[int],
    rate: float,
    rng: np.random.Generator,
) -> None:
    """Take a round part of some pieces of a class for another: one in the image, or any."""
    size = (shares.shape[2], shares.shape[1])
    pieces, count = ndimage.label(mask)
    for piece in range(1, count + 1):
        if rng.random() >= rate:
            continue
        covered = _on_patches(pieces == piece, size)
        ys, xs = np.nonzero(covered > 0.3)
        if not len(ys):
            continue
        at = rng.integers(len(ys))
        y, x = np.ogrid[: size[1], : size[0]]
        near = np.hypot(y - ys[at], x - xs[at]) < 0.45 * np.sqrt(len(ys)) + 1
        other = rng.choice(present) if rng.random() < 0.5 else rng.integers(len(shares))
        moved = 0.8 * near * covered * shares[rank]
        shares[rank] -= moved
        shares[other] += moved


def _smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """float32: a map of standard deviation 1, blurred by ``sigma``, for each class."""
    noise = rng.standard_normal(shape).astype(np.float32)
    for own in noise:
        cv2.GaussianBlur(own, (0, 0), sigma, dst=own, borderType=cv2.BORDER_REFLECT)
    return noise / max(float(noise.std()), 1e-6)
