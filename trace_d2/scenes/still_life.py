"""Still lifes: shaded fruits that touch and hide each other on a wooden table, like photographs.

Three kinds of things and a background. What defeats a segmentation by colour is what does so in
photographs: light and shadow, highlights, texture, stalks, and neighbours of one colour. Everything
is a function of (seed, index).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .procedural import Scene, smooth_noise

STILL_LIFE_IDS = {"background": 0, "apple": 1, "orange": 2, "lemon": 3}
"""Category ids; all but the background are things."""

#: Fruits are laid out for this height of the image; a larger one holds larger fruits.
_HEIGHT = 192
_OVERSAMPLED = 2
_TRIES = 40
#: Least share of a fruit that those in front of it must leave visible.
_LEAST_VISIBLE = 0.4


@dataclass(frozen=True)
class _Fruit:
    """An ellipsoid seen from the front.

    Attributes:
        center: column and row of its middle in pixels.
        radius: pixels, along the long axis.
        flatness: the short axis over the long one.
        angle: of the long axis, in radians.
        scale: pixels of a pixel of the reference height.
    """

    name: str
    center: tuple[float, float]
    radius: float
    flatness: float
    angle: float
    scale: float

    @property
    def bottom(self) -> float:
        """The row in which it stands on the table."""
        upright = abs(np.sin(self.angle)) * (1 - self.flatness) + self.flatness
        return self.center[1] + self.radius * upright

    def box(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """A window of an image of ``size`` (H, W) outside of which there is none of it."""
        reach, (column, row), (height, width) = 1.15 * self.radius + 2, self.center, size
        return (
            slice(max(0, int(row - reach)), min(height, int(row + reach) + 1)),
            slice(max(0, int(column - reach)), min(width, int(column + reach) + 1)),
        )

    def coordinates(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each pixel, along the axes; the outline is the unit circle, or a lemon's."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        dx, dy = x - self.center[0], y - self.center[1]
        u, v = (cos * dx + sin * dy) / self.radius, (cos * dy - sin * dx) / self.radius
        v = v / self.flatness
        if self.name == "lemon":  # drawn out to a tip at both ends
            v = v * (1 + 0.9 * np.clip(np.abs(u) - 0.62, 0, None))
            u = u * np.where(np.abs(v) < 0.3, 0.93, 1.0)
        elif self.name == "apple":  # a hollow where the stalk is
            v = v - 0.16 * np.exp(-((u / 0.3) ** 2)) * (v < 0)
        return u, v


def make_still_life(seed: int, index: int, size: tuple[int, int] = (192, 256)) -> Scene:
    """Still life ``index`` of the series ``seed``.

    Args:
        seed, index: the series and the number in it; non-negative.
        size: (height, width) in pixels, each at least 32.

    Raises:
        ValueError: ``size`` is too small to hold a fruit.
    """
    if min(size) < 32:
        raise ValueError(f"a still life must be at least 32 pixels high and wide, not {size}")
    rng = np.random.default_rng([seed, index, 7])
    height, width = size[0] * _OVERSAMPLED, size[1] * _OVERSAMPLED
    y, x = np.mgrid[:height, :width].astype(np.float32)
    horizon = rng.uniform(0.2, 0.34) * height
    light = np.array([rng.choice([-1, 1]) * rng.uniform(0.4, 0.8), -0.8, 0.75])
    light /= np.linalg.norm(light)
    image = _table(rng, x, y, horizon)
    fruits, owner = _lay_out(rng, x, y, horizon)
    for fruit in fruits:  # shadows lie on the table and on what is farther back
        _cast_shadow(image, fruit, light, x, y)
        box = fruit.box(x.shape)
        _paint(image[box], fruit, light, rng, x[box], y[box])
    return _photographed(image, owner, fruits, rng, size)


def _photographed(
    image: np.ndarray,
    owner: np.ndarray,
    fruits: list[_Fruit],
    rng: np.random.Generator,
    size: tuple[int, int],
) -> Scene:
    """What a camera makes of it: vignette, white balance, a soft lens and noise."""
    height, width = size
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image *= (1 - 0.22 * (x**2 + y**2) / 2)[..., None]
    image = image * (rng.uniform(0.92, 1.08, 3) * rng.uniform(0.85, 1.1))
    image = cv2.GaussianBlur(image, (0, 0), 0.45)
    image = image + rng.normal(0, 0.012, image.shape)
    seen = cv2.resize(owner, (width, height), interpolation=cv2.INTER_NEAREST)
    present, ids = np.unique(seen, return_inverse=True)
    names = ["background", *(fruit.name for fruit in fruits)]
    return Scene(
        image=(np.clip(image, 0, 1) * 255).round().astype(np.uint8),
        segment_ids=ids.reshape(size).astype(np.int32) + 1,
        category_ids=tuple(STILL_LIFE_IDS[names[number]] for number in present),
    )


def _table(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, horizon: float) -> np.ndarray:
    """A wall out of focus over a table of wood, whose grain runs across."""
    height, width = x.shape
    wall = np.array(rng.choice([[0.72, 0.74, 0.7], [0.5, 0.56, 0.6], [0.62, 0.55, 0.48]]))
    blotches = smooth_noise((height, width), 0.08 * height, rng)[..., None]
    image = wall * (1 + 0.06 * blotches) * (0.8 + 0.3 * (y / horizon))[..., None]
    warped = y + 2.5 * smooth_noise((height, width), 0.05 * height, rng)
    stretched = cv2.resize(
        rng.standard_normal((height, max(2, width // 24))).astype(np.float32), (width, height)
    )
    grain = np.sin(warped * rng.uniform(0.25, 0.4)) * 0.5 + cv2.GaussianBlur(stretched, (0, 0), 1.2)
    wood = np.array(rng.choice([[0.66, 0.46, 0.28], [0.8, 0.64, 0.45], [0.5, 0.37, 0.28]]))
    table = wood * (1 + 0.09 * grain[..., None]) * (0.85 + 0.4 * y / height)[..., None]
    # The far rim of the table is out of focus, too.
    share = np.clip((y - horizon) / (0.012 * height) + 0.5, 0, 1)[..., None]
    return (image + share * (table - image)).astype(np.float32)


def _lay_out(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, horizon: float
) -> tuple[list[_Fruit], np.ndarray]:
    """The fruits, back to front, and who owns each pixel (H, W; 0: the background)."""
    height, width = x.shape
    scale = height / _HEIGHT
    wanted = int(rng.integers(5, 9))
    fruits: list[_Fruit] = []
    coarse = (slice(None, None, 4),) * 2  # enough to see who hides whom
    for _ in range(_TRIES):
        beside = fruits[int(rng.integers(len(fruits)))] if fruits and rng.random() < 0.75 else None
        fruit = _random_fruit(rng, beside, horizon, scale, (height, width))
        trial = sorted([*fruits, fruit], key=lambda one: one.bottom)
        owner, whole = _owners(trial, x[coarse], y[coarse])
        visible = np.bincount(owner.ravel(), minlength=len(trial) + 1)[1:]
        if (visible >= _LEAST_VISIBLE * np.maximum(whole, 1)).all():
            fruits = trial
        if len(fruits) == wanted:
            break
    return fruits, _owners(fruits, x, y)[0]


def _owners(
    fruits: list[_Fruit], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, list[np.int64]]:
    """Who owns each pixel, and how many each would without those in front of it."""
    owner, whole = np.zeros(x.shape, np.int32), []
    for number, fruit in enumerate(fruits, start=1):
        mask = _outline(fruit, x, y) > 0.5
        owner[mask] = number
        whole.append(mask.sum())
    return owner, whole


def _random_fruit(
    rng: np.random.Generator,
    beside: _Fruit | None,
    horizon: float,
    scale: float,
    size: tuple[int, int],
) -> _Fruit:
    height, width = size
    name = str(rng.choice(list(STILL_LIFE_IDS)[1:]))
    if beside is not None and rng.random() < 0.6:  # of one kind, touching: one blob in a mask
        name = beside.name
    radius = rng.uniform(24, 37) * scale
    flatness = rng.uniform(0.66, 0.76) if name == "lemon" else rng.uniform(0.9, 0.98)
    angle = rng.uniform(-0.7, 0.7) if name == "lemon" else rng.uniform(-0.25, 0.25)
    if beside is None:
        column = rng.uniform(0.15, 0.85) * width
        row = rng.uniform(horizon + 0.06 * height, 0.8 * height)
    else:
        reach = (radius + beside.radius) * rng.uniform(0.72, 0.98)
        turn = rng.choice([-1, 1]) * rng.uniform(0, 0.7)
        column = beside.center[0] + rng.choice([-1, 1]) * reach * np.cos(turn)
        row = beside.center[1] + reach * np.sin(turn)
    radius *= 0.75 + 0.45 * row / height  # nearer ones are larger
    column = float(np.clip(column, 0.05 * width, 0.95 * width))
    row = float(np.clip(row, horizon, 0.86 * height))
    return _Fruit(name, (column, row), float(radius), float(flatness), float(angle), scale)


def _outline(fruit: _Fruit, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of each pixel it covers, 0..1."""
    u, v = fruit.coordinates(x, y)
    return np.clip((1 - np.hypot(u, v)) * fruit.radius * fruit.flatness + 0.5, 0, 1)


def _cast_shadow(
    image: np.ndarray, fruit: _Fruit, light: np.ndarray, x: np.ndarray, y: np.ndarray
) -> None:
    """A soft shadow on the side away from the light, and a dark line of contact."""
    column, row = fruit.center[0] - 0.55 * light[0] * fruit.radius, fruit.bottom
    for width, rise, dark in ((1.3, 0.4, 0.55), (0.75, 0.16, 0.5)):
        far = ((x - column) / (width * fruit.radius)) ** 2
        far = far + ((y - row + 0.1 * fruit.radius) / (rise * fruit.radius)) ** 2
        image *= (1 - dark * np.exp(-1.6 * far))[..., None]
        column = fruit.center[0]


def _paint(
    image: np.ndarray,
    fruit: _Fruit,
    light: np.ndarray,
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
) -> None:
    u, v = fruit.coordinates(x, y)
    depth = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
    cos, sin = np.cos(fruit.angle), np.sin(fruit.angle)
    bumps = smooth_noise(x.shape, 1.1 * fruit.scale, rng)
    rough = {"apple": 0.0, "orange": 0.09, "lemon": 0.06}[fruit.name]
    along_x = cos * u - sin * v + rough * np.gradient(bumps, axis=1)
    along_y = sin * u + cos * v + rough * np.gradient(bumps, axis=0)
    shade = along_x * light[0] + along_y * light[1] + depth * light[2]
    diffuse = np.clip(0.35 + 0.65 * shade, 0.08, None) * (1 - 0.25 * np.clip(along_y, 0, 1))
    glint = np.clip(shade, 0, 1) ** (60 if fruit.name == "apple" else 22)
    gloss = {"apple": 0.65, "orange": 0.28, "lemon": 0.3}[fruit.name]
    paint = _SKINS[fruit.name](u, v, rng) * diffuse[..., None] * 1.15 + gloss * glint[..., None]
    if fruit.name == "apple":
        stalk = (np.abs(u - 0.06 - 0.1 * (v + 0.6)) < 0.04) & (v > -0.9) & (v < -0.6)
        paint = np.where(stalk[..., None], np.array([0.24, 0.16, 0.08]), paint)
    covered = _outline(fruit, x, y)[..., None]
    image += covered * (paint - image)  # in place: ``image`` is a view


def _apple(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Red with a yellow cheek, in streaks from stalk to flower."""
    meridian = u / np.sqrt(np.clip(1.08 - v**2, 0.05, None))
    stripes = np.interp(meridian, np.linspace(-1.5, 1.5, 50), rng.normal(0, 0.14, 50))
    streaks = cv2.GaussianBlur(stripes + 0.12 * smooth_noise(u.shape, 3.0, rng), (0, 0), 1.5)
    cheek = np.clip(rng.uniform(-0.3, 0.3) + 0.6 * u * rng.choice([-1, 1]) + streaks, 0, 1)
    red, yellow = np.array([0.72, 0.1, 0.1]), np.array([0.86, 0.68, 0.22])
    return red + cheek[..., None] * (yellow - red)


def _orange(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tint = np.array([0.97, rng.uniform(0.48, 0.56), 0.08])
    return tint * (1 + 0.03 * smooth_noise(u.shape, 2.0, rng)[..., None])


def _lemon(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    green = np.clip(np.abs(u) - 0.6, 0, 1)[..., None] * rng.uniform(0, 0.9)
    tint = np.array([0.95, rng.uniform(0.82, 0.88), 0.2])
    return tint + green * (np.array([0.6, 0.72, 0.2]) - tint)


_SKINS: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "apple": _apple,
    "orange": _orange,
    "lemon": _lemon,
}
