"""Semantic masks and instance edges as real models give them: the truth, degraded.

Models trained on image tags find the discriminative parts and follow their class activation maps,
so their errors are not pixel noise: outlines wobble on a coarse grid, small objects are missed,
holes open in large ones, and a piece of one class is taken for another. Detectors blur and miss
true edges, and find parts, texture and shadows besides: taking those from a real detector keeps
their look, and their strength can be set apart from all else.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from trace_d2.io.atomic import write_png
from trace_d2.io.categories import Category
from trace_d2.io.edge_maps import find_edges, read_edges
from trace_d2.io.images import read_semantic

from .oracle import hole_at
from .procedural import smooth_noise

# Error rates of semantic masks at level 1; they scale with the level.
_WOBBLE_PIXELS = 4.0
_MISSED, _HOLED, _CONFUSED = 0.25, 0.25, 0.12
_SMALL_AREA = 400  # pieces of more pixels are missed less often, in proportion to their area

_HOLE = 9  # side of a hole in edges, in pixels
_SIGMA, _PEAK = 1.5, 0.27  # a line one pixel wide, blurred by sigma, is about so high
_WEAKEST = 0.8  # strength of the true edges of an image, which is 1 at most
_NEAR = 8  # pixels from a true edge within which a detector's edge is no false one
_TOP = 0.99  # the quantile that becomes 1 on a grid


def degrade_semantic(
    semantic: np.ndarray, categories: Sequence[Category], level: float, seed: int
) -> np.ndarray:
    """``semantic`` with the errors of a tag-supervised model.

    Args:
        semantic: (H, W) uint8 category ids, 255 = unknown (left alone).
        categories: pieces of things are missed, holed or confused, and turn into stuff beside them.
        level: 0 (unchanged) to 1 (poor).
        seed: fixes the errors.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"the noise level lies in 0..1, not {level}")
    if level == 0:
        return semantic.copy()
    things = tuple(category.id for category in categories if category.isthing)
    stuff = tuple(category.id for category in categories if not category.isthing)
    rng = np.random.default_rng(seed)
    degraded = _wobble(semantic, level, rng)
    behind = nearest_known(degraded, np.isin(degraded, stuff))
    for thing in things:
        pieces, _ = ndimage.label(degraded == thing)
        for piece, box in enumerate(ndimage.find_objects(pieces), start=1):
            _spoil(degraded[box], pieces[box] == piece, behind[box], things, level, rng)
    degraded[semantic == 255] = 255
    return degraded


def write_degraded_semantic(
    semantic: Path,
    output: Path,
    categories: Sequence[Category],
    level: float,
    progress: bool = True,
) -> None:
    """Write every mask ``<stem>.png`` of the folder ``semantic`` degraded to ``output``.

    The errors of a mask are fixed by its stem, so that a subset of the masks gets the same files.
    Levels and categories are those of ``degrade_semantic``.
    """
    for path, target, seed in _seeded(semantic, "semantic masks", output, progress):
        write_png(target, degrade_semantic(read_semantic(path), categories, level, seed))


@dataclass(frozen=True)
class EdgeQuality:
    """How good the edges are.

    Attributes:
        false: what the strength of the detector's false edges is multiplied by, 0..1.
        miss: share of the pixels of true edges that go, 0..1.
        grid: side of the square token grid that the edges are read on, as an attention map is;
            0: they stay as they are.
    """

    false: float
    miss: float = 0.05
    grid: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.false <= 1 and 0 <= self.miss <= 1 and self.grid >= 0):
            raise ValueError(
                f"false and miss lie in 0..1 and grid is 0 or more, not {self.false}, "
                f"{self.miss} and {self.grid}"
            )


def degrade_edges(
    true: np.ndarray, detected: np.ndarray, quality: EdgeQuality, seed: int | list[int]
) -> np.ndarray:
    """Edges of a chosen quality.

    True edges lose square holes of 9 pixels until the share ``miss`` is gone, are blurred (sigma
    1.5 pixels, so that a thin line keeps about its height) and get one strength in 0.8..1. False
    ones are those of ``detected`` farther than 8 pixels from any true edge.

    Args:
        true: (H, W) bool, thin.
        detected: (H, W) floating point in 0..1, a detector's edges of the same image.
        seed: fixes the holes and the strength.

    Returns:
        (H, W) float32 in 0..1.
    """
    if true.shape != detected.shape:
        raise ValueError(f"true edges of {true.shape} and detected ones of {detected.shape} pixels")
    rng = np.random.default_rng(seed)
    kept = _with_holes(true, quality.miss, rng).astype(np.float32)
    soft = np.minimum(cv2.GaussianBlur(kept, (0, 0), _SIGMA) / np.float32(_PEAK), 1)
    edges = soft * np.float32(rng.uniform(_WEAKEST, 1))
    far = ndimage.distance_transform_edt(~true) > _NEAR if true.any() else np.ones_like(true)
    edges = np.maximum(edges, np.float32(quality.false) * detected * far).astype(np.float32)
    return _on_grid(edges, quality.grid) if quality.grid else edges


def write_degraded_edges(
    oracle: Path,
    detector: Path,
    output: Path,
    quality: EdgeQuality,
    progress: bool = True,
) -> None:
    """Write edges of a chosen quality for every ``<stem>.png`` of ``oracle``.

    They are fixed by the stem, so that a subset of the images gets the same files.

    Args:
        oracle: folder of true edges, as ``write_oracle`` writes them; any value but 0 is an edge.
        detector: folder of a detector's edges, ``<stem>.png`` or ``<stem>.npy``.
        output: receives ``<stem>.png``, 8 bit.
    """
    for path, target, seed in _seeded(oracle, "true edges", output, progress):
        found = find_edges(detector, target.relative_to(output).with_suffix("").as_posix())
        try:
            edges = degrade_edges(read_edges(path) > 0, read_edges(found), quality, [0, seed])
        except ValueError as error:
            raise ValueError(f"{found} does not fit {path} ({error}): make it again") from error
        write_png(target, np.rint(edges * 255).astype(np.uint8))


def _seeded(
    folder: Path, what: str, output: Path, progress: bool
) -> Iterator[tuple[Path, Path, int]]:
    """Each file ``<stem>.png``, its place in ``output``, and a seed that its name fixes."""
    paths = sorted(folder.rglob("*.png"))
    if not paths:
        raise ValueError(
            f"no {what} (<stem>.png) in {folder}: correct the path, or make them "
            "(tools/make_oracle.py)"
        )
    for path in tqdm(paths, desc=what, unit="image", disable=not progress):
        target = output / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        yield path, target, zlib.crc32(path.stem.encode())


def _wobble(semantic: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Move every pixel's label by a smooth random displacement."""
    height, width = semantic.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    shift = [smooth_noise(semantic.shape, 6.0, rng) * _WOBBLE_PIXELS / 2 * level for _ in "xy"]
    return cv2.remap(
        semantic, x + shift[0], y + shift[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
    )


def nearest_known(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each pixel's nearest label among the ``known`` pixels; unchanged where there is none."""
    if not known.any():
        return labels.copy()
    at = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return labels[tuple(at)]


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


def _with_holes(edges: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """``edges`` with square holes centred on edge pixels, until at least ``share`` is gone."""
    broken = edges.copy()
    rows, columns = np.nonzero(edges)
    total = left = len(rows)
    while left > (1 - share) * total:
        i = rng.integers(total)
        hole = broken[hole_at(rows[i], columns[i], _HOLE)]
        left -= int(np.count_nonzero(hole))
        hole[:] = False
    return broken


def _on_grid(edges: np.ndarray, side: int) -> np.ndarray:
    """``edges`` averaged over the cells of a ``side`` x ``side`` grid and read back bilinearly."""
    height, width = edges.shape
    cells = cv2.resize(edges, (side, side), interpolation=cv2.INTER_AREA)
    edges = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    top = max(float(np.quantile(edges, _TOP)), 1e-6)
    return np.minimum(edges / np.float32(top), 1)
