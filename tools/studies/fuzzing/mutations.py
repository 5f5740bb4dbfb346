"""Ways to spoil a file: bytes of any file, values of every place of a JSON file."""

from __future__ import annotations

import copy
import json
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

Place = tuple[str | int, ...]
"""Keys and ranks that lead to a value in JSON."""

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_DEEP = "as deep as this"  # stands for the nested lists until the text is written
_NAMES = ("name", "supercategory", "description", "url", "file_name", "version")


@dataclass(frozen=True)
class Spoiled:
    """A file with one thing changed in it.

    Attributes:
        file: its path below the reader's folder.
        kind: what was done to it.
        place: where.
        data: its new content.
        strict: whether another result without a word would be wrong; else the file is a sound one
            of other content, which nobody can tell from what it was.
    """

    file: str
    kind: str
    place: str
    data: bytes
    strict: bool


def spoil(rng: np.random.Generator, file: str, data: bytes) -> Spoiled:
    """One of all ways to spoil ``data``, the content of ``file``, drawn at random."""
    suffix = PurePosixPath(file).suffix
    if suffix in (".json", ".jsonl") and rng.random() < 0.9:
        return _spoil_json(rng, file, data)
    repaired = suffix == ".png" and rng.random() < 0.4
    kind = str(rng.choice(list(_BYTES)))
    spoiled, place = _BYTES[kind](rng, data)
    if repaired:
        spoiled = repair_checksums(spoiled)
    # What has no checksum of its own may be another sound file; photographs decide no id.
    strict = suffix in (".png", ".jpg", ".tif") and not repaired
    kind += ", checksums repaired" if repaired else ""
    return Spoiled(file, kind, place, spoiled, strict)


def _flip(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    at, bit = int(rng.integers(len(data))), int(rng.integers(8))
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], f"bit {bit} of byte {at}"


def _flip_many(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    places = rng.integers(len(data), size=int(rng.integers(2, 20)))
    changed = np.frombuffer(data, np.uint8).copy()
    changed[places] = rng.integers(0, 256, len(places))
    return changed.tobytes(), f"bytes {sorted(places.tolist())}"


def _cut(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    at = int(rng.integers(len(data)))
    return data[:at], f"after byte {at} of {len(data)}"


def _drop(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 64))
    return data[:at] + data[at + length :], f"bytes {at} to {at + length}"


def _insert(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 64))
    return data[:at] + rng.bytes(length) + data[at:], f"{length} bytes at {at}"


def _zero(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 256))
    end = min(at + length, len(data))
    return data[:at] + bytes(end - at) + data[end:], f"bytes {at} to {end}"


def _garbage(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    return rng.bytes(int(rng.integers(0, 200))), "all of it"


_BYTES: dict[str, Callable[[np.random.Generator, bytes], tuple[bytes, str]]] = {
    "bit flipped": _flip,
    "bytes changed": _flip_many,
    "cut": _cut,
    "bytes left out": _drop,
    "bytes put in": _insert,
    "zeroed": _zero,
    "garbage": _garbage,
}


def repair_checksums(data: bytes) -> bytes:
    """The PNG ``data`` with a right CRC in each of its chunks, as far as there are chunks."""
    if not data.startswith(_PNG_HEAD):
        return data
    parts, at = [_PNG_HEAD], len(_PNG_HEAD)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        parts.append(data[at:end] + struct.pack(">I", zlib.crc32(data[at + 4 : end])))
        at = end + 4
    return b"".join([*parts, data[at:]])


def _spoil_json(rng: np.random.Generator, file: str, data: bytes) -> Spoiled:
    """``data`` with the value of one place changed; in lists of lines, of one line."""
    lines = data.splitlines() if file.endswith(".jsonl") else [data]
    line = int(rng.integers(len(lines)))
    content = json.loads(lines[line])
    alike: dict[Place, list[Place]] = defaultdict(list)
    for place in _places(content):  # entries of a list are alike: each field is as likely
        alike[tuple("*" if isinstance(step, int) else step for step in place)].append(place)
    fields = sorted(alike)
    choices = alike[fields[int(rng.integers(len(fields)))]]
    place = choices[int(rng.integers(len(choices)))]
    value = _at(content, place)
    kinds = _value_kinds(rng, value, place)
    kind = sorted(kinds)[int(rng.integers(len(kinds)))]
    changed, strict = _changed(content, place, kinds[kind])
    text = json.dumps(changed)
    depth = int(rng.choice((60, 5000, 100_000)))
    text = text.replace(json.dumps(_DEEP), "[" * depth + "]" * depth)
    lines[line] = text.encode()
    where = _shown(place) + (f" of line {line + 1}" if len(lines) > 1 else "")
    return Spoiled(file, kind, where, b"\n".join(lines) + b"\n", strict)


_REMOVED, _TWICE = object(), object()


def _value_kinds(rng: np.random.Generator, value: Any, place: Place) -> dict[str, Any]:
    """What may stand in the place of ``value``, by what messages call it."""
    kinds: dict[str, Any] = {
        "null": None,
        "text": "abc",
        "list": [value],
        "empty list": [],
        "dict": {"a": 1},
        "empty dict": {},
        "bool": bool(rng.integers(2)),
        "huge integer": int(rng.choice((10**9, 2**31, 2**53 + 1))) * int(rng.choice((1, 10**30))),
        "1e308": 1e308,
        "NaN": float("nan"),
        "infinity": float("inf"),
        "negative": -1 if not value or not _is_number(value) else -value,
        "fraction": 3.5,
        "deep": _DEEP,
        "empty text": "",
        "zero": 0,
    }
    if _is_number(value):
        kinds["number as text"] = str(value)
    if place:
        kinds["removed"] = _REMOVED
        kinds["twice"] = _TWICE
    kinds = {kind: new for kind, new in kinds.items() if not _same(new, value)}
    if place and isinstance(place[-1], str):
        kinds.pop("twice")
    return kinds


def _changed(content: Any, place: Place, new: Any) -> tuple[Any, bool]:
    """A copy of ``content`` with ``new`` at ``place``, and whether that is no sound other file."""
    if not place:
        return new, True
    content = copy.deepcopy(content)
    *way, last = place
    holder = _at(content, tuple(way))
    old = holder[last]
    if new is _TWICE:
        holder.insert(last, copy.deepcopy(old))
        return content, isinstance(old, dict) and "id" in old
    if new is _REMOVED:
        del holder[last]
        return content, isinstance(last, str)  # one entry less is a sound list
    holder[last] = new
    if _is_number(old) and _is_number(new):
        return content, False
    named = isinstance(new, str) and isinstance(old, str) and last in _NAMES
    return content, not named


def _places(content: Any, way: Place = ()) -> Iterator[Place]:
    yield way
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _places(value, (*way, key))
    elif isinstance(content, list):
        for rank, value in enumerate(content):
            yield from _places(value, (*way, rank))


def _at(content: Any, place: Place) -> Any:
    for step in place:
        content = content[step]
    return content


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _shown(place: Place) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return re.sub(r"^\.", "", text) or "the whole"
