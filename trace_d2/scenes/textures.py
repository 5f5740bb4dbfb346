"""Two-colour textures for procedural scenes: one kind a class, so that class is not colour.

Every function returns a pattern in 0..1, to blend two colours by. Edges inside a texture are as
strong as those between instances: that is what defeats a colour gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

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


def stripes(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Parallel bands with a period of 6 to 12 pixels."""
    u, _ = _rotated(x, y, rng)
    return _soft_step(np.sin(2 * np.pi * u / rng.uniform(6, 12)))


def checks(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A chequerboard with a period of 8 to 14 pixels."""
    u, v = _rotated(x, y, rng)
    period = rng.uniform(8, 14)
    return _soft_step(2.0 * np.sin(2 * np.pi * u / period) * np.sin(2 * np.pi * v / period))


def dots(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Discs on a square lattice of 7 to 12 pixels."""
    u, v = _rotated(x, y, rng)
    period = rng.uniform(7, 12)
    du = (u / period) % 1.0 - 0.5
    dv = (v / period) % 1.0 - 0.5
    return _soft_step(4.0 * (rng.uniform(0.28, 0.36) - np.sqrt(du * du + dv * dv)))


def marble(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Irregular blobs of 4 to 8 pixels: band-passed noise."""
    return _soft_step(1.2 * smooth_noise(x.shape, rng.uniform(2.0, 3.2), rng))


def smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise blurred by ``sigma`` pixels, of mean 0 and standard deviation 1."""
    noise = rng.standard_normal(shape).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return (blurred - blurred.mean()) / max(float(blurred.std()), 1e-6)


THING_TEXTURES: dict[str, Pattern] = {
    "striped": stripes,
    "checked": checks,
    "dotted": dots,
    "marbled": marble,
}
