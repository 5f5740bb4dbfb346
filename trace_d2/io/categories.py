"""The categories of a data set: what a pixel of a semantic mask may say.

An ``id`` is what semantic masks and COCO files hold, so it fits 8 bits and leaves 255 for
"unknown". Id 0 is a category like any other: DHR and MARS give it to the background. In panoptic
files only the *segment* id 0 means void; ``category_id`` 0 is an ordinary category there as well.
The order of the tuple is the order of contiguous ids, as Detectron2's catalogues count.
"""

from __future__ import annotations

import colorsys
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from trace_d2.complaints import Complaints

from .json_files import FieldError, flag, quoted, read_json, shown, whole_number
from .remote import InputFile, input_file

UNKNOWN = 255
"""The pixel value of a semantic mask that stands for no category."""

BUILTIN_CATEGORIES = (
    "voc", "coco-panoptic", "voc20", "context59", "context60", "stuff171", "object81", "ade150",
    "city19", "isaid", "nuclei",
)  # fmt: skip
"""Names that ``load_categories`` knows; their files are beside this module. Ids are what models
predict: those of ``voc``, ``context60``, ``object81`` and ``nuclei`` have the background, 0."""

TEXT_SUFFIXES = (".csv", ".names", ".txt")
"""Endings of files that list categories a line each."""

_BACKGROUND = {"background", "bg", "void", "unlabeled", "unlabelled"}  # stuff, unless said
_IGNORED = "__ignore__"  # labelme's first line: the class of 255, so that ids start behind it
_LINE = re.compile(  # behind a colour CVAT's labelmap.txt has columns for parts and actions
    r"(?:(?P<id>\d+)[\s:,;]+)?"
    r"(?P<name>\S.*?)"
    r"(?:\s*[\s:,;]\s*(?P<color>\d{1,3}(?:\s*[\s,]\s*\d{1,3}){2})(?::[^:]*:[^:]*)?)?"
    r"(?:[\s:,;(]+(?P<kind>thing|stuff)\)?)?"
    r"[\s:,;]*"
)

_GOLDEN_RATIO = 0.6180339887498949
_SHOWN = 8  # complaints of one list


@dataclass(frozen=True)
class Category:
    """One category.

    Attributes:
        id: value in semantic masks, and ``category_id`` in COCO files.
        name: what people call it.
        isthing: countable (one segment an instance) rather than stuff (one segment a class).
        color: RGB, 0..255 each; no two categories of one list share a colour.
    """

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int]


def load_categories(source: str | InputFile) -> tuple[Category, ...]:
    """Categories of a file, or of a built-in list.

    Args:
        source: one of ``BUILTIN_CATEGORIES``, or the path of a JSON file that holds a COCO-style
            list of ``{id, name, isthing[, color]}``, or a dict with that list under
            ``categories``; or of a text of ``TEXT_SUFFIXES``, see ``parse_category_lines``. A file
            named like a built-in list is reached as ``./voc``.

    Returns:
        The categories in the order of the file.

    Raises:
        FileNotFoundError: ``source`` is neither a file nor a built-in name.
        ValueError: the file is not such a list, or two categories have one name; the message
            names the file and the remedy.
    """
    path = input_file(source)
    remedy = "give a JSON file, a text with a name a line, or one of the built-in names: "
    remedy += ", ".join(BUILTIN_CATEGORIES)
    if path.suffix.lower() in TEXT_SUFFIXES:
        return _read_lines(path, remedy)
    return _builtin(path.name) if source in BUILTIN_CATEGORIES else _read_list(path, remedy)


@cache
def _builtin(name: str) -> tuple[Category, ...]:
    path = Path(__file__).with_name(f"categories_{name.replace('-', '_')}.json")
    return _read_list(path, "install the package again")


def _read_list(path: InputFile, remedy: str) -> tuple[Category, ...]:
    content = read_json(path, "categories file", remedy)
    if isinstance(content, dict):
        if "categories" not in content:
            raise ValueError(f'{path} has no "categories" key; add it, or give the bare list')
        content = content["categories"]
    return check_names(parse_categories(content, str(path)), str(path))


def check_names(categories: tuple[Category, ...], origin: str) -> tuple[Category, ...]:
    """``categories``, or a ValueError where two have one name, as their instances would mix.

    What was written before, and is only read, may have such names.
    """
    wrong, known = Complaints(), dict[str, Category]()
    for category in categories:
        first = known.setdefault(category.name, category)
        if first is not category:
            wrong.say(
                f"{origin}: the categories {first.id} and {category.id} are both called "
                f"{quoted(category.name)}: rename one"
            )
    wrong.end()
    return categories


@lru_cache(4096)
def name_key(name: str) -> str:
    """``name`` without blanks, hyphens, capitals and the like; as it is, if nothing else is left.

    Names of one key may be of two categories, as "C" and "C++": see ``same_name``.
    """
    return "".join(filter(str.isalnum, name.casefold())) or name


def same_name(category: Category, among: Sequence[Category]) -> Category | None:
    """The one of ``among`` that is called as ``category`` is, or None.

    That is the one of the very name, or else of its ``name_key``; of several of the very name the
    one of its id. None if which one is meant is not certain.
    """
    alike = [one for one in among if name_key(one.name) == name_key(category.name)]
    exact = [one for one in alike if one.name == category.name]
    if len(exact or alike) == 1:
        return (exact or alike)[0]
    return next((one for one in exact if one.id == category.id), None)


def parse_categories(
    entries: Any, origin: str, max_id: int | None = UNKNOWN - 1
) -> tuple[Category, ...]:
    """Validated categories from the decoded JSON list ``entries``.

    A colour that is missing, or taken by an earlier category, is replaced by a free one, so that
    two categories never look the same; colours depend on the list alone.

    Args:
        entries: list of ``{id, name, isthing[, color]}``, which is from ``origin``.
        max_id: the largest id allowed; None for files that no 8-bit mask goes with.
    """
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{origin}: categories must be a non-empty list of {{id, name, isthing}}, not "
            f"{quoted(entries)}"
        )
    seen: dict[int, str] = {}
    wrong = Complaints()
    for rank, entry in enumerate(entries):
        wrong.of(_check_entry, entry, f"{origin}: category {rank} of the list", max_id, seen)
    if len(wrong.lines) > _SHOWN:
        several, more = wrong.lines[:_SHOWN], len(wrong.lines) - _SHOWN
        wrong = Complaints()
        for line in (*several, f"{origin}: and {more} more of its categories are wrong"):
            wrong.say(line)
    wrong.end()
    colors = _distinct_colors(entries)
    return tuple(
        Category(identity, name, bool(entry["isthing"]), color)
        for (identity, name), entry, color in zip(seen.items(), entries, colors, strict=True)
    )


def parse_category_lines(lines: Sequence[str], origin: str) -> tuple[Category, ...]:
    """Categories of a text: ``[ID] NAME [R,G,B] [thing|stuff]`` a line.

    Without ids, which all lines have or none, they count from 0 in the order of the lines. What is
    called background is stuff, everything else countable, unless the line says so. Empty lines and
    comments (#) do not count, nor does labelme's ``__ignore__``, whose pixels are 255. Blanks,
    commas, colons, semicolons and tabs part the columns: that reads labelme's ``labels.txt``,
    CVAT's ``labelmap.txt`` and the ``classes.txt`` of most others.

    Args:
        origin: where ``lines`` are from, for messages.

    Raises:
        ValueError: there is none, some begin with a number and others do not, or an id, name or
            colour is not fit for a category, or two have one name.
    """
    kept = [text for text in (line.strip() for line in lines) if text and text[0] != "#"]
    kept = kept[1:] if kept[:1] == [_IGNORED] else kept
    found = [match for match in map(_LINE.fullmatch, kept) if match]
    numbered = [match for match in found if match["id"]]
    if numbered and len(numbered) < len(found):
        bare = next(match[0] for match in found if not match["id"])
        raise ValueError(
            f"{origin}: the line {shown(numbered[0][0])!r} begins with a number, {shown(bare)!r} "
            "does not: begin every line with its id, or none"
        )
    if not found:
        raise ValueError(f"{origin} names no category: write a name a line")
    entries = [_line_entry(match, rank) for rank, match in enumerate(found)]
    return check_names(parse_categories(entries, origin), origin)


def _line_entry(match: re.Match[str], rank: int) -> dict[str, Any]:
    name, kind = match["name"], match["kind"]
    stuff = kind == "stuff" if kind else name.strip("_").lower() in _BACKGROUND
    color = [int(number) for number in re.findall(r"\d+", match["color"] or "")]
    number = int(match["id"] or rank)
    return {"id": number, "name": name, "isthing": int(not stuff), "color": color or None}


def _read_lines(path: InputFile, remedy: str) -> tuple[Category, ...]:
    if not path.is_file():
        raise FileNotFoundError(f"no categories file at {path}: {remedy}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}): save it as one") from error
    if text.lstrip()[:1] in ("[", "{"):
        raise ValueError(f"{path} holds JSON: rename it to end in .json")
    return parse_category_lines(text.splitlines(), str(path))


def describe_categories(categories: Sequence[Category]) -> str:
    """``things 1 cup, 2 plate; stuff 0 table``."""
    kinds = {"things": True, "stuff": False}
    named = {
        kind: ", ".join(f"{c.id} {shown(c.name)}" for c in categories if c.isthing == isthing)
        for kind, isthing in kinds.items()
    }
    return "; ".join(f"{kind} {names or 'none'}" for kind, names in named.items())


def category_entries(categories: tuple[Category, ...]) -> list[dict[str, Any]]:
    """``categories`` as the COCO list that ``parse_categories`` reads."""
    return [
        {"id": c.id, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)}
        for c in categories
    ]


def _check_entry(entry: Any, where: str, max_id: int | None, seen: dict[int, str]) -> None:
    """Add an entry to the names ``seen`` by id; ValueError unless it is a category, and new."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {quoted(entry)}; write it as {{id, name, isthing}}")
    missing = [key for key in ("id", "name", "isthing") if key not in entry]
    if missing:
        remedy = " (1 for countable things, 0 for stuff)" if "isthing" in missing else ""
        raise ValueError(f"{where} lacks {', '.join(missing)}; add it{remedy}: {quoted(entry)}")
    name, color = entry["name"], entry.get("color")
    ids = f"in 0..{max_id} ({UNKNOWN} in a mask means unknown)" if max_id else "of 0 or more"
    highest = math.inf if max_id is None else max_id
    rules = {
        "id": (_holds(whole_number, entry["id"], highest), f"an integer {ids}"),
        "name": (isinstance(name, str) and name, "a non-empty string"),
        "isthing": (entry["isthing"] is not None and _holds(flag, entry["isthing"]), "0 or 1"),
        "color": (color is None or _is_color(color), "[R, G, B] of 0..255"),
    }
    for key, (sound, rule) in rules.items():
        if not sound:
            raise ValueError(f"{where} has {key} {quoted(entry[key])}; it must be {rule}")
    identity = whole_number(entry["id"])
    if identity in seen:
        raise ValueError(
            f"{where} ({quoted(name)}) has id {identity}, which {quoted(seen[identity])} already "
            "has; give every category its own id"
        )
    seen[identity] = name


def _holds(check: Callable[[Any], int], value: Any, highest: float = 1) -> bool:
    """Whether ``value`` is such a number, in 0..``highest``."""
    try:
        return 0 <= check(value) <= highest
    except FieldError:
        return False


def _is_color(value: Any) -> bool:
    channels = value if isinstance(value, (list, tuple)) else ()
    return len(channels) == 3 and all(type(c) is int and 0 <= c <= 255 for c in channels)


def _distinct_colors(entries: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """One colour an entry: its own where that is free, else the next free one of a fixed series."""
    given = [tuple(entry["color"]) if entry.get("color") else None for entry in entries]
    taken = set(given)
    free = (color for color in _color_series() if color not in taken)
    used: set[tuple[int, ...] | None] = {None}
    colors = []
    for color in given:
        if color in used:
            color = next(free)
            taken.add(color)
        used.add(color)
        colors.append(color)
    return colors  # type: ignore[return-value]  # they are of three each


def _color_series() -> Iterator[tuple[int, int, int]]:
    """Colours far apart in hue first, then in brightness and saturation; never black or white."""
    for rank in itertools.count():
        hue = (0.02 + rank * _GOLDEN_RATIO) % 1.0
        value = (0.95, 0.7, 0.5)[rank % 3]
        saturation = (0.8, 0.5)[(rank // 3) % 2]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        yield round(255 * red), round(255 * green), round(255 * blue)
