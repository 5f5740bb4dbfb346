"""Folders between a folder of results and its files, so that none holds too many to work with.

Where images lie by the ten thousand in one folder, a result of theirs is not ``panoptic/x.png`` but
``panoptic/part-3f/x.png``: the digits are the first of a hash of the stem ``x``, sub-folders
included. So every file tells whether it lies in its part, and every reader of ours finds it by its
stem alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import overload

from .paths import composed, file_below
from .remote import InputFile, InputFolder, RemoteFolder

FOLDER_FILES = 10_000
"""Files of one kind in one folder up to which no parts are made."""

PART = "part-"
"""How names of parts begin."""

MOST_DIGITS = 4
"""Of the name of a part."""

_FILLED = 0.8  # of ``FOLDER_FILES`` on average, as hashes fill some parts more than others
_PART = re.compile(rf"{PART}([0-9a-f]{{1,4}})")


def digits_for(stems: Iterable[str]) -> int:
    """Hex digits of the parts that the files of ``stems`` need; 0: none."""
    fullest = max(Counter(stem.rpartition("/")[0] for stem in stems).values(), default=0)
    if fullest <= FOLDER_FILES:
        return 0
    fits = (d for d in range(1, MOST_DIGITS) if fullest <= _FILLED * FOLDER_FILES * 16**d)
    return next(fits, MOST_DIGITS)


def fanned(stem: str, digits: int) -> str:
    """``stem`` below the part that it belongs to; itself where there are no ``digits``."""
    return f"{PART}{_digest(stem)[:digits]}/{stem}" if digits else stem


def unfanned(path: str) -> str:
    """``path`` without the part that it begins with, if it belongs there; else itself.

    Args:
        path: below a folder of results, without ending and with ``/`` between its parts.
    """
    part, slash, stem = path.partition("/")
    found = _PART.fullmatch(part) if slash else None
    return stem if found and _digest(stem).startswith(found[1]) else path


def has_parts(folder: str | InputFolder) -> bool:
    """Whether the files of ``folder`` lie in parts."""
    return _digits_of(folder) > 0


@overload
def file_of(folder: str | Path, name: str) -> Path: ...
@overload
def file_of(folder: str | InputFolder, name: str) -> InputFile: ...
def file_of(folder: str | InputFolder, name: str) -> InputFile:
    """The file that ``name``, a stem with its ending, stands for in ``folder``; see ``file_below``.

    Where there is none, it is the one in its part, where the folder has parts; else one whose
    ending is in letters of any other case (``x.PNG``, ``x.Png``), as ``files_by_stem`` lists them.
    """
    path = file_below(folder, name)
    if _is_there(path):
        return path
    stem, ending = os.path.splitext(name)
    digits = _digits_of(folder)
    stems = [fanned(composed(stem), digits), stem] if digits else [stem]
    choices = [file_below(folder, f"{one}{own}") for own in _cases(ending) for one in stems]
    return next(filter(_is_there, choices), choices[0])


@lru_cache(maxsize=8)
def _cases(ending: str) -> tuple[str, ...]:
    """``ending``, which is short, and it in letters of every other case."""
    forms = map("".join, product(*((letter.lower(), letter.upper()) for letter in ending)))
    return tuple(dict.fromkeys((ending, ending.upper(), *forms)))


def _is_there(path: InputFile) -> bool:
    return os.path.lexists(path) if isinstance(path, Path) else path.is_file()


def _digits_of(folder: str | InputFolder) -> int:
    """Hex digits of the parts that ``folder`` has; 0: none."""
    if isinstance(folder, RemoteFolder):
        return _digits_of_remote(folder)
    try:
        return _digits_of_local(os.fspath(folder), os.stat(folder).st_mtime_ns)
    except OSError:  # told by whoever reads a file there
        return 0


@lru_cache(maxsize=64)
def _digits_of_local(folder: str, changed: int) -> int:
    """By the first that lies there, as parts lie among nothing else; ``changed``: of the folder."""
    with os.scandir(folder) as entries:
        seen = (entry.name for entry in entries if entry.name[0] != ".")
        found = _PART.fullmatch(next(seen, ""))
    return len(found[1]) if found else 0


@lru_cache(maxsize=8)
def _digits_of_remote(folder: RemoteFolder) -> int:
    for digits in range(1, MOST_DIGITS + 1):
        parts = (f"{PART}{rank:0{digits}x}/" for rank in range(16**digits))
        if any(folder.stamp(part) is not None for part in parts):
            return digits
    return 0


def _digest(stem: str) -> str:
    return hashlib.sha256(composed(stem).encode("utf-8", "surrogatepass")).hexdigest()
