"""Objects365 v2 val: boxes, of images that lie in folders ``patch0`` to ``patch43``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from trace_d2.data.prepare.one_class import prepare_class_agnostic

_PATCH = re.compile(r"(?:^|/)patch([0-9]+)/")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


def prepare_objects365(
    source: str | Path,
    folder: str | Path,
    output: str | Path,
    patches: range | None = None,
    progress: bool = True,
) -> tuple[int, int]:
    """Write the boxes of Objects365 as one class, ``output``, with names of images as they lie.

    Args:
        source: ``zhiyuan_objv2_val.json``, or a file of other tools of the same images.
        folder: of the images, in ``patchN/`` or not.
        output: the file that is written; names in it are relative to ``folder``.
        patches: images of these patches alone, known by their folder; None: all.

    Returns:
        how many images and boxes were written.

    Raises:
        ValueError, FileNotFoundError: as ``prepare_class_agnostic``.
    """
    wanted: Callable[[str], bool] = lambda name: True  # noqa: E731
    if patches is not None:
        wanted = lambda name: _patch(name) in patches  # noqa: E731
    return prepare_class_agnostic(source, output, progress=progress, folder=folder, wanted=wanted)


def parse_patches(text: str) -> range:
    """The patches of ``16-40`` or ``7``, both ends included.

    Raises:
        ValueError: it is neither.
    """
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if first > last:
        raise ValueError(f"{text!r} is neither a patch as 7 nor a range of them as 16-40")
    return range(first, last + 1)


def _patch(name: str) -> int:
    """The patch of an image by its folders; -1 where they do not tell."""
    match = _PATCH.search(name)
    return int(match[1]) if match else -1
