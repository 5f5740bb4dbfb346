"""Regions that pathologists draw in ImageScope: its XML of polygons.

Expat reads it line by line, so that what is wrong is told with its line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from .remote import InputFile, input_file

_AGAIN = "unpack the data set again"


@dataclass(frozen=True)
class Region:
    """One region.

    Attributes:
        points: its corners x, y in pixels, the upper left corner of the image being 0, 0.
        line: where it begins in the file, from 1.
    """

    line: int
    points: list[tuple[float, float]] = field(default_factory=list)


def read_regions(path: str | InputFile) -> list[Region]:
    """All regions of a file, in its order: ``Vertex`` elements with ``X`` and ``Y`` of ``Region``s.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such XML; the message names the line.
    """
    path = input_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"no annotation at {path}: {_AGAIN}")
    reader, parser = _Reader(), expat.ParserCreate()
    parser.StartElementHandler = lambda tag, values: reader.start(tag, values, parser)
    parser.EntityDeclHandler = _refuse_entities
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, ValueError) as error:
        reason = expat.ErrorString(error.code) if isinstance(error, expat.ExpatError) else error
        line = parser.CurrentLineNumber
        raise ValueError(f"{path}, line {line}: {reason}: {_AGAIN}") from error
    if not reader.rooted:
        raise ValueError(f"{path} is no XML of ImageScope (<Annotations>): {_AGAIN}")
    return reader.regions


class _Reader:
    """What elements come to."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.rooted = False

    def start(self, tag: str, values: Mapping[str, str], parser: expat.XMLParserType) -> None:
        if tag == "Annotations":
            self.rooted = True
        elif tag == "Region":
            self.regions.append(Region(parser.CurrentLineNumber))
        elif tag == "Vertex":
            if not self.regions:
                raise ValueError("a Vertex outside any Region")
            self.regions[-1].points.append((_place(values, "X"), _place(values, "Y")))


def _place(values: Mapping[str, str], axis: str) -> float:
    try:
        place = float(values[axis])
    except (KeyError, ValueError):
        place = math.nan
    if not math.isfinite(place):
        raise ValueError(f"a Vertex whose {axis} is {values.get(axis)!r}, not a number of pixels")
    return place


def _refuse_entities(name: str, *_: object) -> None:
    raise ValueError(f"it declares the entity {name!r}, which no annotation needs")
