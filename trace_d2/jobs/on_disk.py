"""What a job has of every image, kept on the local disk: memory does not grow with their number.

Each table is a temporary database of SQLite's without a name, which is gone with its process,
however that ends. What fits into a few MiB never reaches the disk.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, ValuesView
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar, overload

from trace_d2.jobs.journal import (
    ImageEntry,
    Record,
    decode_record,
    encode_record,
    sound_records,
)
from trace_d2.jobs.output import OutputError

ItemT = TypeVar("ItemT")

_CACHE_KIB = 8192
_RECORDS = """
CREATE TABLE {} (
  stem BLOB PRIMARY KEY, finished REAL, status TEXT, line BLOB
) WITHOUT ROWID
"""
_LATER = """
INSERT INTO record SELECT * FROM journal WHERE true
ON CONFLICT (stem) DO UPDATE
SET finished = excluded.finished, status = excluded.status, line = excluded.line
WHERE record.finished <= excluded.finished
"""
_IMAGES = """
CREATE TABLE image (
  place INTEGER PRIMARY KEY, stem BLOB UNIQUE, image_id TEXT UNIQUE, line BLOB
)
"""


class Stream(Collection[ItemT]):
    """Things that are made anew each time they are looked through, so that none is kept.

    Args:
        begin: gives them from the first.
        count: how many they are.
    """

    def __init__(self, begin: Callable[[], Iterator[ItemT]], count: int) -> None:
        self._begin, self._count = begin, count

    def __iter__(self) -> Iterator[ItemT]:
        return self._begin()

    def __len__(self) -> int:
        return self._count

    def __contains__(self, item: object) -> bool:
        return any(item == own for own in self)


def chosen(items: Collection[ItemT], wanted: bytearray) -> Stream[ItemT]:
    """Those of ``items`` in whose place ``wanted`` has a 1."""
    return Stream(lambda: compress(items, wanted), sum(wanted))


class _Table:
    """A temporary database, of which a full disk is no fault of the output."""

    def __init__(self, *schema: str) -> None:
        # Of one thread at a time, but not always the same one.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._database.close)
        settings = ("page_size=16384", f"cache_size=-{_CACHE_KIB}", "journal_mode=OFF")
        for statement in (*(f"PRAGMA {setting}" for setting in settings), *schema):
            self._database.execute(statement)

    def _fill(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with _room():
            self._database.execute("BEGIN")
            self._database.executemany(statement, rows)
            self._database.execute("COMMIT")

    def _rows(self, query: str, *values: Any) -> Iterator[Any]:
        with _room():
            yield from self._database.execute(query, values)

    def _first(self, query: str, *values: Any) -> Any:
        # No generator, which a finalizer would end: one that Ctrl-C interrupts takes it for itself.
        with _room():
            return self._database.execute(query, values).fetchone()


class Records(_Table, Mapping[str, Record]):
    """The record that counts of every stem, in sorted order of stems."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        super().__init__(_RECORDS.format("record"), _RECORDS.format("journal"))
        self.put(records)

    def put(self, records: Iterable[Record]) -> None:
        """Take records, each of which counts from now on."""
        self._fill("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?)", map(_row, records))

    def add_journal(self, lines: Iterable[bytes], origin: object) -> None:
        """Take the records of one journal, see ``sound_records``; of a stem the last one counts.

        It counts unless a journal that was taken before has one that ended later.
        """
        records = sound_records(lines, origin)
        alone = not len(self)
        table = "record" if alone else "journal"
        self._fill(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)", map(_row, records))
        if not alone:
            with _room():
                self._database.execute(_LATER)
                self._database.execute("DELETE FROM journal")

    def lines(self, status: str = "") -> Iterator[bytes]:
        """The records, all or those of one status, as lines of a journal."""
        query = "SELECT line FROM record WHERE ? IN ('', status) ORDER BY stem"
        return (line for (line,) in self._rows(query, status))

    def of_status(self, status: str) -> Stream[Record]:
        """Those of one status."""

        count = self._first("SELECT count(*) FROM record WHERE status = ?", status)
        return Stream(lambda: map(decode_record, self.lines(status)), count[0])

    def __getitem__(self, stem: str) -> Record:
        found = self._first("SELECT line FROM record WHERE stem = ?", _key(stem))
        if found is None:
            raise KeyError(stem)
        return decode_record(found[0])

    def __contains__(self, stem: object) -> bool:
        found = self._first("SELECT 1 FROM record WHERE stem = ?", _key(str(stem)))
        return found is not None

    def __iter__(self) -> Iterator[str]:
        return (_text(key) for (key,) in self._rows("SELECT stem FROM record ORDER BY stem"))

    def __len__(self) -> int:
        return int(self._first("SELECT count(*) FROM record")[0])

    def values(self) -> ValuesView[Record]:
        return _Values(self)


class _Values(ValuesView[Record]):
    """In one pass, where a mapping's own would look up one by one."""

    _mapping: Records

    def __iter__(self) -> Iterator[Record]:
        return map(decode_record, self._mapping.lines())


class Images(_Table, Sequence[ImageEntry]):
    """The images of a job in their order.

    Args:
        contents: of each what ``ImageEntry.from_json`` takes.

    Raises:
        KeyError, ValueError: one is none, or has the stem or the id of another.
    """

    def __init__(self, contents: Iterable[Any] = ()) -> None:
        super().__init__(_IMAGES)
        try:
            self._fill(
                "INSERT INTO image VALUES (?, ?, ?, ?)", map(_image_row, enumerate(contents))
            )
        except sqlite3.IntegrityError as error:
            own = str(error).rpartition(".")[2]
            raise ValueError(f"images share the {own} that should be their own") from error
        self._count = int(self._first("SELECT count(*) FROM image")[0])

    def has_stem(self, stem: str) -> bool:
        """Whether one of them has this stem."""
        return self._first("SELECT 1 FROM image WHERE stem = ?", _key(stem)) is not None

    def first(self, count: int) -> Stream[ImageEntry]:
        """The first ``count``, or all if there are fewer."""
        count = min(count, self._count)  # SQLite takes no integer of any size

        def begin() -> Iterator[ImageEntry]:
            query = "SELECT line FROM image WHERE place < ? ORDER BY place"
            return (_entry(line) for (line,) in self._rows(query, count))

        return Stream(begin, count)

    def __iter__(self) -> Iterator[ImageEntry]:
        return iter(self.first(self._count))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> ImageEntry: ...
    @overload
    def __getitem__(self, place: slice) -> list[ImageEntry]: ...
    def __getitem__(self, place: int | slice) -> ImageEntry | list[ImageEntry]:
        places = range(self._count)[place]
        if isinstance(places, range):
            return [self[one] for one in places]
        return _entry(self._first("SELECT line FROM image WHERE place = ?", places)[0])


def read_journals(paths: Iterable[str | Path]) -> Records:
    """The record that counts of every stem in files of journals."""
    records = Records()
    for path in paths:
        with open(path, "rb") as file:
            records.add_journal(file, path)
    return records


@contextlib.contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OutputError(
            f"no room for what is kept of every image for a while ({error}): make room in the "
            "folder of temporary files, or name another one by the variable TMPDIR. Finished "
            "images are safe, and the same command continues"
        ) from error


def _row(record: Record) -> tuple[bytes, float, str, bytes]:
    return _key(record.stem), record.finished, record.status, encode_record(record)


def _image_row(ranked: tuple[int, Any]) -> tuple[int, bytes, str | None, bytes]:
    place, content = ranked
    entry = ImageEntry.from_json(content)
    image_id = None if entry.image_id is None else str(entry.image_id)
    return place, _key(entry.stem), image_id, json.dumps(entry.to_json()).encode("ascii")


def _entry(line: bytes) -> ImageEntry:
    return ImageEntry(**json.loads(line))


def _key(stem: str) -> bytes:
    """By which stems are in the order that Python gives them; names may be no text."""
    return stem.encode("utf-8", "surrogatepass")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
