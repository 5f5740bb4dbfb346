"""Arrays as files: what a ``.npy`` says of itself is known before its values are read.

``numpy.load`` opens other kinds of file as well, and takes memory for whatever a header says.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from .json_files import shown
from .remote import InputFile

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class ArrayFile:
    """A ``.npy`` file at the start of its values.

    Attributes:
        file: opened.
        origin, remedy: what messages name, and what to do.
        shape, dtype: of the array.
        column_order: whether it is in Fortran's order.
    """

    file: IO[bytes]
    origin: str
    remedy: str
    shape: tuple[int, ...]
    column_order: bool
    dtype: np.dtype[Any]

    def check_length(self) -> None:
        """Raise a ValueError unless the file is as long as its header says."""
        expected = math.prod(self.shape) * self.dtype.itemsize
        start = self.file.tell()
        found = self.file.seek(0, os.SEEK_END) - start
        self.file.seek(start)
        if found != expected:
            sides = "x".join(map(str, self.shape[::-1]))
            raise _unreadable(
                self.origin,
                f"it has {found} bytes of values where {sides} take {expected}",
                self.remedy,
            )

    def values(self) -> np.ndarray:
        """The array; to be called after ``check_length``, which tells how much is read."""
        values = np.frombuffer(self.file.read(), self.dtype)
        return values.reshape(self.shape, order="F" if self.column_order else "C")


@contextlib.contextmanager
def opened_array(path: InputFile, what: str, remedy: str) -> Iterator[ArrayFile]:
    """Open the ``.npy`` file at ``path``.

    Args:
        what, remedy: what is missing where there is none, and what to do.

    Raises:
        FileNotFoundError, ValueError: there is none, or it holds no array of numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}: {remedy}")
    with path.open("rb") as file:
        yield array_file(file, str(path), remedy)


def array_file(file: IO[bytes], origin: str, remedy: str) -> ArrayFile:
    """An opened ``.npy`` file of ``origin``, which may lie in an archive."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version[0]}.{version[1]} is for arrays of records")
        shape, column_order, dtype = _HEADERS[version](file)
        return ArrayFile(file, origin, remedy, tuple(map(int, shape)), column_order, dtype)
    except Exception as error:  # of any kind: numpy parses the header as Python
        file.seek(0)
        reason = str(error)
        if file.read(2) == b"PK":
            reason = "it is an archive, as np.savez writes them"
        raise ValueError(
            f"{origin} is not a readable .npy array ({shown(reason)}): write it again by np.save"
        ) from error


def _unreadable(origin: str, reason: str, remedy: str) -> ValueError:
    return ValueError(f"{origin} is not a readable .npy array ({reason}): {remedy}")
