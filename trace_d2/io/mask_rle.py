"""Segmentations of COCO files: run lengths, compressed or as a list, and polygons.

pycocotools trusts what it decodes: some broken run lengths give masks of chance content. So they
are checked here first, number by number, and decoded by pycocotools after. What is wrong is a
``SegmentationError``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_LONGEST_NUMBER = 7  # characters of five bits
_CONTINUES, _NEGATIVE, _BITS = 0x20, 0x10, 0x1F


class SegmentationError(ValueError):
    """A segmentation, or the annotation around it, cannot be used.

    Attributes:
        kind: ``"missing"``, ``"broken RLE"``, ``"broken polygon"``, ``"size"``, or what
            ``coco_masks`` finds at fault besides.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def run_lengths(counts: Any) -> np.ndarray:
    """Run lengths (N,) int64 of COCO's compressed text or list: zeros, then ones, by columns."""
    if isinstance(counts, (str, bytes)):
        lengths = _decompress(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        lengths = np.array(counts, np.int64)
    else:
        raise _broken(f"counts are {type(counts).__name__}, neither text nor a list of integers")
    if not len(lengths):
        raise _broken("counts are empty")
    if lengths.min() < 0:
        raise _broken("a run length is negative")
    return lengths


def check_segmentation(segmentation: Any) -> int | None:
    """The area in pixels of a sound segmentation; None where it is a polygon."""
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        sides = size if isinstance(size, (list, tuple)) else ()
        if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
            raise _broken(f"its size is {size!r}, not [height, width]")
        lengths = run_lengths(segmentation.get("counts"))
        total = int(lengths.sum())
        if total != math.prod(sides):
            raise _broken(f"its runs cover {total} pixels, its size is {sides[0]}x{sides[1]} (HxW)")
        return int(lengths[1::2].sum())
    if isinstance(segmentation, list) and segmentation:
        for polygon in segmentation:
            _check_polygon(polygon)
        return None
    raise SegmentationError("missing", "it has no mask (segmentation)")


def check_fit(segmentation: Any, height: int, width: int) -> None:
    """Refuse a checked segmentation that is RLE of another size than the image, or far outside it.

    On polygons far outside pycocotools would run out of memory.
    """
    if isinstance(segmentation, list):
        reach = 4 * max(height, width)
        if any(max(polygon) > reach or min(polygon) < -reach for polygon in segmentation):
            raise SegmentationError("broken polygon", "a polygon lies far outside the image")
        return
    rows, columns = segmentation["size"]
    if (rows, columns) != (height, width):
        raise SegmentationError(
            "size",
            f"its size is {rows} x {columns} (height x width), its image's {height} x {width}",
        )


def encode_segmentation(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Compressed RLE of a checked segmentation of an image of that size; polygons are united."""
    check_fit(segmentation, height, width)
    if isinstance(segmentation, list):
        return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    if isinstance(segmentation["counts"], list):
        return dict(coco_mask.frPyObjects(segmentation, height, width))
    return dict(segmentation)


def text_rle(rle: Mapping[str, Any]) -> dict[str, Any]:
    """Compressed RLE of pycocotools as JSON takes it: ``{size: [H, W], counts: str}``."""
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask bool (H, W) of what ``encode_segmentation`` takes."""
    encoded = encode_segmentation(segmentation, height, width)
    mask: np.ndarray = coco_mask.decode([encoded])[..., 0]
    return np.ascontiguousarray(mask).view(bool)


def _decompress(counts: str | bytes) -> np.ndarray:
    """COCO's text to numbers: five bits a character, a flag that more follow, and a sign.

    From the fourth number on each is the difference to the one before the last.
    """
    data = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    if codes.min() < 0 or codes.max() > 63:
        raise _broken("counts hold characters that no RLE has")
    ends = np.flatnonzero(codes & _CONTINUES == 0)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise _broken("counts end within a number")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_NUMBER:
        raise _broken("a run length is beyond all sizes")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & _BITS) << 5 * places, starts)
    numbers -= np.where(codes[ends] & _NEGATIVE, 1 << 5 * lengths, 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _check_polygon(polygon: Any) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise SegmentationError("broken polygon", "a polygon is [x, y, x, y, x, y, ...]")
    for number in polygon:
        if type(number) not in (int, float) or not math.isfinite(number):
            raise SegmentationError("broken polygon", f"a polygon holds {number!r}")


def _broken(reason: str) -> SegmentationError:
    return SegmentationError("broken RLE", reason)
