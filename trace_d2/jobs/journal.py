"""The journal: one JSON line an image, written as the image ends, so that no result is lost.

Lines are appended, flushed and synced. A process that dies within a line leaves a torn last line,
which readers pass over and the next writer cuts off; its image is then labelled again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType

DONE, SKIPPED, FAILED = "done", "skipped", "failed"


@dataclass(frozen=True)
class Record:
    """How the label of one image came out.

    Attributes:
        stem: the image's file name without its ending.
        file_name: the image's file name.
        status: ``"done"``, ``"skipped"`` (nothing to make a label from) or ``"failed"``.
        reason: why it was skipped or failed; empty if done.
        notes: remarks that users should know of, such as constant edges.
        seconds: time from reading to writing; without what was read ahead, beside the detection
            of another image.
        timestep: instance emergence point of the teacher's edges; None for others, or none.
        segments: segments of the label, or refined masks.
        things: those of them that are things.
        given: masks that the refined ones were made from.
        uncut: thing segments that there would be without edges; 0 where none were given.
        shares: of pseudo edges, the shares (0..1) of edge, none and ignored pixels; else empty.
        settings: fingerprint of the job's settings.
        inputs: fingerprint of the input files' sizes and times.
        finished: when it ended, seconds since 1970.
    """

    stem: str
    file_name: str
    status: str
    reason: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    timestep: int | None = None
    segments: int = 0
    things: int = 0
    settings: str = ""
    inputs: str = ""
    finished: float = 0.0
    given: int = 0
    shares: tuple[float, ...] = ()
    uncut: int = 0


class JournalWriter:
    """Appends records to a file; use it as a context manager."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _cut_torn_line(self.path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)

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
        content = {"given": 0, "shares": (), "uncut": 0, **content}  # journals lacked them once
        for name in ("notes", "shares"):
            content[name] = tuple(content[name])
        return Record(**{field.name: content[field.name] for field in fields(Record)})
    except (ValueError, KeyError, TypeError):  # a torn line: its image is done again
        return None


def _cut_torn_line(path: Path) -> None:
    """Make ``path`` end with a whole line, if it exists."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        os.truncate(path, end)
