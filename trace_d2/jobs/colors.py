"""Colours that people tell apart: no two of an image nearly the same, those of neighbours least.

Differences are taken in OKLab (Ottosson, 2020), which is even in blues as well, where CIELAB calls
two colours different that look the same.
"""

from __future__ import annotations

import colorsys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from trace_d2.io.regions import label_areas

Color = tuple[int, int, int]
"""RGB, 0..255 each."""

NEARLY_ONE = 0.1
"""The distance in OKLab, whose lightness is 0..1, below which two colours are nearly the same."""

_NEARBY = (1, 4)  # pixels: regions so far apart are neighbours


def oklab(colors: np.ndarray) -> np.ndarray:
    """float64 (N, 3) lightness, green to red, blue to yellow of ``colors`` (N, 3) RGB 0..255."""
    share = np.asarray(colors, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )


def distinct_colors(
    numbers: np.ndarray,
    wanted: Mapping[int, Color] | None = None,
    given: Mapping[int, Color] | None = None,
    elsewhere: Sequence[Color] = (),
) -> dict[int, Color]:
    """A colour for every region of a map.

    The largest region chooses first. It takes the colour wanted for it, unless that is nearly one
    that a larger region wants or that is taken; else the one that is farthest from all that are
    taken, the colours of its neighbours counting as half as far away. Nothing else decides.

    Args:
        numbers: integer (H, W), 0 = none.
        wanted: colours of some regions.
        given: colours that some regions have in any case.
        elsewhere: colours that are taken by what is not in the map.

    Returns:
        by number, all that occur.
    """
    wanted, given = wanted or {}, given or {}
    sizes = {n: a for n, a in enumerate(label_areas(numbers).tolist()) if n and a}
    neighbours = _neighbours(numbers)
    palette, places = _palette()
    # The distance of each to the nearest that is taken.
    nearest = _distances(places, _places(elsewhere))
    taken: dict[int, np.ndarray] = {}
    colors: dict[int, Color] = {}
    by_size = sorted(sizes, key=lambda n: (-sizes[n], n))
    own = {number: given[number] for number in by_size if number in given}
    own |= _own_colors([n for n in by_size if n in wanted], wanted, [*own.values(), *elsewhere])
    for number in sorted(by_size, key=lambda n: n not in own):
        if number in own:
            color = own[number]
            place = oklab(np.array([color]))[0]
        else:
            beside = [taken[other] for other in neighbours[number] if other in taken]
            near = _distances(places, beside)
            rank = int(np.argmax(np.minimum(nearest, near / 2) + np.minimum(near, 1) / 10))
            color, place = palette[rank], places[rank]
        colors[number], taken[number] = color, place
        nearest = np.minimum(nearest, _distances(places, [place]))
    return colors


def _own_colors(
    numbers: Sequence[int], wanted: Mapping[int, Color], taken: Sequence[Color]
) -> dict[int, Color]:
    """The colours wanted for ``numbers``, without those nearly one that is taken before."""
    own: dict[int, Color] = {}
    for number in numbers:
        (place,) = _places([wanted[number]])
        others = _places([*taken, *own.values()])
        if _distances(place[None], others)[0] >= NEARLY_ONE:
            own[number] = wanted[number]
    return own


def _places(colors: Sequence[Color]) -> list[np.ndarray]:
    return list(oklab(np.array(colors).reshape(-1, 3)))


def _distances(places: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """float64 (N,): from each of ``places`` (N, 3) to the nearest of ``others``."""
    if not others:
        return np.full(len(places), 10.0)
    return np.linalg.norm(places[:, None] - np.array(others)[None], axis=2).min(axis=1)


def _neighbours(numbers: np.ndarray) -> dict[int, set[int]]:
    """The regions beside each region."""
    pairs: dict[int, set[int]] = defaultdict(set)
    count = int(numbers.max(initial=0)) + 1
    for step in _NEARBY:
        for one, other in (
            (numbers[:, :-step], numbers[:, step:]),
            (numbers[:-step], numbers[step:]),
        ):
            facing = (one != other) & (one > 0) & (other > 0)
            for code in np.unique(one[facing].astype(np.int64) * count + other[facing]).tolist():
                first, second = divmod(code, count)
                pairs[first].add(second)
                pairs[second].add(first)
    return pairs


@cache
def _palette() -> tuple[list[Color], np.ndarray]:
    """Colours that show on a grey photograph, and their places in OKLab."""
    colors = [
        tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue / 30, saturation, value))
        for value in (1.0, 0.82, 0.62)
        for saturation in (0.9, 0.6, 0.35)
        for hue in range(30)
    ]
    return colors, oklab(np.array(colors))  # type: ignore[return-value]  # they are of three each
