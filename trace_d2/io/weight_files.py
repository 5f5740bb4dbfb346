"""What a file of weights is, by its first bytes and its table of contents; no weight is read."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

from .json_files import shown

_STARTS = {".gguf": b"GGUF", ".h5": b"\x89HDF\r\n\x1a\n"}
_PICKLE_STARTS = (b"\x80", b"(", b"c", b"]", b"}")
_MOST_HEADER = 2**28  # bytes of a safetensors header
_AGAIN = "copy or download it again"


def tensor_shapes(path: str | Path) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the tensors in a file of weights, by name.

    Args:
        path: ``.safetensors``, ``.gguf``, ``.h5`` (HDF5), or a pickle (``.pth``, ``.pt``,
            ``.ckpt``, ``.bin``, ``.pkl``).

    Returns:
        None where the file looks sound and only reading it could tell.

    Raises:
        ValueError: it is no whole file of weights; the message says what it is.
        OSError: it cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
    for begins, what in (
        (b"version https://git-lfs", "a pointer of Git LFS, not the file: run `git lfs pull`"),
        (b"<", f"a web page, not the file: {_AGAIN}"),
    ):
        if start.lstrip().startswith(begins):
            raise ValueError(f"{shown(str(path))} is {what}")
    if not size:
        raise ValueError(f"{shown(str(path))} is empty: {_AGAIN}")
    if path.suffix == ".safetensors":
        return _safetensors_shapes(path, size)
    if path.suffix in _STARTS:
        sound = start.startswith(_STARTS[path.suffix])
    elif start.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{shown(str(path))} breaks off, it is no whole file: {_AGAIN}")
        sound = True
    else:  # a tar, as PyTorch once wrote, has a name first
        sound = start.startswith(_PICKLE_STARTS) or _is_tar(path)
    if not sound:
        what = "text" if _is_text(start) else f"of another kind than {path.suffix} files are"
        raise ValueError(f"{shown(str(path))} holds no weights, it is {what}: name another file")
    return None


def _safetensors_shapes(path: Path, size: int) -> dict[str, tuple[int, ...]]:
    where = shown(str(path))
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if not 0 < length <= min(size - 8, _MOST_HEADER):
                raise ValueError("it says that its header is longer than the file")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            ends = [int(tensor["data_offsets"][1]) for tensor in header.values()]
            shapes = {name: tuple(map(int, tensor["shape"])) for name, tensor in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{where} is no whole safetensors file ({error}): {_AGAIN}") from error
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise ValueError(
            f"{where} is no whole safetensors file ({size} of {expected} bytes are there): {_AGAIN}"
        )
    return shapes


def _is_tar(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(262)[257:] == b"ustar"


def _is_text(start: bytes) -> bool:
    try:
        return start.decode("utf-8").isprintable() or b"\n" in start
    except UnicodeDecodeError:
        return False
