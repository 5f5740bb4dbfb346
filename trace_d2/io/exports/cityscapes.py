"""Cityscapes' PNGs: ``instanceIds``, 16 bit, and ``labelIds``, 8 bit.

A pixel of ``instanceIds`` is the id of its class, or 1000 times that plus the number of its object,
from 0; one of ``labelIds`` the id of its class. Void, which Cityscapes calls unlabeled, is 0 in
both. A group of objects that are not told apart has the id of its class alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trace_d2.io.categories import Category
from trace_d2.io.exports.shapes import Shape, painting_order

FACTOR = 1000
"""``instanceIds`` of an object are this times the id of its class, plus its number."""

_MOST_THINGS, _MOST = 64, 254  # ids whose objects fit 16 bits; ids of 8 bits but that of "ignore"
_IGNORED = 255  # among training ids


def class_ids(categories: Sequence[Category]) -> dict[int, int]:
    """The id that each category has in the PNGs, by its own id.

    Categories keep their ids where all fit: 1 to 64 for things, to 254 for stuff. Else things are
    numbered from 1, in their order, and stuff after them.

    Raises:
        ValueError: there are more than 64 things, or than 254 categories.
    """
    if all(1 <= c.id <= (_MOST_THINGS if c.isthing else _MOST) for c in categories):
        return {c.id: c.id for c in categories}
    things = [c.id for c in categories if c.isthing]
    ordered = things + [c.id for c in categories if not c.isthing]
    if len(things) > _MOST_THINGS or len(ordered) > _MOST:
        raise ValueError(
            f"{len(things)} classes of things and {len(ordered) - len(things)} of stuff do not fit "
            f"Cityscapes' PNGs, which hold {_MOST_THINGS} of things and {_MOST} of both: name "
            "those that are wanted by --classes"
        )
    return {own: rank for rank, own in enumerate(ordered, start=1)}


def instance_maps(
    shapes: Sequence[Shape],
    ids: Mapping[int, int],
    things: frozenset[int],
    height: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """The two maps of an image, and what is lost.

    Args:
        shapes: in any order; where they overlap, ``painting_order`` tells what is on top.
        ids: of categories, as ``class_ids`` gives them.
        things: ids of the categories that are things.

    Returns:
        instanceIds uint16 (H, W), labelIds uint8 (H, W), and how many pixels of shapes lie under
        others (``covered``), shapes with no pixel left (``hidden``), and objects beyond the
        thousandth of a class in one image, which are a group (``grouped``).
    """
    instances = np.zeros((height, width), np.uint16)
    labels = np.zeros((height, width), np.uint8)
    lost, numbers = Counter[str](), Counter[int]()
    ordered = painting_order(shapes, things)
    ranks = np.zeros((height, width), np.int32)  # from 1, of what lies on top
    for rank, shape in enumerate(ordered, start=1):
        ranks[shape.place][shape.mask] = rank
    visible = np.bincount(ranks.ravel(), minlength=len(ordered) + 1)[1:]
    lost["covered"] = sum(shape.area for shape in ordered) - int(visible.sum())
    values, classes = np.zeros(len(ordered) + 1, np.uint16), np.zeros(len(ordered) + 1, np.uint8)
    # The largest objects are told apart where there are too many.
    for rank in sorted(range(len(ordered)), key=lambda rank: -int(visible[rank])):
        shape = ordered[rank]
        own = ids[shape.category_id]
        lost["hidden"] += not visible[rank]
        values[rank + 1] = classes[rank + 1] = own
        if shape.category_id not in things or shape.crowd or not visible[rank]:
            continue
        if numbers[own] == FACTOR:
            lost["grouped"] += 1
            continue
        values[rank + 1] = FACTOR * own + numbers[own]
        numbers[own] += 1
    np.take(values, ranks, out=instances)
    np.take(classes, ranks, out=labels)
    return instances, labels, lost


def label_table(categories: Sequence[Category], ids: Mapping[int, int]) -> list[dict[str, Any]]:
    """The classes, with the names of the fields of cityscapesscripts' ``labels.py``."""
    void = _row("unlabeled", 0, _IGNORED, False, (0, 0, 0))
    ordered = sorted(categories, key=lambda c: ids[c.id])
    rows = [
        {**_row(c.name, ids[c.id], rank, c.isthing, c.color), "categoryIdBefore": c.id}
        for rank, c in enumerate(ordered)
    ]
    return [void, *rows]


def _row(
    name: str, own: int, train: int, things: bool, color: tuple[int, int, int]
) -> dict[str, Any]:
    return {
        "name": name,
        "id": own,
        "trainId": train,
        "hasInstances": things,
        "ignoreInEval": train == _IGNORED,
        "color": list(color),
    }
