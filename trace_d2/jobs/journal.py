"""The journal: one JSON line an image, written as the image ends, so that no result is lost.

Lines are appended, flushed and synced. A process that dies within a line leaves a torn last line,
which readers pass over and the next writer cuts off; its image is then done again. Lines are of
format 2; those of format 1, which had the facts beside the rest, are read as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

DONE, SKIPPED, FAILED = "done", "skipped", "failed"


@dataclass(frozen=True)
class ImageEntry:
    """One image of a job.

    Attributes:
        stem: its file name without the ending; names its mask, edges and labels.
        file_name: its file name.
        image_id: its id in COCO files; None: the given list of ids does not name it.
        pictured: whether the report page shows it.
    """

    stem: str
    file_name: str
    image_id: int | None
    pictured: bool = False


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


_FIELDS = frozenset(own.name for own in fields(Record))


class JournalWriter:
    """Appends records to a file; use it as a context manager."""

    def __init__(self, path: str | Path) -> None:
        _cut_torn_line(Path(path))
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, record: Record) -> None:
        """Write one line and wait until the disk has it. Raises OSError if the disk is full."""
        line = memoryview(encode_record(record))
        while line:  # a nearly full disk may take a part
            line = line[self._file.write(line) :]
        os.fsync(self._file.fileno())


def encode_record(record: Record) -> bytes:
    """One line of the journal, with its line end."""
    return (json.dumps(asdict(record)) + "\n").encode("ascii")


def read_journals(paths: Iterable[str | Path]) -> dict[str, Record]:
    """The newest record of every stem.

    Lines that are not whole (a process died while it wrote them) are passed over.
    """
    records: dict[str, Record] = {}
    for path in paths:
        for line in Path(path).read_bytes().split(b"\n"):
            record = _decode(line)
            if record is None:
                continue
            earlier = records.get(record.stem)
            if earlier is None or earlier.finished <= record.finished:
                records[record.stem] = record
    return records


def _decode(line: bytes) -> Record | None:
    try:
        content = json.loads(line)
        if "facts" not in content:  # format 1, which had a fingerprint of the settings as well
            others = _FIELDS | {"settings"}
            beside = {key: value for key, value in content.items() if key not in others}
            content["facts"] = {key: value for key, value in beside.items() if value is not None}
        content["notes"] = tuple(content["notes"])
        return Record(**{name: content[name] for name in _FIELDS})
    except (ValueError, KeyError, TypeError, AttributeError):  # torn: its image is done again
        return None


def _cut_torn_line(path: Path) -> None:
    """Make ``path`` end with a whole line, if it exists."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        os.truncate(path, end)
