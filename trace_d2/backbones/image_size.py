"""What size an image is read at, and the resizing."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

# Beyond this ratio of the sides "keep" squeezes the image: denoisers are trained up to about 4.
MAX_ASPECT_RATIO = 4.0


def target_size(
    size: tuple[int, int], resolution: int, multiple: int, aspect: str
) -> tuple[int, int]:
    """The size (height, width) in pixels that an image is resized to.

    Args:
        size: (height, width) of the image.
        resolution: side of the square, or the square root of the area.
        multiple: both sides are rounded to multiples of this, one multiple at least.
        aspect: "square", or "keep" for the image's own aspect ratio, held within 1:4 to 4:1.

    Returns:
        (height, width), multiples of ``multiple``.
    """
    height = width = float(resolution)
    if aspect == "keep":
        ratio = min(max(size[0] / size[1], 1 / MAX_ASPECT_RATIO), MAX_ASPECT_RATIO)
        height, width = resolution * math.sqrt(ratio), resolution / math.sqrt(ratio)
    return _round_to(height, multiple), _round_to(width, multiple)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) uint8 to ``size`` (height, width) by Lanczos, as diffusers does.

    Pillow widens the filter when it shrinks, each axis on its own, so nothing aliases.
    """
    if image.shape[:2] == size:
        return np.ascontiguousarray(image)
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.array(resized)


def _round_to(value: float, multiple: int) -> int:
    return max(1, math.floor(value / multiple + 0.5)) * multiple
