"""Procedural photographs with panoptic truth.

A scene shows textured things that touch and occlude one another, many of them beside a neighbour
of their own class, before two kinds of stuff. Everything is a function of (seed, index).

Each class of things has its own kind of two-colour texture, so that class is not colour. Edges
inside a texture are as strong as those between instances: that is what defeats a colour gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

# To a pattern in 0..1, to blend two colours by.
Pattern = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _rotated(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``x`` and ``y`` turned by a random angle and moved by a random phase."""
    angle = rng.uniform(0, np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    shift = rng.uniform(0, 64, 2)
    return cos * x + sin * y + shift[0], cos * y - sin * x + shift[1]


def _soft_step(wave: np.ndarray) -> np.ndarray:
    """A wave in -1..1 to a pattern in 0..1 with steep, but not aliased, flanks."""
    return 0.5 + 0.5 * np.tanh(3.0 * wave)


def _stripes(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Parallel bands with a period of 6 to 12 pixels."""
    u, _ = _rotated(x, y, rng)
    return _soft_step(np.sin(2 * np.pi * u / rng.uniform(6, 12)))


def _checks(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A chequerboard with a period of 8 to 14 pixels."""
    u, v = _rotated(x, y, rng)
    period = rng.uniform(8, 14)
    return _soft_step(2.0 * np.sin(2 * np.pi * u / period) * np.sin(2 * np.pi * v / period))


def _dots(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Discs on a square lattice of 7 to 12 pixels."""
    u, v = _rotated(x, y, rng)
    period = rng.uniform(7, 12)
    du = (u / period) % 1.0 - 0.5
    dv = (v / period) % 1.0 - 0.5
    return _soft_step(4.0 * (rng.uniform(0.28, 0.36) - np.sqrt(du * du + dv * dv)))


def _marble(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Irregular blobs of 4 to 8 pixels: band-passed noise."""
    return _soft_step(1.2 * smooth_noise(x.shape, rng.uniform(2.0, 3.2), rng))


def smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise blurred by ``sigma`` pixels, of mean 0 and standard deviation 1."""
    noise = rng.standard_normal(shape).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return (blurred - blurred.mean()) / max(float(blurred.std()), 1e-6)


THING_TEXTURES: dict[str, Pattern] = {
    "striped": _stripes,
    "checked": _checks,
    "dotted": _dots,
    "marbled": _marble,
}

THING_CLASSES = tuple(THING_TEXTURES)
STUFF_CLASSES = ("sky", "ground")
#: Category ids as the scenes' ``categories.json`` has them: things from 1, stuff after them.
CATEGORY_IDS = {name: i for i, name in enumerate(THING_CLASSES + STUFF_CLASSES, start=1)}

#: Objects are laid out for this side; a larger scene holds more objects, not larger ones.
REFERENCE_SIDE = 128
#: Least share of an object that later objects must leave visible.
LEAST_VISIBLE = 0.4
#: Objects cut off by the border must still show this many pixels, times that share.
_LEAST_AREA = 150
#: Mean area in pixels of an object without ``object_area``: as much of a scene is covered with it.
_MEAN_AREA = 1_300
_PLACEMENT_TRIES = 12
#: Pixels of the smallest object that can be asked for.
_SMALLEST_AREA = 30


@dataclass(frozen=True)
class Scene:
    """One procedural photograph and its truth.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        segment_ids: (H, W) int32, 1 for the first segment; no void.
        category_ids: the category of segment ``i + 1``, at index ``i``.
    """

    image: np.ndarray
    segment_ids: np.ndarray
    category_ids: tuple[int, ...]

    def semantic(self) -> np.ndarray:
        """(H, W) uint8: the category id of every pixel."""
        table = np.array((255, *self.category_ids), dtype=np.uint8)
        return table[self.segment_ids]


Box = tuple[slice, slice]


@dataclass(frozen=True)
class _Object:
    shape: _Shape
    box: Box  # where it may be seen
    coverage: np.ndarray  # of each pixel there, 0..1
    name: str  # of its class
    area: int


@dataclass(frozen=True)
class _Shape:
    """An outline r(theta) = radius * (1 + ripple) stretched along a turned axis."""

    center: tuple[float, float]
    radius: float
    stretch: float
    angle: float
    squareness: float
    ripple: tuple[float, float]

    def signed_distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """About the distance to the outline in pixels, positive inside."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        dx, dy = x - self.center[0], y - self.center[1]
        u = (cos * dx + sin * dy) / (self.radius * self.stretch)
        v = (cos * dy - sin * dx) / (self.radius / self.stretch)
        power = self.squareness
        rho = (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power)
        amplitude, phase = self.ripple
        if amplitude:
            rho = rho / (1 + amplitude * np.cos(3 * np.arctan2(v, u) + phase))
        return (1 - rho) * self.radius

    def box(self, size: tuple[int, int]) -> Box:
        """A window of an image of ``size`` (H, W) outside of which there is none of the shape."""
        reach = 1.6 * self.radius * max(self.stretch, 1 / self.stretch) + 2
        (column, row), (height, width) = self.center, size
        return (
            slice(max(0, int(row - reach)), min(height, int(row + reach) + 1)),
            slice(max(0, int(column - reach)), min(width, int(column + reach) + 1)),
        )


def _random_shape(
    rng: np.random.Generator,
    size: tuple[int, int],
    beside: _Shape | None,
    object_area: tuple[float, float] | None,
) -> _Shape:
    height, width = size
    if object_area is None:
        radius = float(rng.uniform(0.11, 0.22) * REFERENCE_SIDE)
    else:
        radius = float(np.sqrt(rng.uniform(*object_area) * height * width / np.pi))
    if beside is None:
        center = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
    else:
        angle = rng.uniform(0, 2 * np.pi)
        reach = (radius + beside.radius) * rng.uniform(0.6, 0.95)
        center = (
            float(np.clip(beside.center[0] + reach * np.cos(angle), 0, width)),
            float(np.clip(beside.center[1] + reach * np.sin(angle), 0, height)),
        )
    return _Shape(
        center=center,
        radius=radius,
        stretch=float(rng.uniform(0.8, 1.25)),
        angle=float(rng.uniform(0, np.pi)),
        squareness=float(rng.choice([2.0, 2.0, 5.0])),
        ripple=(float(rng.choice([0.0, 0.12])), float(rng.uniform(0, 2 * np.pi))),
    )


def _two_colors(rng: np.random.Generator) -> np.ndarray:
    """(2, 3) float32 colours in 0..1 that differ clearly."""
    while True:
        colors = rng.uniform(0.05, 0.95, (2, 3))
        if np.abs(colors[0] - colors[1]).sum() > 0.7:
            return colors.astype(np.float32)


def _paint_stuff(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A sky of slow clouds over a ground of fine grain; returns image and ground mask."""
    height, width = x.shape
    horizon = rng.uniform(0.25, 0.75) * height + 0.04 * height * np.sin(
        x[0] / width * rng.uniform(2, 6) + rng.uniform(0, 6)
    )
    ground = y > horizon
    image = np.empty((height, width, 3), np.float32)
    for mask, sigma in ((~ground, 12.0), (ground, 1.0)):
        low, high = _two_colors(rng)
        pattern = 0.5 + 0.2 * smooth_noise((height, width), sigma, rng)[..., None]
        image[mask] = (low + (high - low) * np.clip(pattern, 0, 1))[mask]
    return image, ground


def _place_objects(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    object_area: tuple[float, float] | None,
) -> tuple[list[_Object], np.ndarray]:
    """The objects, back to front, and who owns each pixel (H, W; -1: stuff)."""
    wanted, least = rng.integers(4, 8) * x.size / REFERENCE_SIDE**2, _LEAST_AREA
    if object_area is not None:
        wanted *= _MEAN_AREA / (sum(object_area) / 2 * x.size)
        least = min(least, int(object_area[0] * x.size / 4))
    owner = np.full(x.shape, -1, np.int32)
    visible = np.zeros(0, np.int64)
    objects: list[_Object] = []
    for _ in range(max(1, round(wanted))):
        for _ in range(_PLACEMENT_TRIES):
            neighbor = None
            if objects and rng.random() < 0.6:
                neighbor = objects[int(rng.integers(len(objects)))]
            beside = neighbor.shape if neighbor else None
            shape = _random_shape(rng, x.shape, beside, object_area)
            box = shape.box(x.shape)
            coverage = np.clip(shape.signed_distance(x[box], y[box]) + 0.5, 0, 1)
            mask = coverage > 0.5
            hidden = np.bincount(owner[box][mask] + 1, minlength=len(objects) + 1)[1:]
            left = np.append(visible - hidden, mask.sum())
            area = max(int(mask.sum()), least)
            full = np.array([*(o.area for o in objects), area])
            if (left >= LEAST_VISIBLE * full).all():
                same = neighbor is not None and rng.random() < 0.75
                name = neighbor.name if neighbor and same else str(rng.choice(THING_CLASSES))
                owner[box][mask] = len(objects)
                visible = left
                objects.append(_Object(shape, box, coverage, name, area))
                break
    return objects, owner


def _paint_object(
    image: np.ndarray, thing: _Object, rng: np.random.Generator, x: np.ndarray, y: np.ndarray
) -> None:
    seen = thing.coverage
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    inner = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    image, x, y = image[thing.box][inner], x[thing.box][inner], y[thing.box][inner]
    pattern = THING_TEXTURES[thing.name](x, y, rng)[..., None]
    first, second = _two_colors(rng)
    paint = first + (second - first) * pattern
    light = rng.uniform(-1, 1, 2)
    shade = light[0] * (x - x.mean()) / x.shape[1] + light[1] * (y - y.mean()) / x.shape[0]
    paint = paint * (1 + 0.5 * shade[..., None])
    image += seen[inner][..., None] * (paint - image)


def make_scene(
    seed: int,
    index: int,
    size: tuple[int, int] = (128, 128),
    object_area: tuple[float, float] | None = None,
) -> Scene:
    """Scene ``index`` of the series ``seed``.

    Args:
        seed, index: the series and the scene's number in it; non-negative.
        size: (height, width) in pixels, each at least 32.
        object_area: least and greatest area of an object before others hide a part of it, about,
            as shares (0..1) of the image, between which areas are uniform; as much of the scene is
            covered as without it. None: objects of 14 to 28 pixels' radius.

    Raises:
        ValueError: ``size`` is too small to hold an object, or ``object_area`` is no such range.
    """
    if min(size) < 32:
        raise ValueError(f"a scene must be at least 32 pixels high and wide, not {size}")
    if object_area is not None:
        _check_area(object_area, size)
    rng = np.random.default_rng([seed, index])
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    image, ground = _paint_stuff(rng, x, y)
    objects, owner = _place_objects(rng, x, y, object_area)
    for thing in objects:
        _paint_object(image, thing, rng, x, y)
    image = cv2.GaussianBlur(image, (0, 0), 0.5)
    image += rng.normal(0, 0.02, image.shape).astype(np.float32)

    names = [thing.name for thing in objects] + ["sky", "ground"]
    labels = np.where(owner >= 0, owner, len(objects) + ground)
    present, segment_ids = np.unique(labels, return_inverse=True)
    return Scene(
        image=(np.clip(image, 0, 1) * 255).round().astype(np.uint8),
        segment_ids=segment_ids.reshape(size).astype(np.int32) + 1,
        category_ids=tuple(CATEGORY_IDS[names[i]] for i in present),
    )


def _check_area(object_area: tuple[float, float], size: tuple[int, int]) -> None:
    least, greatest = object_area
    smallest = _SMALLEST_AREA / (size[0] * size[1])
    if not smallest <= least <= greatest <= 1:
        raise ValueError(
            f"the areas of objects are shares of the image from {smallest:.2g} ({_SMALLEST_AREA} "
            f"pixels of {size[0]} x {size[1]}) to 1, the least first, not {least:g} to {greatest:g}"
        )
