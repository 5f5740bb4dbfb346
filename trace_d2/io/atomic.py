"""Files: written so that a reader finds either the old content or the whole new one.

Each writer fills a temporary file in the same folder, flushes it to the disk and renames it over
the target. A process that is killed on the way leaves at most a file ``.trace_d2-*.tmp`` behind,
which ``remove_temporaries`` sweeps. Its name is as short for every target, so that a file may have
the longest name that the file system takes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TEMPORARY = re.compile(r"\.trace_d2-[0-9a-f]{8}-[0-9]+-[0-9a-f]{8}\.tmp")


class DiskFullError(OSError):
    """The device, or the user's quota on it, has no room for a file."""


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write to that becomes ``path`` when the block ends without an error.

    Raises:
        DiskFullError: no room; ``path`` is as it was before.
        OSError: the folder is missing or not writable; ``path`` is as it was before.
    """
    path = Path(path)
    temporary = path.with_name(f"{_prefix(path.name)}{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        # Also on Ctrl-C: nothing but a kill leaves the temporary file behind.
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno in _FULL:
            raise DiskFullError(
                error.errno,
                f"no space left to write {path.name} in {path.parent}; free some and run the same "
                "command again",
                str(path),
            ) from error
        raise


@contextlib.contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """An empty folder to write to, whose files become those of ``folder`` when the block ends
    without an error; until then ``folder`` is as it was.

    Where there is one already, its other files stay. What a killed process left beside it is
    removed by the next.
    """
    target = Path(folder).resolve()
    scratch = target.with_name(f".trace_d2-{target.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        if not target.exists():
            os.rename(scratch, target)
            return
        for path in sorted(scratch.rglob("*")):
            place = target / path.relative_to(scratch)
            if path.is_dir():
                place.mkdir(exist_ok=True)
            else:
                shutil.move(path, place)  # links in ``folder`` may lead to other disks
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with atomic_file(path) as file:
        file.write(content)


def write_text(path: str | Path, content: str) -> None:
    """Write ``content`` to ``path`` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any, indent: int | None = None) -> None:
    """Write ``content``, which holds no NaN or infinity, as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def write_png(path: str | Path, pixels: np.ndarray, fast: bool = False) -> None:
    """Write ``pixels`` to ``path`` as PNG, whole or not at all.

    Args:
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB.
        fast: take a third of the time for a larger file.
    """
    grey = pixels.ndim == 2 and pixels.dtype in (np.uint8, np.uint16)
    rgb = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    if not (grey or rgb):
        raise ValueError(
            f"cannot write {pixels.dtype} pixels of shape {pixels.shape} to {path}; "
            "give (H, W) uint8 or uint16, or (H, W, 3) uint8"
        )
    if fast:
        ordered = pixels if grey else pixels[..., ::-1]
        _, data = cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, 2])
        write_bytes(path, data.tobytes())
        return
    with atomic_file(path) as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG", compress_level=6)


def is_temporary(name: str, of: str = "") -> bool:
    """Whether a file has the name of a temporary one; with ``of``, of one for a file ``of``."""
    return _TEMPORARY.fullmatch(name) is not None and name.startswith(_prefix(of) if of else "")


def remove_temporaries(folder: str | Path, of: str = "") -> int:
    """Delete what killed writers left in ``folder`` (not below it); returns how many files.

    Only for a folder (or a file in it, ``of``) that no other process is writing to.
    """
    with os.scandir(folder) as listing:
        leftovers = [
            entry.path
            for entry in listing
            if is_temporary(entry.name, of) and entry.is_file(follow_symlinks=False)
        ]
    for leftover in leftovers:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leftover)
    return len(leftovers)


def _prefix(name: str) -> str:
    """How names of temporary files for a file ``name`` begin."""
    return f".trace_d2-{zlib.crc32(os.fsencode(name)):08x}-"


def _sync_folder(folder: Path) -> None:
    """Flush a rename to the disk, where the system lets a folder be opened (not on Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the file itself is safe by now.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
