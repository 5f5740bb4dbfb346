"""Pickles of weights, read without the classes and functions they name.

A pickle is a program that may call anything. This reader knows containers, numbers, arrays and
tensors, and even of those nothing but stand-ins is called: NumPy's own constructors take states
that no array could have.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .json_files import shown

_NUMBERS = "biufc"  # kinds of dtypes
_LATIN1 = frozenset({"latin1", "latin-1", "iso-8859-1"})


class UnfitPickleError(ValueError):
    """A pickle that holds more than weights, or is damaged."""


def read_pickle(path: str | Path) -> Any:
    """What a pickle of weights holds: dicts, lists, numbers, text, arrays and torch tensors.

    Pickles of Python 2 and of NumPy 1 are read as well.

    Raises:
        UnfitPickleError: it names anything else, which is not called, or it is damaged.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            return _unwrapped(_WeightsUnpickler(file, encoding="latin1").load(), {})
        except _ForbiddenError as error:
            raise UnfitPickleError(
                f"{shown(str(path))} is no file of weights alone: reading it would call"
                f" {shown(error.args[0])}, which could run any code. It was not read: get the"
                " weights from who made them, or have them saved as .safetensors"
            ) from error
        except OSError:
            raise
        except Exception as error:  # damaged pickles end in any kind of error
            raise UnfitPickleError(
                f"{shown(str(path))} is no whole pickle of weights ({type(error).__name__}:"
                f" {shown(str(error))}): copy or download it again"
            ) from error


class _ForbiddenError(pickle.UnpicklingError):
    """The pickle names what is no weight."""


# The one in Python: that in C keeps a list as long as the largest number a pickle gives an object,
# so that eight bytes fill the memory.
_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _WeightsUnpickler(_PythonUnpickler):
    def _load_bytearray(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # Python's own makes it before it reads

    dispatch: ClassVar = {
        **_PythonUnpickler.dispatch,
        pickle.BYTEARRAY8[0]: _load_bytearray,
    }

    def find_class(self, module: str, name: str) -> Any:
        found = _KNOWN.get((module.replace("numpy.core.", "numpy._core."), name))
        if found is None:
            raise _ForbiddenError(f"{module}.{name}")
        return found


class _DtypeState:
    """Takes the place of a ``numpy.dtype``."""

    def __init__(self, code: str, *_: Any) -> None:
        dtype = np.dtype(code) if isinstance(code, str) else None
        if dtype is None or dtype.kind not in _NUMBERS:
            raise _ForbiddenError(f"an array of {code!r}")
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _ArrayState:
    """Takes the place of a ``numpy.ndarray``; ``array`` is what it stands for."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self._fill(data, dtype, shape, "F" if fortran else "C")

    def _fill(self, data: Any, dtype: _DtypeState, shape: tuple[int, ...], order: Any) -> None:
        if isinstance(data, str):  # Python 2
            data = data.encode("latin1")
        array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)
        self.array = array.astype(dtype.dtype.newbyteorder("="))  # a copy: buffers are read-only


def _reconstruct(*_: Any) -> _ArrayState:
    return _ArrayState()


def _frombuffer(data: Any, dtype: _DtypeState, shape: tuple[int, ...], order: str) -> _ArrayState:
    made = _ArrayState()
    made._fill(data, dtype, shape, order)
    return made


def _scalar(dtype: _DtypeState, data: Any) -> Any:
    if isinstance(data, str):
        data = data.encode("latin1")
    return np.frombuffer(data, dtype.dtype, 1)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in _LATIN1:
        raise _ForbiddenError(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _bytes(*arguments: Any) -> bytes:
    # Of no argument but text and its encoding: bytes(10**12) would fill the memory.
    return _encode(*arguments) if arguments else b""


def _storage(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), weights_only=True)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Any:
    from torch._utils import _rebuild_tensor

    return _rebuild_tensor(storage, offset, size, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): _ArrayState,
    ("numpy", "dtype"): _DtypeState,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, complex, list, dict, tuple, int, float, bool)
    },
    **{(module, "bytes"): _bytes for module in ("builtins", "__builtin__")},
}


def _unwrapped(value: Any, seen: dict[int, Any]) -> Any:
    """``value`` with arrays in the place of what stands for them, in dicts at any depth."""
    if isinstance(value, _ArrayState):
        return value.array
    if not isinstance(value, dict):
        return value
    if id(value) not in seen:
        seen[id(value)] = {}
        seen[id(value)].update((key, _unwrapped(item, seen)) for key, item in value.items())
    return seen[id(value)]
