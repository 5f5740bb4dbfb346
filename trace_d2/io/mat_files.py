"""Structures of arrays in MATLAB's .mat files of version 5, as SBD has them.

A reader of our own, as scipy's ends the process on some damaged files and unpacks what it is told
to. Only numbers are read; sparse arrays, cells and texts are passed over.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_HEADER = 128  # bytes before the first element
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_STRUCTURE, _NUMBERS = 2, range(6, 16)  # classes of matrices
_MOST_UNPACKED = 2**25  # bytes of an element; those of SBD are below one megabyte


def read_structure(path: str | Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of numbers in the structure ``name`` of a .mat file, by field.

    Raises:
        ValueError: it is no such file, damaged, or has no such structure.
    """
    data = Path(path).read_bytes()
    try:
        if data[126:128] not in (b"IM", b"MI"):
            raise ValueError("it is no .mat file of version 5")
        order = "<" if data[126:128] == b"IM" else ">"
        for kind, body in _elements(data[_HEADER:], order):
            if kind == _COMPRESSED:
                kind, body = _next(_elements(_unpack(body), order))
            if kind == _MATRIX:
                found = _structure(body, order, name)
                if found is not None:
                    return found
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"it is damaged ({error})") from error
    raise ValueError(f"it has no structure {name}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Kind and content of one element after the other."""
    at = 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # up to four bytes stand in the head itself
            kind, length = kind & 0xFFFF, kind >> 16
            body, step = data[at + 4 : at + 4 + min(length, 4)], 8
        else:
            body = data[at + 8 : at + 8 + length]
            step = 8 + (length if kind == _COMPRESSED else length + -length % 8)
        if len(body) != length:
            raise ValueError("it is damaged (it ends early)")
        yield kind, body
        at += step


def _next(elements: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    found = next(elements, None)
    if found is None:
        raise ValueError("it is damaged (it ends early)")
    return found


def _unpack(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(data, _MOST_UNPACKED)
    if not unpacker.eof:
        raise ValueError("a part of it is damaged, or far larger than any of SBD once unpacked")
    return unpacked


def _structure(body: bytes, order: str, name: str) -> dict[str, np.ndarray] | None:
    """The fields of a structure of one entry; None if it is none, or of another name."""
    parts = _elements(body, order)
    kind, sides, own = _head(parts, order)
    if kind != _STRUCTURE or own != name or math.prod(sides) != 1:
        return None
    (width,) = struct.unpack(f"{order}i", _next(parts)[1])
    names = _next(parts)[1]
    if width < 1 or len(names) % width:
        raise ValueError("it is damaged (names of fields)")
    fields = [names[at : at + width] for at in range(0, len(names), width)]
    found = {}
    for field in fields:
        array = _numbers(_next(parts)[1], order)
        if array is not None:
            found[field.rstrip(b"\0").decode("ascii")] = array
    return found


def _numbers(body: bytes, order: str) -> np.ndarray | None:
    """The array of a matrix of numbers; None if it is of something else."""
    parts = _elements(body, order)
    kind, sides, _ = _head(parts, order)
    if kind not in _NUMBERS:
        return None
    stored, data = _next(parts)
    if stored not in _TYPES:
        raise ValueError("it is damaged (a kind of numbers)")
    dtype = np.dtype(f"{order}{_TYPES[stored]}")
    if min(sides, default=0) < 0 or math.prod(sides) * dtype.itemsize != len(data):
        raise ValueError("it is damaged (an array is of another size than its numbers)")
    return np.frombuffer(data, dtype).reshape(sides, order="F")


def _head(parts: Iterator[tuple[int, bytes]], order: str) -> tuple[int, tuple[int, ...], str]:
    """Class, sides and name of a matrix."""
    flags, sides, name = (_next(parts)[1] for _ in range(3))
    (first,) = struct.unpack_from(f"{order}I", flags)
    count = len(sides) // 4
    return first & 0xFF, struct.unpack(f"{order}{count}i", sides), name.decode("ascii")
