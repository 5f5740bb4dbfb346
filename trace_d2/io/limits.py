"""How large an image, a mask or an edge map may be: checked before memory is taken for it."""

from __future__ import annotations

import os

MAX_PIXELS = 2**28
"""More is refused: a file of a few kilobytes may ask for any number."""

VARIABLE = "TRACE_D2_MAX_PIXELS"
"""The environment variable that sets another limit."""


def max_pixels() -> int:
    """The limit: ``MAX_PIXELS``, or what the environment says."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return MAX_PIXELS
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ValueError(f"the environment variable {VARIABLE} is {text!r}: set a number of pixels")
    return int(text)


def check_size(width: int, height: int, origin: object) -> None:
    """Raise a ValueError unless ``width`` x ``height`` pixels of ``origin`` are few enough."""
    if width < 1 or height < 1:
        raise ValueError(f"{origin} says it is {width}x{height} pixels: write it again")
    if width * height > (limit := max_pixels()):
        raise ValueError(
            f"{origin} is {width}x{height} pixels, and more than {limit:,} are not read: scale it "
            f"down, or set the environment variable {VARIABLE}"
        )
