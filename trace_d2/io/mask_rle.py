"""Segmentations of COCO files: run lengths, compressed or as a list, and polygons.

pycocotools trusts what it decodes: some broken run lengths give masks of chance content, and some
sizes all the memory there is. So they are checked here first, number by number, and decoded by
pycocotools after. What is wrong is a ``SegmentationError``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from .json_files import FieldError, quoted, shown, whole_number
from .limits import MAX_PIXELS, check_size, max_pixels

_LONGEST_NUMBER = 7  # characters of five bits
_ALPHABET = bytes(range(48, 112))
_CONTINUES, _NEGATIVE, _BITS = 0x20, 0x10, 0x1F
_NUMBERS = frozenset((int, float))
_FARTHEST = 2**28  # pycocotools counts fifths of a pixel in 32 bits
_LONGEST_OUTLINE = 2**21  # in pixels; pycocotools takes 80 bytes for each


class SegmentationError(ValueError):
    """A segmentation, or the annotation around it, cannot be used.

    Attributes:
        kind: ``"missing"``, ``"form"``, ``"broken RLE"``, ``"broken polygon"``, ``"size"``, or what
            ``coco_rows`` finds at fault besides.
        remedy: what to do about it.
    """

    def __init__(
        self, kind: str, reason: str, remedy: str = "correct the annotation or remove it"
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.remedy = remedy


class SoundMask(NamedTuple):
    """A segmentation that can be decoded.

    Attributes:
        segmentation: RLE with integer sides, or polygons of three points or more.
        area: pixels of RLE; of polygons the sum of what they enclose.
        extent: left, top, right, bottom of polygons; None of RLE.
        short: how many polygons of fewer than three points were left out.
    """

    segmentation: Any
    area: float
    extent: tuple[float, float, float, float] | None = None
    short: int = 0

    def normalised(self) -> bool:
        """Whether these are polygons that lie within 0..1, as shares of an image do."""
        if self.extent is None or self.extent[2] > 1 or self.extent[3] > 1:
            return False
        return min(self.extent) >= -1

    def box(self) -> list[float]:
        """Left, top, width and height of the mask in pixels; zeros of one without a pixel."""
        if self.extent is not None:
            left, top, right, bottom = self.extent
            return [left, top, right - left, bottom - top]
        rle = self.segmentation
        if isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, *rle["size"])
        box: list[float] = coco_mask.toBbox(rle).tolist()
        return box

    def check_fit(self, height: int, width: int) -> None:
        """As the function of that name, which looks closer where that is needed."""
        if self.extent is not None:
            left, top, right, bottom = self.extent
            numbers = sum(map(len, self.segmentation))
            within = left >= 0 <= top and right <= width and bottom <= height
            if within and numbers * max(height, width) <= _LONGEST_OUTLINE:
                return
        check_fit(self.segmentation, height, width)

    def has_pixels(self, height: int | None = None, width: int | None = None) -> bool:
        """Whether it covers a pixel of an image of that size, or of any size.

        What surely does is not painted: what lies within the image and is a pixel thick or more.
        """
        if self.extent is None:
            return self.area > 0
        left, top, right, bottom = self.extent
        within = height is None or (left >= 0 <= top and right <= width and bottom <= height)  # type: ignore[operator]
        if within and self.area > right - left + bottom - top:
            return True
        if height is not None and (right <= 0 or bottom <= 0 or left >= width or top >= height):  # type: ignore[operator]
            return False
        polygons = self.segmentation
        if height is None or width is None:
            origin = math.floor(left), math.floor(top)
            polygons = [
                [place - origin[axis % 2] for axis, place in enumerate(polygon)]
                for polygon in polygons
            ]
            height, width = math.ceil(bottom) - origin[1] + 1, math.ceil(right) - origin[0] + 1
            if height * width > max_pixels():
                return True  # check_fit will tell
        return bool(coco_mask.area(encode_segmentation(polygons, height, width)))


def run_lengths(counts: Any) -> list[int]:
    """Run lengths of COCO's compressed text or list: zeros, then ones, by columns."""
    if isinstance(counts, (str, bytes)):
        lengths = _decompress(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        lengths = counts
    else:
        wrong = counts
        if isinstance(counts, list):
            wrong = next(count for count in counts if type(count) is not int)
        raise _broken(f"counts hold {quoted(wrong)}: they are text or a list of whole numbers")
    if not lengths:
        raise _broken("counts are empty")
    if min(lengths) < 0:
        raise _broken("a run length is negative")
    return lengths


def check_segmentation(segmentation: Any) -> SoundMask:
    """The mask of a sound segmentation.

    Of several polygons those of fewer than three points, which enclose nothing, are left out.

    Raises:
        SegmentationError: it is none.
    """
    if not isinstance(segmentation, list):
        if isinstance(segmentation, Mapping):
            return _check_rle(segmentation)
        if segmentation is not None:
            raise _wrong_form(segmentation)
    if not segmentation:
        raise SegmentationError("missing", "it has no mask (segmentation)")
    polygons, area = [], 0.0
    extent: tuple[float, float, float, float] | None = None
    for polygon in segmentation:
        if not isinstance(polygon, list):
            raise _wrong_form(segmentation)
        if len(polygon) >= 6:
            corners, own = _check_polygon(polygon)
            extent = corners if extent is None else _around(extent, corners)
            area += own
            polygons.append(polygon)
    if extent is None:
        raise _wrong_form(segmentation)
    return SoundMask(polygons, area, extent, len(segmentation) - len(polygons))


def check_fit(segmentation: Any, height: int, width: int) -> None:
    """Refuse a checked segmentation that is RLE of another size than the image, or far outside it.

    On polygons far outside, and on very long ones, pycocotools would run out of memory.
    """
    if isinstance(segmentation, list):
        reach = min(4 * max(height, width), _FARTHEST)
        for polygon in segmentation:
            low, high = min(polygon), max(polygon)
            if high > reach or low < -reach:
                raise SegmentationError("broken polygon", "a polygon lies far outside the image")
            long = len(polygon) * (high - low) > _LONGEST_OUTLINE
            if long and _outline(polygon) > _LONGEST_OUTLINE:
                raise SegmentationError(
                    "broken polygon",
                    f"a polygon has an outline of more than {_LONGEST_OUTLINE} pixels",
                )
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


def _check_rle(rle: Mapping[str, Any]) -> SoundMask:
    size = rle.get("size")
    try:
        height, width = map(whole_number, size if isinstance(size, (list, tuple)) else ())
    except (FieldError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise _broken(f"its size is {quoted(size)}, not [height, width]")
    if height * width > MAX_PIXELS:  # which the environment may raise
        try:
            check_size(width, height, "its mask")
        except ValueError as error:
            raise _broken(str(error)) from error
    lengths = run_lengths(rle.get("counts"))
    total = sum(lengths)  # of Python's integers, which never wrap
    if total != height * width:
        raise _broken(f"its runs cover {shown(total)} pixels, its size is {height}x{width} (HxW)")
    sound = {"size": [height, width], "counts": rle["counts"]}
    return SoundMask(sound, sum(lengths[1::2]))


def _decompress(counts: str | bytes) -> list[int]:
    """COCO's text to numbers: five bits a character, a flag that more follow, and a sign.

    From the fourth number on each is the difference to the one before the last.
    """
    data = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
    if not data:
        return []
    if data.translate(None, _ALPHABET):
        raise _broken("counts hold characters that no RLE has")
    codes = np.frombuffer(data, np.uint8).astype(np.int64)
    codes -= _ALPHABET[0]
    ends = (codes < _CONTINUES).nonzero()[0]
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise _broken("counts end within a number")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_NUMBER:
        raise _broken("a run length is beyond all sizes")
    places = np.arange(len(codes)) - starts.repeat(lengths)
    numbers = np.add.reduceat((codes & _BITS) << 5 * places, starts)
    negative = (codes[ends] & _NEGATIVE).astype(bool)
    numbers[negative] -= 1 << 5 * lengths[negative]
    runs: list[int] = numbers.tolist()
    runs[1::2] = accumulate(runs[1::2])
    runs[2::2] = accumulate(runs[2::2])
    return runs


def _check_polygon(polygon: list[Any]) -> tuple[tuple[float, float, float, float], float]:
    """Left, top, right and bottom of a polygon, and the area that it encloses."""
    if len(polygon) % 2:
        raise SegmentationError(
            "broken polygon", f"a polygon has {len(polygon)} numbers: it is [x, y, x, y, ...]"
        )
    if not _NUMBERS.issuperset(map(type, polygon)):
        if isinstance(polygon[0], list):
            raise _wrong_form([polygon])
        wrong = next(place for place in polygon if type(place) not in _NUMBERS)
        raise SegmentationError("broken polygon", f"a polygon holds {quoted(wrong)}")
    x, y = polygon[::2], polygon[1::2]
    left, top, right, bottom = corners = min(x), min(y), max(x), max(y)
    twice = math.nan
    if left >= -_FARTHEST and top >= -_FARTHEST and right <= _FARTHEST and bottom <= _FARTHEST:
        with contextlib.suppress(OverflowError):  # hidden behind what is not a number
            twice = sum(map(mul, x, y[1:])) - sum(map(mul, x[1:], y)) + x[-1] * y[0] - x[0] * y[-1]
    if math.isnan(twice):
        wrong = next(place for place in polygon if not -_FARTHEST <= place <= _FARTHEST)
        what = "lies far outside any image, at" if abs(wrong) < math.inf else "holds"
        raise SegmentationError("broken polygon", f"a polygon {what} {quoted(wrong)}")
    return corners, abs(twice) / 2


def _around(
    first: tuple[float, float, float, float], second: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of two boxes together."""
    (*near, right, bottom), (*other, end, below) = first, second
    return min(near[0], other[0]), min(near[1], other[1]), max(right, end), max(bottom, below)


def _outline(polygon: list[float]) -> float:
    """The length of an outline as pycocotools walks it, along the longer axis of each side."""
    points = np.array(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())


def _wrong_form(segmentation: Any) -> SegmentationError:
    """What a segmentation is that is neither RLE nor a list of polygons."""
    found = quoted(segmentation)
    if isinstance(segmentation, list):
        first = segmentation[0]
        if isinstance(first, Mapping):
            found = "a list around RLE"
        elif type(first) in (int, float):
            found = "one flat list of numbers"
        elif isinstance(first, list) and first and isinstance(first[0], list):
            found = "polygons of [x, y] points"
        elif all(isinstance(part, list) for part in segmentation):
            if len(segmentation) == 1 or any(len(part) != 2 for part in segmentation):
                reason = "all its polygons have fewer than three points (six numbers)"
                return SegmentationError("broken polygon", reason)
            found = "one list of [x, y] points"
    form = 'neither RLE, {"size": ..., "counts": ...}, nor a list of polygons: [[x, y, ...]]'
    return SegmentationError("form", f"its segmentation is {found}, {form}")


def _broken(reason: str) -> SegmentationError:
    return SegmentationError("broken RLE", reason)
