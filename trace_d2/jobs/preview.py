"""The pictures of one image as they lie in a folder of results: checked, as the page takes them."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trace_d2.io.json_files import FieldError, json_list, json_object, number, read_json, side
from trace_d2.io.json_files import whole_number as whole
from trace_d2.jobs.layout import PREVIEWS
from trace_d2.jobs.pictures import LONG_SIDE, PHOTOGRAPH, holds_numbers
from trace_d2.jobs.store import JobStore
from trace_d2.terminal import plain_lines

_ADDRESS = re.compile(r"data:image/(jpeg|webp);base64,[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class Preview:
    """The pictures of one image, sound.

    Attributes:
        content: for the page's script: texts, numbers and ``data:`` addresses.
        keys: of the panes that there are.
        size: width and height of the maps; None where there are none.
        legend: names of the classes in all panes, with the colours (RGB) of their regions.
    """

    content: dict[str, Any]
    keys: frozenset[str]
    size: tuple[int, int] | None
    legend: Mapping[str, list[tuple[int, int, int]]]

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height to paint small maps at, so that lines over them are fine."""
        width, height = self.size or (1, 1)
        scale = max(1, LONG_SIDE // max(width, height))
        return width * scale, height * scale


def read_preview(store: JobStore, stem: str) -> Preview | None:
    """The pictures of the image ``stem`` of a folder; None where their file is damaged."""
    try:
        content = json_object(read_json(store.fetch(store.path(PREVIEWS, stem))))
        if "format" not in content:  # format 1: painted pictures by the keys of their panes
            pictures = _each(content, _address)
            return Preview({"strengths": pictures}, frozenset(pictures), None, {})
        size = [side(value) for value in json_list(content["size"])]
        if len(size) != 2 or max(size) > LONG_SIDE:
            raise FieldError("is of another size than ours")
        regions = _each(content["regions"], lambda pane: _regions(pane, size[0] * size[1]))
        strengths = _each(content["strengths"], _address)
        cuts = [
            [whole(one), whole(other), number(strength)]
            for one, other, strength in json_list(content["cuts"])
        ]
        sound = {
            "size": size,
            "photograph": _address(content["photograph"]),
            "regions": regions,
            "strengths": strengths,
            "cuts": cuts,
            "cuts_of": _plain(content["cuts_of"]),
            "pale": [_plain(name) for name in json_list(content.get("pale", []))],
        }
        keys = frozenset((*regions, *strengths, PHOTOGRAPH))
        return Preview(sound, keys, (size[0], size[1]), _legend(regions))
    except (OSError, KeyError, TypeError, ValueError, zlib.error):
        return None


def _each(content: Any, read: Callable[[Any], Any]) -> dict[str, Any]:
    return {_plain(key): read(value) for key, value in json_object(content).items()}


def _plain(text: Any) -> str:
    if not isinstance(text, str):
        raise FieldError("is no text")
    return plain_lines(text)


def _address(text: Any) -> str:
    if not isinstance(text, str) or not _ADDRESS.fullmatch(text):
        raise FieldError("is no picture")
    return text


def _regions(pane: Any, pixels: int) -> dict[str, Any]:
    packed = json_object(pane)["numbers"]
    if not holds_numbers(base64.b64decode(packed, validate=True), pixels):
        raise FieldError("has not a number for every pixel")
    marks = []
    for rank, name, color, text in json_list(pane["marks"]):
        channels = [whole(channel) for channel in json_list(color)]
        if len(channels) != 3 or not all(0 <= channel <= 255 for channel in channels):
            raise FieldError("has colours that are none")
        marks.append([whole(rank), _plain(name), channels, _plain(text)])
    return {"numbers": packed, "marks": marks}


def _legend(panes: Mapping[str, Any]) -> dict[str, list[tuple[int, int, int]]]:
    legend: dict[str, dict[tuple[int, int, int], None]] = {}
    for pane in panes.values():
        for _, name, color, _ in pane["marks"]:
            legend.setdefault(name, {})[tuple(color)] = None
    return {name: list(colors) for name, colors in legend.items()}
