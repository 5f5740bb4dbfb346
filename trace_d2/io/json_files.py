"""JSON of other people: how it is read, what a field may hold, and how its values are shown.

Every reader of JSON takes ids, flags and numbers by these functions, so that what one tool reads as
a crowd region, or as image 3, no other reads as something else.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

from .hints import nearest_path
from .remote import InputFile, input_file

T = TypeVar("T")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # editors of Windows put it before UTF-8
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # controls, marks of direction, line ends

_short = reprlib.Repr()
_short.maxlevel = 3
_short.maxstring = _short.maxother = 80
_short.maxlong = 24


class FieldError(ValueError):
    """A field holds what it cannot; the message begins with what it holds, as ``is 'x', ...``."""


class JsonError(ValueError):
    """A file is no JSON.

    Attributes:
        reason: why, for callers with another remedy.
    """

    def __init__(self, path: InputFile, reason: str) -> None:
        super().__init__(f"{path} is not valid JSON ({reason}): make or write it again")
        self.reason = reason


@contextlib.contextmanager
def paused_collector() -> Iterator[None]:
    """Leave Python's garbage collector off within the block (or the function it decorates).

    It looks through all dicts again and again while millions of them are made, none of which is
    garbage: loading takes a third of the time without.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@paused_collector()
def read_json(
    path: str | InputFile,
    what: str = "file",
    remedy: str = "correct the path",
    unique: bool = False,
) -> Any:
    """The content of a JSON file, which is called ``what`` with the ``remedy`` if it is absent.

    Of a key that an object has twice the last value counts, or with ``unique`` none does.

    Raises:
        FileNotFoundError: there is no such file.
        JsonError: it is no JSON, or nested too deeply to be any file of ours; with ``unique``, an
            object has a key twice.
    """
    path = input_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}{nearest_path(path)}: {remedy}")
    data = path.read_bytes().removeprefix(_BYTE_ORDER_MARK)
    try:
        return json.loads(data, object_pairs_hook=_each_once if unique else None)
    except RecursionError as error:
        raise JsonError(path, "it is nested too deeply") from error
    except ValueError as error:
        raise JsonError(path, str(error)) from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"it has {quoted(key)} twice")
    return found


def shown(value: Any) -> str:
    """``value`` as messages and pages show it: short, on one line, with nothing unseen in it.

    Text is taken as it is, but for characters that steer terminals or turn the direction of
    writing, which are spelled out: ``\\x1b``, ``\\u202e``. All else is shown as Python writes it.
    """
    return _seen(value if isinstance(value, str) else _short.repr(value))


def quoted(value: Any) -> str:
    """As ``shown``, but text in quotes and shortened: for values rather than names."""
    return _seen(_short.repr(value))


def _seen(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_seen_character, text))


def _seen_character(character: str) -> str:
    if unicodedata.category(character) not in _UNSEEN:
        return character
    return character.encode("unicode_escape").decode("ascii")


def json_object(value: Any) -> dict[str, Any]:
    """``value``, which is a JSON object; raises a FieldError if it is none."""
    if isinstance(value, dict):
        return value
    raise FieldError(f"is {quoted(value)}, not an object, {{...}}")


def json_list(value: Any) -> list[Any]:
    """``value``, which is a JSON list; raises a FieldError if it is none."""
    if isinstance(value, list):
        return value
    raise FieldError(f"is {quoted(value)}, not a list, [...]")


def whole_number(value: Any) -> int:
    """``value`` as an integer; a float that is whole is one, as pandas writes ids.

    Raises:
        FieldError: it is none.
    """
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    if isinstance(value, Integral) and not isinstance(value, bool):  # of numpy
        return int(value)
    raise FieldError(f"is {quoted(value)}, not a whole number")


def record_id(value: Any) -> int | str:
    """``value`` as the id of an image, annotation or segment: an integer or a text.

    Raises:
        FieldError: it is neither.
    """
    if type(value) in (int, str) and value != "":
        return value  # type: ignore[no-any-return]
    try:
        return whole_number(value)
    except FieldError:
        raise FieldError(f"is {quoted(value)}, neither a whole number nor text") from None


def flag(value: Any) -> int:
    """``value`` as 0 or 1; null is 0.

    Raises:
        FieldError: it is neither 0, 1, false nor true. Text is none of them, as ``"0"`` counts as
            true in Python.
    """
    if value is None or (type(value) in (int, float, bool) and value in (0, 1)):
        return int(value or 0)
    raise FieldError(f"is {quoted(value)}, neither 0 nor 1")


def number(value: Any) -> float:
    """``value`` as a finite number.

    Raises:
        FieldError: it is none; true and false are none, either.
    """
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and abs(value) < 2**1000:  # larger ones are beyond any float
        return float(value)
    if type(value) not in (int, float, bool) and isinstance(value, Real):  # of numpy
        return number(float(value))
    raise FieldError(f"is {quoted(value)}, not a finite number")


def side(value: Any) -> int:
    """``value`` as the width or height of an image in pixels, 1 or more.

    Raises:
        FieldError: it is none.
    """
    pixels = whole_number(value)
    if pixels < 1:
        raise FieldError(f"is {quoted(value)}, not a number of pixels")
    return pixels


def box(value: Any) -> list[float]:
    """``value`` as four finite numbers: x, y, width and height in pixels, whatever they are.

    Raises:
        FieldError: it is no such list.
    """
    if not isinstance(value, list) or len(value) != 4:
        raise FieldError(f"is {quoted(value)}, not [x, y, width, height]")
    return [number(part) for part in value]


def file_name(value: Any) -> str:
    """``value`` as a text that is not empty.

    Raises:
        FieldError: it is none.
    """
    if not isinstance(value, str) or not value:
        raise FieldError(f"is {quoted(value)}, not the name of a file")
    return value


def checked(record: Mapping[str, Any], key: str, check: Callable[[Any], T], where: str) -> T:
    """``record[key]`` as ``check``, one of the functions above, makes it.

    Raises:
        ValueError: it cannot; the message begins with ``where`` and names the key.
    """
    try:
        return check(record[key])
    except FieldError as error:
        raise ValueError(f'{where}: "{key}" {error}: correct it') from error
