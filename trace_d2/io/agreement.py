"""Whether the panoptic PNG of an image and its ``segments_info`` speak of the same segments."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .json_files import shown
from .panoptic_fields import VOID
from .regions import region_statistics

logger = logging.getLogger(__name__)

_GROSS = 0.1  # share of the larger area by which areas differ that are not those of the PNG
_GREY = 1 + 256 + 65536  # the id of grey is a multiple of this


@dataclass(frozen=True)
class Disagreement:
    """Where PNG and ``segments_info`` of one image differ; false if nowhere.

    Attributes:
        absent: listed ids that no pixel has.
        unlisted: ids of pixels that are not listed.
        resized: listed ids whose ``area`` is far from what the pixels are.
        cause: what probably happened, where that can be told.
    """

    absent: tuple[int, ...] = ()
    unlisted: tuple[int, ...] = ()
    resized: tuple[int, ...] = ()
    cause: str = ""

    def __bool__(self) -> bool:
        return bool(self.absent or self.unlisted or self.resized)

    def __str__(self) -> str:
        parts = {
            "listed ids without a pixel": self.absent,
            "ids of pixels that are not listed": self.unlisted,
            "ids whose area is another": self.resized,
        }
        found = [f"{text} {list(ids[:5])}" for text, ids in parts.items() if ids]
        return ", ".join(found) + self.cause


def compare_segments(
    present: np.ndarray, areas: np.ndarray, segments: Sequence[Mapping[str, Any]]
) -> Disagreement:
    """How the ids of a PNG and the segments that are listed for it differ.

    Args:
        present: (N,) int64, the ids of the PNG's pixels, ascending; void is passed over.
        areas: (N,) their pixels.
        segments: ``{id, area (if known)}`` each.

    Raises:
        ValueError: segments are listed and none of them has a pixel.
    """
    inside = present != VOID
    pixels = dict(zip(present[inside].tolist(), areas[inside].tolist(), strict=True))
    listed = {segment["id"]: segment.get("area") for segment in segments}
    if listed.keys() == pixels.keys():
        resized = tuple(k for k, area in listed.items() if _far(area, pixels[k]))
        return Disagreement(resized=resized) if resized else Disagreement()
    absent = tuple(sorted(listed.keys() - pixels.keys()))
    unlisted = tuple(sorted(pixels.keys() - listed.keys()))
    resized = tuple(k for k, area in listed.items() if k in pixels and _far(area, pixels[k]))
    cause = probable_cause(pixels.keys(), segments)
    if listed and len(absent) == len(listed):
        held = f"ids {list(unlisted[:5])}" if unlisted else "nothing but void"
        raise ValueError(
            f"the PNG holds {held}, and none of the ids that are listed for it, such as "
            f"{list(absent[:5])}{cause}: give the PNGs that belong to the JSON, or make both again"
        )
    return Disagreement(absent, unlisted, resized, cause)


def check_segments(segment_ids: np.ndarray, segments: Sequence[Mapping[str, Any]]) -> Disagreement:
    """``compare_segments`` of a map (H, W) of segment ids."""
    present, areas, _ = region_statistics(segment_ids)
    return compare_segments(present, areas, segments)


def probable_cause(present: Collection[int], segments: Iterable[Mapping[str, Any]]) -> str:
    """Why the ids ``present`` in a PNG are not those listed, as a remark; empty if unknown."""
    found = set(present) - {VOID}
    listed = {segment["id"]: segment.get("category_id") for segment in segments}
    if not found:
        return ""
    common = len(listed.keys() & found)
    swapped = {id_ >> 16 | id_ & 0xFF00 | (id_ & 0xFF) << 16 for id_ in found}
    if len(listed.keys() & swapped) > max(common, len(listed) // 2):
        return " (its bytes are in the order B, G, R: write them as R, G, B)"
    grey = {id_ // _GREY for id_ in found if id_ % _GREY == 0}
    if len(grey) == len(found) and len(listed.keys() & grey) > common:
        return " (it was a grey or palette image: write id = R + 256 G + 65536 B)"
    classes = {*listed.values(), VOID, 255}
    if not common and max(found) < 65536 and {id_ & 0xFF for id_ in found} <= classes:
        return (
            " (its red channel holds classes and its green one instances: convert this two-channel "
            "format, as panopticapi's converters do)"
        )
    return ""


def warn_of_disagreements(
    origin: str, found: Mapping[Any, Disagreement], consequence: str = ""
) -> None:
    """One warning that counts the disagreements of the images of ``origin``, by image id."""
    real = {key: one for key, one in found.items() if one}
    if not real:
        return
    counts = {
        "listed segments without a pixel": sum(len(one.absent) for one in real.values()),
        "segments of PNGs that are not listed": sum(len(one.unlisted) for one in real.values()),
        "areas that are not those of the PNGs": sum(len(one.resized) for one in real.values()),
    }
    first, example = next(iter(real.items()))
    logger.warning(
        "%s disagrees with its PNGs in %d images: %s%s; first: image %s, %s",
        origin,
        len(real),
        ", ".join(f"{count} {text}" for text, count in counts.items() if count),
        consequence,
        shown(first),
        example,
    )


def _far(area: float | None, pixels: int) -> bool:
    return area is not None and abs(area - pixels) > _GROSS * max(abs(area), pixels)
