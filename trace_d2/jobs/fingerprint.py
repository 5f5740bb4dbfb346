"""What tells whether the inputs of an image are those that its result was made from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any

from trace_d2.io.remote import InputFile, RemoteFile


def files_print(paths: Iterable[InputFile], *others: Any) -> str:
    """A text that changes when the size or time of a file does, or one of ``others``.

    Of a file by address it is what its store told of it when its folder was listed.
    """
    stamps: list[Any] = []
    for path in paths:
        if isinstance(path, RemoteFile):
            stamps.append(path.stamp)
            continue
        # A name too long for the file system is no file, but an error to ``Path.exists``.
        status = path.stat() if os.path.exists(path) else None
        stamps.append((status.st_size, status.st_mtime_ns) if status else None)
    return hashlib.sha256(repr([*stamps, *others]).encode()).hexdigest()[:16]
