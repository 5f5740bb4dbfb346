"""What the report page shows of one image: its photograph, and regions and strengths over it.

A kind of job describes it as data (``Pictures``). The photograph is kept once, maps of regions are
kept as numbers, a few kilobytes each, and the page's script paints them: so every pane is sharp
where it is enlarged, and what lies under the pointer is shown in all of them at once.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from trace_d2.io.regions import label_areas, overlaps
from trace_d2.jobs.colors import Color, distinct_colors

PHOTOGRAPH = "image"
"""The pane of the photograph, over which cut borders are drawn."""

LONG_SIDE = 560  # pixels
_QUALITY = 70  # of WebP
_MOST_NUMBERS = 65535


@dataclass(frozen=True)
class Mark:
    """What a number of a map of regions stands for.

    Attributes:
        name: of the class: what images are filtered by.
        color: RGB.
        text: what is said besides, as ``"no. 3, 1.2 % of the image"``.
    """

    name: str
    color: Color
    text: str = ""


@dataclass(frozen=True)
class Regions:
    """Regions of an image.

    Attributes:
        numbers: integer (H, W), 0 = none.
        marks: what each number stands for.
    """

    numbers: np.ndarray
    marks: Mapping[int, Mark]


@dataclass(frozen=True)
class Pictures:
    """What is shown of one image.

    Attributes:
        photograph: uint8 (H, W, 3) RGB.
        panes: by their keys: regions, or strengths, float (H, W) in 0..1. The pane
            ``PHOTOGRAPH`` is there without being named.
        cuts: how strong the edges are along borders of ``cuts_of``, by pairs of numbers.
        cuts_of: the pane whose borders these are.
        pale: names of classes that are painted paler: stuff, beside things.
    """

    photograph: np.ndarray
    panes: Mapping[str, Regions | np.ndarray]
    cuts: Mapping[tuple[int, int], float] = field(default_factory=dict)
    cuts_of: str = ""
    pale: Sequence[str] = ()


def stacked(masks: Sequence[np.ndarray] | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """int32 (H, W): 1 + the mask that a pixel is in, of several the smallest; 0 = none.

    Args:
        masks: bool (H, W) each.
        shape: (H, W).
    """
    numbers = np.zeros(shape, np.int32)
    for rank in sorted(range(len(masks)), key=lambda i: -np.count_nonzero(masks[i])):
        numbers[masks[rank]] = rank + 1
    return numbers


def colored(
    numbers: np.ndarray,
    names: Mapping[int, str],
    wanted: Mapping[str, Color],
    texts: Mapping[int, str] | None = None,
    shown: Sequence[Regions] = (),
    numbered: bool = True,
) -> Regions:
    """Regions, each in a colour of its own.

    What panes before show of the same class in the same place has the same colour: each region
    follows the one that it overlaps best (by intersection over union), and no two follow one.

    Args:
        numbers: integer (H, W), 0 = none.
        names: of the class of each number.
        wanted: colours of classes. The largest region of a class that no pane before shows gets
            it, unless it is nearly one that is taken.
        texts: what is said of a number besides its share of the image, as ``"score 0.93"``.
        shown: panes before, of the same size.
        numbered: whether the numbers are said.
    """
    areas = label_areas(numbers, max(names, default=0) + 1)
    known = {mark.name for pane in shown for mark in pane.marks.values()}
    largest: dict[str, int] = {}
    for number, name in names.items():
        if name not in known and (name not in largest or areas[number] > areas[largest[name]]):
            largest[name] = number
    own = {number: wanted[name] for name, number in largest.items() if name in wanted}
    taken = {mark.color for pane in shown for mark in pane.marks.values()}
    colors = distinct_colors(numbers, own, _followed(numbers, names, shown), sorted(taken))

    def told(number: int) -> str:
        said = [f"no. {number}"] if numbered else []
        said += [(texts or {}).get(number, ""), f"{areas[number] / numbers.size:.1%} of the image"]
        return ", ".join(filter(None, said))

    return Regions(
        numbers,
        {n: Mark(name, colors[n], told(n)) for n, name in names.items() if areas[n]},
    )


def _followed(
    numbers: np.ndarray, names: Mapping[int, str], shown: Sequence[Regions]
) -> dict[int, Color]:
    """The colours of ``shown`` that regions take, each of them once."""
    pairs = []
    for pane in shown:
        areas, others = label_areas(numbers), label_areas(pane.numbers)
        found = map(np.ndarray.tolist, overlaps(numbers, pane.numbers))
        for one, other, pixels in zip(*found, strict=True):
            mark = pane.marks.get(other)
            if one in names and mark and mark.name == names[one]:
                union = areas[one] + others[other] - pixels
                pairs.append((-pixels / union, one, other, mark.color))
    colors: dict[int, Color] = {}
    for _, one, _, color in sorted(pairs):
        if one not in colors and color not in colors.values():
            colors[one] = color
    return colors


def cut_strengths(
    numbers: np.ndarray, uncut: np.ndarray, edges: np.ndarray
) -> dict[tuple[int, int], float]:
    """How strong edges are where they cut, by pairs of numbers of the regions that touch there.

    Args:
        numbers: integer (H, W) regions, 0 = none.
        uncut: integer (H, W): the regions without edges. A cut lies inside one of them.
        edges: float (H, W) strength in 0..1.

    Returns:
        the mean over each border, 0..1, of the stronger of the two pixels that face each other.
    """
    count = int(numbers.max(initial=0)) + 1
    codes, strengths = [], []
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        one, other = numbers[first], numbers[second]
        inside = (uncut[first] == uncut[second]) & (uncut[first] > 0)
        facing = np.nonzero((one != other) & (one > 0) & (other > 0) & inside)
        one, other = one[facing].astype(np.int64), other[facing].astype(np.int64)
        codes.append(np.minimum(one, other) * count + np.maximum(one, other))
        strengths.append(np.maximum(edges[first][facing], edges[second][facing]))
    code, index = np.unique(np.concatenate(codes), return_inverse=True)
    means = np.bincount(index, np.concatenate(strengths)) / np.bincount(index)
    pairs = zip((code // count).tolist(), (code % count).tolist(), strict=True)
    return dict(zip(pairs, means.tolist(), strict=True))


def encode(pictures: Pictures) -> dict[str, Any]:
    """``pictures`` as JSON, no larger than the page shows them."""
    photograph = pictures.photograph
    height, width = photograph.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    regions, strengths = {}, {}
    for key, pane in pictures.panes.items():
        if isinstance(pane, Regions):
            regions[key] = {
                "numbers": _packed(nearest(pane.numbers, size)),
                "marks": [
                    [number, mark.name, list(mark.color), mark.text]
                    for number, mark in pane.marks.items()
                ],
            }
        else:
            strengths[key] = _address(paint_edges(pane, size))
    return {
        "format": 2,
        "size": list(size),
        "photograph": _address(small),
        "regions": regions,
        "strengths": strengths,
        "cuts_of": pictures.cuts_of,
        "cuts": [[*pair, round(strength, 3)] for pair, strength in pictures.cuts.items()],
        "pale": list(pictures.pale),
    }


def holds_numbers(packed: bytes, pixels: int) -> bool:
    """Whether ``packed``, of ``encode``, holds a number for each pixel. Raises zlib.error."""
    reader = zlib.decompressobj()
    return len(reader.decompress(packed, 2 * pixels + 1)) == 2 * pixels and reader.eof


def paint_edges(edges: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Edge strength float32 (H, W) in 0..1 as white on black, uint8 of ``size`` (width, height).

    Thin edges fade when an image shrinks, so every pixel shows the strongest edge it stands for.
    """
    step = max(-(-edges.shape[0] // size[1]), -(-edges.shape[1] // size[0]))
    strongest = cv2.dilate(edges, np.ones((step, step), np.uint8)) if step > 1 else edges
    return np.rint(np.clip(nearest(strongest, size), 0, 1) * 255).astype(np.uint8)


def paint_segments(image: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Segments over a pale image, each in a colour of its own, with white borders.

    Args:
        image: uint8 (H, W, 3) RGB.
        numbers: int (H, W) from 0 = void, which stays dark; they count up without large gaps.
    """
    colors = np.full((int(numbers.max()) + 1, 3), 40, np.float32)
    for number, color in distinct_colors(numbers).items():
        colors[number] = color
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    painted = (0.7 * colors[numbers] + 0.3 * grey).astype(np.uint8)
    painted[borders(numbers)] = 255
    return painted


def borders(numbers: np.ndarray) -> np.ndarray:
    """bool (H, W): whether the pixel below or to the right has another number."""
    border = np.zeros(numbers.shape, bool)
    border[:-1] |= numbers[:-1] != numbers[1:]
    border[:, :-1] |= numbers[:, :-1] != numbers[:, 1:]
    return border


def nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``array`` (H, W) at ``size`` (width, height), without mixing its values."""
    rows = ((np.arange(size[1]) + 0.5) * array.shape[0] / size[1]).astype(np.intp)
    columns = ((np.arange(size[0]) + 0.5) * array.shape[1] / size[0]).astype(np.intp)
    return array[np.ix_(rows, columns)]


def _packed(numbers: np.ndarray) -> str:
    """All low bytes, then all high bytes, deflated: a map has few numbers above 255."""
    levels = np.minimum(numbers.astype(np.int64), _MOST_NUMBERS).astype("<u2")
    planes = levels.view(np.uint8).reshape(-1, 2).T
    return _text(zlib.compress(planes.tobytes(), 9))


def _address(pixels: np.ndarray) -> str:
    """uint8 (H, W) or RGB (H, W, 3) as a WebP in a ``data:`` address."""
    ordered = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1])
    _, data = cv2.imencode(".webp", ordered, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    return f"data:image/webp;base64,{_text(data.tobytes())}"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
