"""Semantic masks as models trained on image tags draw them: the truth, degraded.

Such models find the discriminative parts and follow their class activation maps, so their errors
are not pixel noise: outlines wobble on a coarse grid, small objects are missed, holes open in
large ones, and a piece of one class is taken for another.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from trace_d2.io.atomic import write_png
from trace_d2.io.categories import Category
from trace_d2.io.images import read_semantic

from .textures import smooth_noise

#: Error rates at level 1; they scale with the level.
_WOBBLE_PIXELS = 4.0
_MISSED = 0.25
_HOLED = 0.25
_CONFUSED = 0.12
#: Pieces of more pixels are missed less often, in proportion to their area.
_SMALL_AREA = 400


def degrade_semantic(
    semantic: np.ndarray, things: tuple[int, ...], stuff: tuple[int, ...], level: float, seed: int
) -> np.ndarray:
    """``semantic`` with the errors of a tag-supervised model.

    Args:
        semantic: (H, W) uint8 category ids, 255 = unknown (left alone).
        things: ids of thing categories; their pieces are missed, holed or confused.
        stuff: ids of stuff categories; what a missed or holed piece turns into.
        level: 0 (unchanged) to 1 (poor).
        seed: fixes the errors.

    Raises:
        ValueError: ``level`` is outside 0..1.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"the noise level lies in 0..1, not {level}")
    if level == 0:
        return semantic.copy()
    rng = np.random.default_rng(seed)
    degraded = _wobble(semantic, level, rng)
    behind = _nearest(degraded, np.isin(degraded, stuff))
    for thing in things:
        pieces, count = ndimage.label(degraded == thing)
        for box, piece in zip(ndimage.find_objects(pieces), range(1, count + 1), strict=True):
            mask = pieces[box] == piece
            _spoil(degraded[box], mask, behind[box], things, level, rng)
    degraded[semantic == 255] = 255
    return degraded


def write_degraded_semantic(
    semantic: Path,
    output: Path,
    categories: Sequence[Category],
    level: float,
    progress: bool = True,
) -> int:
    """Write every ``<stem>.png`` of ``semantic`` degraded to ``output``; returns how many.

    The errors of a mask are fixed by its stem, so that a subset of the masks gets the same files.

    Args:
        semantic: folder of masks, 8 bit, pixel = category id, 255 = unknown.
        output: receives files of the same names.
        categories: what the ids are, and which of them are things.
        level: 0 (unchanged) to 1 (poor).
        progress: show a progress bar.

    Raises:
        ValueError, OSError: ``level`` is outside 0..1, there is no mask or a faulty one, named, or
            ``output`` cannot be written.
    """
    paths = sorted(semantic.glob("*.png"))
    if not paths:
        raise ValueError(f"no semantic masks (<stem>.png) in {semantic}: correct the path")
    things = tuple(category.id for category in categories if category.isthing)
    stuff = tuple(category.id for category in categories if not category.isthing)
    output.mkdir(parents=True, exist_ok=True)
    for path in tqdm(paths, desc="semantic noise", unit="image", disable=not progress):
        seed = zlib.crc32(path.stem.encode())
        mask = degrade_semantic(read_semantic(path), things, stuff, level, seed)
        write_png(output / path.name, mask)
    return len(paths)


def _wobble(semantic: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Move every pixel's label by a smooth random displacement."""
    height, width = semantic.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    shift = [smooth_noise(semantic.shape, 6.0, rng) * _WOBBLE_PIXELS / 2 * level for _ in "xy"]
    return cv2.remap(
        semantic, x + shift[0], y + shift[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
    )


def _nearest(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each pixel's nearest label among the ``known`` pixels; unchanged where there is none."""
    if not known.any():
        return labels.copy()
    rows, columns = ndimage.distance_transform_edt(
        ~known, return_distances=False, return_indices=True
    )
    return labels[rows, columns]


def _spoil(
    labels: np.ndarray,
    mask: np.ndarray,
    behind: np.ndarray,
    things: tuple[int, ...],
    level: float,
    rng: np.random.Generator,
) -> None:
    """Miss, hole or confuse one piece (``mask``) of ``labels``, in place."""
    area = int(mask.sum())
    missed = _MISSED * level * min(1.0, _SMALL_AREA / area)
    luck = rng.random()
    if luck < missed:
        labels[mask] = behind[mask]
        return
    ys, xs = np.nonzero(mask)
    at = int(rng.integers(area))
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    distance = np.hypot(y - ys[at], x - xs[at])
    if luck < missed + _HOLED * level:
        hole = mask & (distance < 0.2 * np.sqrt(area))
        labels[hole] = behind[hole]
    elif luck < missed + (_HOLED + _CONFUSED) * level:
        labels[mask & (distance < 0.35 * np.sqrt(area))] = rng.choice(things)
