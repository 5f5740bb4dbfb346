"""The journal: one JSON line an image, written as the image ends, so that no result is lost.

Lines are appended, flushed and synced. A process that dies within a line leaves a torn last line,
which readers pass over and the next writer cuts off; its image is then done again. Lines are of
format 2; those of format 1, which had the facts beside the rest, are read as well.

Of the records of an image within one file the last counts. Of those in several files (of shards)
the latest does, by its time; so that clocks that step back, or differ between machines, let none
count that was overtaken, every record is given a time after that of the one it follows.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from trace_d2.io.json_files import flag, json_object, number, whole_number
from trace_d2.io.paths import relative_name

DONE, SKIPPED, FAILED = "done", "skipped", "failed"

_TICK = 0.001  # seconds
_LATEST = 1e11  # seconds since 1970; beyond, a tick is lost in the rounding
_BLOCK = 65536  # bytes read at once
_SHARES = (0, 3)  # how many numbers the fact "shares" has; all others are one whole number

logger = logging.getLogger(__name__)


def check_name(name: object) -> str:
    """``name``, a stem or the name of an image, which leads nowhere but below its folder.

    Raises:
        ValueError: it is none, or not written in the one way that we write it.
    """
    if relative_name(name) != name:
        raise ValueError(
            f"the name {name!r} of an image has backslashes or empty parts: rename the image"
        )
    return str(name)


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of a job.

    Attributes:
        stem: its file name without the ending; names its mask, edges and labels.
        file_name: its file name.
        image_id: its id in COCO files; None: the given list of ids does not name it.
        pictured: whether the report page shows it.

    Raises:
        ValueError: a name leads out of its folder.
    """

    stem: str
    file_name: str
    image_id: int | None
    pictured: bool = False

    def __post_init__(self) -> None:
        check_name(self.stem)
        check_name(self.file_name)

    def to_json(self) -> dict[str, Any]:
        """What ``images.json`` has of it; what a subclass adds stays out."""
        return {name: getattr(self, name) for name in _IMAGE_FIELDS}

    @staticmethod
    def from_json(content: Any) -> ImageEntry:
        """What ``images.json`` has of one; raises a KeyError or ValueError if it is none."""
        image_id, pictured = json_object(content)["image_id"], content.get("pictured")
        return ImageEntry(
            content["stem"],
            content["file_name"],
            None if image_id is None else whole_number(image_id),
            bool(flag(pictured)),
        )


@dataclass(frozen=True)
class Record:
    """How the result of one image came out.

    Attributes:
        stem: the image's file name without its ending.
        file_name: the image's file name.
        status: ``"done"``, ``"skipped"`` (nothing to make a result from) or ``"failed"``.
        reason: why it was skipped or failed; empty if done.
        notes: remarks that users should know of, such as constant edges.
        seconds: time from reading to writing; without what was read ahead, beside the look at
            another image.
        inputs: fingerprint of the input files' sizes and times.
        finished: when it ended, seconds since 1970.
        facts: numbers of the result, which its kind of job knows.
        worker: which process made it, as ``"host:pid"``; empty if the main process alone did.
    """

    stem: str
    file_name: str
    status: str
    reason: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    inputs: str = ""
    finished: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    worker: str = ""

    def after(self, earlier: Record | None) -> Record:
        """The same, at a time after that of ``earlier``, whatever the clock says."""
        if earlier is None or earlier.finished < self.finished:
            return self
        return replace(self, finished=round(earlier.finished + _TICK, 3))


_IMAGE_FIELDS = tuple(own.name for own in fields(ImageEntry))
_FIELDS = frozenset(own.name for own in fields(Record))


class JournalWriter:
    """Appends records to a file; use it as a context manager."""

    def __init__(self, path: str | Path) -> None:
        _cut_torn_line(Path(path))
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """End the writing."""
        self._file.close()

    def append(self, record: Record) -> None:
        """Write one line and wait until the disk has it. Raises OSError if the disk is full."""
        line = memoryview(encode_record(record))
        while line:  # a nearly full disk may take a part
            line = line[self._file.write(line) :]
        os.fsync(self._file.fileno())


def encode_record(record: Record) -> bytes:
    """One line of the journal, with its line end."""
    content = {**vars(record)}
    if not record.worker:
        del content["worker"]
    return (json.dumps(content) + "\n").encode("ascii")


def decode_record(line: bytes) -> Record:
    """What ``encode_record`` made a line of."""
    content = json.loads(line)
    content["notes"] = tuple(content["notes"])
    return Record(**content)


def sound_records(lines: Iterable[bytes], origin: object) -> Iterator[Record]:
    """The records in the lines of a journal one after the other; there may be several of one stem.

    Lines that are not whole (a process died while it wrote them) or damaged are passed over; there
    is a warning of those that no such death explains.

    Args:
        origin: where the lines are from, for the warning.
    """
    damaged = 0
    for line in lines:
        record = _decode(line)
        if record is not None:
            yield record
        elif line.endswith(b"\n") and line.strip():
            damaged += 1
    if damaged:
        logger.warning(
            "%s: %d damaged lines are passed over; the same command makes their images again",
            origin,
            damaged,
        )


def _decode(line: bytes) -> Record | None:
    """The record in ``line``; None where it is not whole, or a field is what none can be."""
    try:
        content = json.loads(line)
        if "facts" not in content:  # format 1, which had a fingerprint of the settings as well
            others = _FIELDS | {"settings"}
            beside = {key: value for key, value in content.items() if key not in others}
            content["facts"] = {key: value for key, value in beside.items() if value is not None}
        values = {name: content[name] for name in _FIELDS - {"worker"}}
        values["worker"] = content.get("worker", "")
        if not _is_sound(values):
            return None
        values["notes"] = tuple(values["notes"])
        return Record(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _is_sound(values: dict[str, Any]) -> bool:
    """Whether all fields are of their types; some raise a ValueError or TypeError if not."""
    check_name(values["stem"])
    check_name(values["file_name"])
    for text in (values["reason"], values["inputs"], values["worker"], *values["notes"]):
        if not isinstance(text, str):
            return False
    for name, value in values["facts"].items():
        if not _is_fact(name, value):
            return False
    return (
        values["status"] in (DONE, SKIPPED, FAILED)
        and isinstance(values["notes"], list)
        and number(values["seconds"]) >= 0
        and 0 <= number(values["finished"]) < _LATEST
    )


def _is_fact(name: str, value: Any) -> bool:
    if name == "shares":
        shares = isinstance(value, list) and len(value) in _SHARES
        return shares and all(0 <= number(share) <= 1 for share in value)
    if name == "timestep":
        return 0 <= number(value) <= 1000
    return whole_number(value) >= 0


def _cut_torn_line(path: Path) -> None:
    """Make ``path`` end with a whole line, if it exists."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:  # from the end, as the file may be large
            start = max(0, end - _BLOCK)
            file.seek(start)
            if (found := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + found + 1
                break
            end = start
        if end != size:
            file.truncate(end)
