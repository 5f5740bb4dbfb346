"""Names of files as other files give them, and where they may lead."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, overload

from .hints import nearest_path
from .json_files import quoted, shown
from .remote import InputFile, InputFolder, RemoteFolder

_SPECIAL = re.compile(r"[\\:]|(?:^|/)\.{0,2}(?:/|$)")
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}$")


def relative_name(name: Any) -> str:
    """``name`` as a path below some folder, with ``/`` between its parts and no ``.`` among them.

    Backslashes, as Windows writes them, count as ``/``.

    Raises:
        ValueError: it is no text, empty, absolute, or leads out of the folder by ``..``.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"the file name is {quoted(name)}: give the name of a file")
    if not _SPECIAL.search(name):
        return name
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts:
        raise ValueError(
            f"the file name {shown(name)} leads out of its folder: give it relative to the folder, "
            'without ".."'
        )
    if not path.parts:
        raise ValueError(f"the file name is {quoted(name)}: give the name of a file")
    return str(path)


@overload
def file_below(folder: str | Path, name: Any) -> Path: ...
@overload
def file_below(folder: str | InputFolder, name: Any) -> InputFile: ...
def file_below(folder: str | InputFolder, name: Any) -> InputFile:
    """The file ``name``, which another file gives, in ``folder``; it need not exist.

    Where there is none of exactly that name, one whose name is the same text in another Unicode
    form is taken: macOS takes accents apart (NFD) that others write as one character (NFC).

    Raises:
        ValueError: the name is none, or leads out of the folder.
    """
    relative = relative_name(name)
    if isinstance(folder, RemoteFolder):
        return folder / folder.spelled(relative)
    path = Path(folder) / relative
    if relative.isascii() or os.path.lexists(path):
        return path
    found = Path(folder)
    for part in relative.split("/"):
        forms = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        found /= next((form for form in forms if os.path.lexists(found / form)), part)
    return found


def composed(name: str) -> str:
    """``name`` in the Unicode form by which names are compared (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def name_keys(name: str) -> tuple[str, str, str]:
    """By what ``name`` of an image is compared: its stem, its path without ending, its path.

    Endings are short and begin with a letter, so ``frame.0001`` has none. Any folder is taken as a
    name, an absolute one too: nothing is opened.
    """
    path = composed(name).replace("\\", "/")
    stem = _ENDING.sub("", path)
    return stem.rpartition("/")[2], stem, path


def image_stem(name: str) -> str:
    """The path of the image ``name`` below its folder without ending, after which others are named.

    Of a name that leads out of any folder it is the last part alone.
    """
    _, path, _ = name_keys(name)
    try:
        return relative_name(path)
    except ValueError:
        return path.rpartition("/")[2]


def check_output(output: str | Path | None, **inputs: str | Path | None) -> None:
    """Refuse an output that is one of the inputs, whatever links and spellings lead to it.

    Args:
        inputs: by the names of their options, ``_`` for ``-``; None: not given.

    Raises:
        ValueError: it is one of them, and would be lost.
    """
    for name, given in inputs.items():
        if output is not None and given is not None and is_same_file(output, given):
            raise ValueError(
                f"the output {shown(str(output))} is --{name.replace('_', '-')} as well, which "
                "would be lost: give the output another name"
            )


def check_output_file(output: str | Path | None, **inputs: str | Path | None) -> None:
    """``check_output`` of a file that is written when all is done: its folder must be there.

    Raises:
        as ``check_output``, and OSError: it could not be written.
    """
    check_output(output, **inputs)
    if output is None:
        return
    folder = Path(output).parent
    if Path(output).is_dir():
        raise IsADirectoryError(f"the output {shown(str(output))} is a folder: name a file in it")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {shown(str(folder))} for the output {Path(output).name}"
            f"{nearest_path(folder)}: make it, or correct the path"
        )
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write to {shown(str(folder))}: name an output elsewhere")


def is_same_file(first: str | Path, second: str | Path) -> bool:
    """Whether two paths, whatever links and spellings lead there, are or would be one file."""
    if os.path.exists(first) and os.path.exists(second):
        return os.path.samefile(first, second)
    return os.path.realpath(first) == os.path.realpath(second)
