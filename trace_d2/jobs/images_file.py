"""``images.json``: the images of a job, one a line, and how many of them are to be done."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trace_d2.io.atomic import atomic_file
from trace_d2.io.fans import MOST_DIGITS
from trace_d2.io.json_files import FieldError, json_list, json_object, whole_number
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.on_disk import Images
from trace_d2.jobs.output import DamagedFileError, read_ours

_REMEDY = "run the job again, which writes it anew"
_LONGEST_HEAD = 4096  # bytes
_OPENING, _END = b'"images": [\n', b"]}\n"  # end of the first line, and the last one


@dataclass(frozen=True)
class ImagesHead:
    """What ``images.json`` tells besides the images.

    Attributes:
        limit: how many of them, from the first, are to be done.
        fan: hex digits of the parts that the files of images lie in, see ``trace_d2.io.fans``.
    """

    limit: int
    fan: int = 0


def write_images(
    path: Path, entries: Sequence[ImageEntry], head: ImagesHead, lowers: bool = True
) -> None:
    """Note the images of a job; nothing is written where the file says the same already.

    Those beyond the limit are not done now: they are pictured where the file says so.

    Args:
        lowers: whether fewer may be to be done than the file says.
    """
    if head.limit < len(entries):
        limit, before = _noted(path)
        others = (replace(entry, pictured=entry.stem in before) for entry in entries[head.limit :])
        entries = [*entries[: head.limit], *others]
        head = head if lowers else replace(head, limit=max(limit, head.limit))
    if path.is_file():
        with open(path, "rb") as file:
            same = all(line == file.read(len(line)) for line in _lines(entries, head))
            if same and not file.read(1):
                return
    with atomic_file(path) as target:
        target.writelines(_lines(entries, head))


def read_head(path: Path, kind: str) -> ImagesHead:
    """What the file tells besides the images; see ``read_images``."""
    with _damage_told(path):
        return _read(path, kind)[0]


def read_images(path: Path, kind: str) -> tuple[Images, ImagesHead]:
    """What ``write_images`` noted.

    Args:
        kind: of the results of the folder, in words.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file is damaged, or names lead out of the folder.
    """
    with _damage_told(path):
        head, contents = _read(path, kind)
        return Images(contents), head


def _noted(path: Path) -> tuple[int, set[str]]:
    """The limit, and stems of the images that are pictured, as far as the file can tell."""
    try:
        images, head = read_images(path, "results")
    except (FileNotFoundError, DamagedFileError):
        return 0, set()
    return head.limit, {entry.stem for entry in images if entry.pictured}


def _lines(entries: Iterable[ImageEntry], head: ImagesHead) -> Iterator[bytes]:
    told = {"limit": head.limit, **({"fan": head.fan} if head.fan else {})}
    before = json.dumps(told).encode("ascii").removesuffix(b"}") + b", " + _OPENING
    for entry in entries:
        line = json.dumps(entry.to_json()).encode("ascii")
        yield before + line
        before = b",\n"
    yield b"\n" + _END if before == b",\n" else before + _END


def _read(path: Path, kind: str) -> tuple[ImagesHead, Iterable[Any]]:
    first = b""
    if path.is_file():
        with open(path, "rb") as file:
            first = file.readline(_LONGEST_HEAD)
    contents: Iterable[Any]
    if first.endswith(_OPENING):
        head, contents = json_object(json.loads(first + _END)), _listed(path)
    else:  # all in one line, as it used to be
        head = json_object(read_ours(path, kind, _REMEDY))
        contents = json_list(head["images"])
    fan = whole_number(head.get("fan", 0))
    if not 0 <= fan <= MOST_DIGITS:
        raise ValueError(f"its fan is {fan}")
    return ImagesHead(whole_number(head["limit"]), fan), contents


def _listed(path: Path) -> Iterator[Any]:
    with open(path, "rb") as file:
        next(file)
        for line in file:
            if line == _END:
                return
            yield json.loads(line.rstrip(b",\n"))
    raise ValueError("it ends too early")


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Raise a DamagedFileError in place of what readers raise in the block."""
    try:
        yield
    except DamagedFileError:
        raise
    except (KeyError, ValueError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        if isinstance(error, FieldError):
            what = f"a part of it {error}"
        raise DamagedFileError(f"{path} is damaged ({what}): {_REMEDY}") from error
