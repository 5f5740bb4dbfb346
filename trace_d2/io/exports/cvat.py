"""CVAT for images 1.1: one XML file, with masks as CVAT's run lengths.

A mask is cut to its box, read row by row, and told as the lengths of its runs: of pixels that are
not in it, then of those that are, and so on. All pixels come back, holes and parts included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from trace_d2.io.categories import Category
from trace_d2.io.exports.shapes import Shape
from trace_d2.io.json_files import shown

# What XML 1.0 cannot hold, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of a mask bool (h, w), row by row; the first is of False, 0 if none."""
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff(changes, prepend=0, append=flat.size).tolist()
    return [0, *lengths] if flat[0] else lengths


def mask_elements(shapes: Sequence[Shape], names: Mapping[int, str]) -> list[str]:
    """A ``<mask>`` for each shape; the small ones lie on top of the large ones.

    Args:
        names: of categories, by id.
    """
    ordered = sorted(shapes, key=lambda shape: -shape.area)
    return [_mask(shape, names[shape.category_id], rank) for rank, shape in enumerate(ordered)]


def image_element(rank: int, name: str, height: int, width: int, masks: Sequence[str]) -> str:
    """An image with its masks; images are counted from 0."""
    head = f'<image id="{rank}" name={quoteattr(name)} width="{width}" height="{height}">'
    return "\n".join((f"  {head}", *(f"    {mask}" for mask in masks), "  </image>\n"))


def opening(categories: Sequence[Category], images: int) -> str:
    """What the file begins with; ``</annotations>`` ends it."""
    labels = "".join(
        f"        <label>\n          <name>{escape(c.name)}</name>\n"
        f"          <color>{_hexadecimal(c.color)}</color>\n          <type>mask</type>\n"
        "          <attributes></attributes>\n        </label>\n"
        for c in categories
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta>\n    <task>\n      <size>{images}</size>\n      <mode>annotation</mode>\n"
        f"      <labels>\n{labels}      </labels>\n    </task>\n  </meta>\n"
    )


def label_entries(categories: Sequence[Category]) -> list[dict[str, Any]]:
    """The labels of a task, as CVAT's editor of raw labels takes them."""
    return [
        {"name": c.name, "color": _hexadecimal(c.color), "type": "mask", "attributes": []}
        for c in categories
    ]


def check_text(text: str, what: str) -> None:
    """Raise a ValueError if XML cannot hold ``text``, which is ``what``."""
    if _FORBIDDEN.search(text):
        raise ValueError(f"{what} {shown(text)} has a character that XML cannot hold: rename it")


def _mask(shape: Shape, label: str, order: int) -> str:
    height, width = shape.mask.shape
    runs = ", ".join(map(str, run_lengths(shape.mask)))
    return (
        f'<mask label={quoteattr(label)} source="file" occluded="0" rle="{runs}" '
        f'left="{shape.left}" top="{shape.top}" width="{width}" height="{height}" '
        f'z_order="{order}"></mask>'
    )


def _hexadecimal(color: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in color)
