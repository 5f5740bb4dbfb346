"""Sizes that annotations give their images, compared with the images' files.

Sizes are those of images as people see them, turned as EXIF says: so Detectron2 reads them, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trace_d2.complaints import MANY, tell_all
from trace_d2.data.dataset_files import TOLERATED_SHARE
from trace_d2.io.photographs import opened_image

logger = logging.getLogger(__name__)

AS_STORED = (
    "take the EXIF orientation out of the file if that is what was annotated, else correct width "
    "and height"
)
"""What to do with an image that EXIF turns, and whose annotations have its size as stored."""


def size_fault(path: Path, width: int, height: int, again: str) -> tuple[str, str]:
    """What is wrong with the image at ``path``, which is said to be of that size in pixels.

    With it what to do, ``again`` unless EXIF explains it. Both are empty if nothing is wrong. No
    pixel is decoded.

    Raises:
        ValueError, OSError: it cannot be read.
    """
    with opened_image(path) as opened:
        size, stored = opened.seen_size(), opened.size
    if size == (width, height):
        return "", ""
    as_stored = f" ({stored[0]}x{stored[1]} as stored, which EXIF turns)" if size != stored else ""
    fault = f"{path} is {size[0]}x{size[1]} pixels{as_stored}, its annotations {width}x{height}"
    return fault, AS_STORED if size != stored == (width, height) else again


def tolerate_faults(faults: Sequence[tuple[str, str]], total: int) -> None:
    """Tell by name which of ``total`` images are left out for their ``faults`` (and remedies).

    Raises:
        ConfigError: they are 1 % or more.
    """
    if len(faults) >= TOLERATED_SHARE * total:
        tell_all([f"{fault}: {remedy}" for fault, remedy in faults])
    for fault, _ in faults[:MANY]:
        logger.warning("%s: left out with its annotations", fault)
    if len(faults) > MANY:
        logger.warning("%d more images are left out for such reasons", len(faults) - MANY)


def of_own_size(
    images: Sequence[dict[str, Any]], folder: str | Path, origin: str, progress: bool = True
) -> list[dict[str, Any]]:
    """Those of ``images`` (COCO's entries) that are as large as their files in ``folder``.

    Of others, if they are fewer than 1 %, it is told by name.

    Args:
        origin: the file that lists them, for messages.

    Raises:
        ConfigError: 1 % of the files or more are of another size, or cannot be read.
    """
    again = f"put the images and {origin} there again"
    faults: dict[Any, tuple[str, str]] = {}
    for image in tqdm(images, unit="image", disable=not progress):
        path = Path(folder, image["file_name"])
        try:
            fault = size_fault(path, image["width"], image["height"], again)
        except (ValueError, OSError) as error:
            fault = str(error), again
        if any(fault):
            faults[image["id"]] = fault
    tolerate_faults(list(faults.values()), len(images))
    return [image for image in images if image["id"] not in faults]
