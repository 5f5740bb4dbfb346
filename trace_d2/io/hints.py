"""What may have been meant: the known name, or the file that is there, nearest to a wrong one."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # a letter alone is a drive
_MOST_NAMES = 10_000  # of a folder, that are compared


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """`` (did you mean ...?)`` with the one of ``known`` that ``word`` resembles; else empty."""
    by_folded = {str(name).casefold(): str(name) for name in known}
    close = difflib.get_close_matches(str(word).casefold(), by_folded, n=1, cutoff=0.6)
    return f" (did you mean {by_folded[close[0]]}?)" if close else ""


def nearest_path(path: object) -> str:
    """`` (did you mean ...?)`` with what is there by nearly that name; else empty.

    Looked for is the first part of ``path`` that is absent, among what lies beside it. Of a file
    where a folder is wanted, its folder is told, and of a folder that it is one. Of an address,
    such as ``s3://bucket/x``, it is said that it is one; of what is read by its address
    (``RemoteFile``) nothing is.
    """
    if not isinstance(path, (str, Path)) or path == "":
        return ""
    address = _ADDRESS.match(str(path))
    if address:
        # Python's paths keep one slash of two.
        whole = f"{address[1]}://{str(path)[address.end() :].lstrip('/')}"
        return (
            f" ({whole} is an address, and only files of this machine are read here: mount it, or "
            "copy it)"
        )
    path = Path(path).expanduser()
    if os.path.exists(path):  # of another kind than is wanted
        folder = f" (it is a file; its folder is {path.parent})"
        return folder if os.path.isfile(path) else " (it is a folder)" * os.path.isdir(path)
    rest: tuple[str, ...] = ()
    while not path.parent.is_dir() and path.parent != path:
        rest, path = (path.name, *rest), path.parent
    try:
        beside = os.listdir(path.parent)[:_MOST_NAMES]
    except OSError:
        return ""
    by_folded = {name.casefold(): name for name in beside}
    close = difflib.get_close_matches(path.name.casefold(), by_folded, n=1, cutoff=0.6)
    if not close:
        return ""
    found = path.parent.joinpath(by_folded[close[0]], *rest)
    # Names of files may steer terminals.
    return f" (did you mean {found}?)" if found.exists() and str(found).isprintable() else ""
