"""Results in an object store: made in a folder of the local disk, and uploaded image by image.

The folder is a temporary one of each process, or of all those of one machine. An image's files are
uploaded before its record is given, and removed locally, so that the folder stays small. The
journal goes up in parts that never change, so that an image whose line is there has its files
there. Notes that the joined files take are read ahead.

There are no locks: two jobs at once cannot be refused. They write the same bytes.
"""

from __future__ import annotations

import atexit
import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from trace_d2.io.remote import is_address
from trace_d2.jobs.clearing import is_ours, is_scratch
from trace_d2.jobs.journal import ImageEntry, JournalWriter, Record
from trace_d2.jobs.layout import NOTES, SHARDS, Layout, is_shard_journal
from trace_d2.jobs.object_folder import ObjectFolder, ObjectIndex, nothing_begun
from trace_d2.jobs.on_disk import Images, Records
from trace_d2.jobs.output import (
    SETTINGS,
    DamagedFileError,
    ForeignFolderError,
    SettingsChangedError,
)
from trace_d2.jobs.store import JobStore

EntryT = TypeVar("EntryT", bound=ImageEntry)

_NAMING = (DamagedFileError, ForeignFolderError, SettingsChangedError, FileNotFoundError)
_PART_RECORDS = 1000
_PART_SECONDS = 30.0


def job_store(output: str | Path, layout: Layout) -> JobStore:
    """The folder of results ``output``, of this machine or by the address of an object store."""
    return ObjectStore(output, layout) if is_address(output) else JobStore(output, layout)


class ObjectStore(JobStore):
    """The results of one kind of job in an object store.

    Args:
        output: address of the folder, or of a file beside it (``Layout.beside``).
        layout: what lies there.

    Attributes:
        objects: the objects, and where they are locally; ``root`` is among these places.

    Raises:
        ValueError, ImportError: the address is none, or what opens its store is not installed.
    """

    has_locks = False

    def __init__(self, output: str | Path, layout: Layout) -> None:
        address = str(output).rstrip("/")
        folder, _, name = address.rpartition("/")
        self._temporary = Path(tempfile.gettempdir()) / f"trace_d2-{secrets.token_hex(8)}"
        super().__init__(self._temporary / name, layout)
        base = (folder, self._temporary) if layout.beside else (address, self.root)
        self.objects = ObjectFolder(*base)
        self._begin_here()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_index": None, "_notes": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if not self._temporary.parent.is_dir():  # of another machine, as a job of SLURM has its own
            self._move(Path(tempfile.gettempdir()) / self._temporary.name)
        self._begin_here()

    def _move(self, temporary: Path) -> None:
        """Have all files below ``temporary``, in the place of the folder that it was until now."""
        before = self._temporary
        for owner in (self, self.objects):
            for name, value in vars(owner).items():
                if isinstance(value, Path) and value.is_relative_to(before):
                    setattr(owner, name, temporary / value.relative_to(before))

    def _begin_here(self) -> None:
        """Know nothing yet of what the store holds.

        The first process of a machine makes the temporary folder, and removes it at its end.
        """
        self._got: set[Path] = set()
        self._index: ObjectIndex | None = None
        self._notes: dict[str, bytes | None] = {}
        if not self._temporary.exists():
            self._temporary.mkdir(mode=0o700)
            atexit.register(shutil.rmtree, self._temporary, ignore_errors=True)
            self.root.mkdir()

    def address_of(self, path: Path) -> str:
        return self.objects.url_of(path)

    def check_place(self) -> None:
        self.objects.check()
        self._got.clear()
        there = self.objects.entries(self._name)
        ours = SETTINGS in there
        if self.layout.beside:
            name = self.objects.name_of(self.output)
            if self.objects.entries(name):
                raise ForeignFolderError(
                    f"{self.address_of(self.output)} is a folder: choose a file for --output"
                )
            if not ours and self.objects.exists(name):
                raise self._foreign_output()
        self._check_content(ours, there)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        self._get(self.settings_path)
        with self._addressed():
            super().check_settings(settings)

    def has_settings(self) -> bool:
        self._get(self.settings_path)
        return super().has_settings()

    def read_settings(self) -> dict[str, Any]:
        self._get(self.settings_path)
        with self._addressed():
            return super().read_settings()

    @property
    def fan(self) -> int:
        if self._fan is None:
            self._get(self.images_path)
        return super().fan

    def read_images(self) -> tuple[Images, int]:
        self._get(self.images_path)
        with self._addressed():
            return super().read_images()

    def read_records(self) -> Records:
        self._get_journals()
        return super().read_records()

    def refresh(self) -> None:
        parts = self._parts()
        gone = {*self.shard_journals()} - {*parts}
        if gone:  # joined
            self._got.clear()
        for path in gone:
            path.unlink()
        self._get(self.journal_path, *(path for path in parts if not path.is_file()))

    def open(self, settings: Mapping[str, Any]) -> None:
        begun = self.has_settings()
        super().open(settings)
        if begun:
            return
        with nothing_begun():
            created = self.objects.create(self.settings_path)
        if not created:  # somebody was sooner
            self._got.clear()
            self.check_settings(settings)

    def write_images(self, entries: Sequence[ImageEntry], limit: int, lowers: bool = True) -> None:
        self._got.discard(self.images_path)  # another shard may have begun
        self._get(self.images_path)
        super().write_images(entries, limit, lowers)
        self.objects.upload([self.images_path])

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        super().write_settings(settings)
        self.objects.upload([self.settings_path])

    def open_journal(self, shard: str = "") -> Any:
        self._index = None  # what is made from here on is not in it
        return _Parts(self, shard or "1-of-1")

    def join_journals(self) -> Records:
        self._got.clear()  # there may be more than when this process began
        self._get_journals()
        parts = [self.objects.name_of(path) for path in self.shard_journals()]
        records = super().join_journals()
        self.objects.upload([self.journal_path])
        self.objects.remove(parts)  # once their lines are in the other
        return records

    def drop_results(self, stems: Iterable[str] = ()) -> list[Path]:
        known = {*stems}
        is_known, others = self._stems_known(known), list[Path]()
        for folder in self.layout.folders:
            for names in self.objects.names(self._below(folder)):
                bare = {name: name.removeprefix(self._below("")) for name in names}
                own = {name for name in names if is_ours(bare[name], self.layout, is_known)}
                self.objects.remove(own)
                others += [Path(name) for name in names if name not in own]
        for path in self._files:  # one after the other
            self.objects.remove([self.objects.name_of(path)])
        super().drop_results(known)
        self._index = None
        return others

    def drop_scratch(self) -> None:
        super().drop_scratch()
        if self.layout.scratch:
            for names in self.objects.names(self._below(self.layout.scratch)):
                self.objects.remove(name for name in names if is_scratch(name.rpartition("/")[2]))

    def check_name(self, name: str) -> None:
        super().check_name(name)
        self.objects.check_name(self._below(name))

    def deliver(self, stem: str) -> None:
        places = (self.path(pattern, stem) for pattern in self.layout.patterns)
        made = [path for path in places if path.is_file()]
        self.objects.upload(made)
        for path in made:
            path.unlink()

    def share(self, path: Path, first: bool = False) -> bool:
        if first:
            if not self.objects.create(path):
                self.objects.download([path])
                return False
            return True
        self.objects.upload([path])
        return True

    def fetch(self, path: Path) -> Path:
        if not path.is_file():
            self.objects.download([path])
        return path

    def publish(self) -> None:
        apart = (self.journal_path, self.images_path, self.settings_path)
        self.objects.upload([path for path in self._files if path not in apart and path.is_file()])

    def with_notes(self, entries: Collection[EntryT]) -> Collection[EntryT]:
        return _WithNotes(self, entries)

    def read_note(self, stem: str) -> Any:
        path = self.path(NOTES, stem)
        name = self.objects.name_of(path)
        note = self._notes[stem] if stem in self._notes else self.objects.read(name)
        if note is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(note)
        try:
            with self._addressed():
                return super().read_note(stem)  # which tells what is wrong with it
        finally:
            path.unlink(missing_ok=True)

    def _has(self, pattern: str, stem: str) -> bool:
        if self._index is None:
            kept = {pattern.partition("/")[0] for pattern in self.layout.patterns}
            self._index = self.objects.index(map(self._below, sorted(kept)))
        return self._below(pattern.format(self.placed(stem))) in self._index

    @property
    def _name(self) -> str:
        """Of the folder of results, among the objects."""
        return self.objects.name_of(self.root)

    def _below(self, name: str) -> str:
        """Of a file in the folder of results, among the objects."""
        return f"{self._name}/{name}" if self._name else name

    @contextlib.contextmanager
    def _addressed(self) -> Iterator[None]:
        """Let errors name the address and not where the file lies for the moment."""
        try:
            yield
        except _NAMING as error:
            text = str(error).replace(str(self.root), self.address)
            if text == str(error):
                raise
            raise type(error)(text) from error

    def _get(self, *paths: Path) -> None:
        """Have files that tell of all results here, as they are when they are first asked for."""
        self.objects.download([path for path in paths if path not in self._got])
        self._got.update(paths)

    def _parts(self) -> list[Path]:
        """Parts of journals that are in the store; they never change."""
        listed = self.objects.entries(self._below(SHARDS))
        return [self.root / SHARDS / name for name in listed if is_shard_journal(name)]

    def _get_journals(self) -> None:
        if self.journal_path not in self._got:
            missing = [path for path in self._parts() if not path.is_file()]
            self._get(self.journal_path, *missing)

    def _stems_known(self, stems: set[str]) -> Callable[[str], bool]:
        self._get(self.images_path)
        return super()._stems_known(stems)


class _WithNotes(Collection[EntryT]):
    """Images, the notes of which are read ahead as one after the other is taken."""

    def __init__(self, store: ObjectStore, entries: Collection[EntryT]) -> None:
        self._store = store
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: object) -> bool:
        return entry in self._entries

    def __iter__(self) -> Iterator[EntryT]:
        store = self._store
        names = (store._below(NOTES.format(store.placed(entry.stem))) for entry in self._entries)
        for entry, note in zip(self._entries, store.objects.read_ahead(names), strict=True):
            store._notes = {entry.stem: note}
            yield entry
        store._notes = {}


class _Parts:
    """Writes a journal in parts, each of which is uploaded once and never changed."""

    def __init__(self, store: ObjectStore, shard: str) -> None:
        self._store = store
        self._shard = shard
        self._part: Path | None = None
        self._writer: JournalWriter | None = None
        self._records = 0
        self._since = time.monotonic()

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *raised: object) -> None:
        self._upload()

    def append(self, record: Record) -> None:
        """Write one line, and upload what there is if it is time."""
        if self._writer is None:
            name = f"{self._shard}.{time.time_ns() // 10**6:013}-{secrets.token_hex(4)}"
            self._part = self._store.root / SHARDS / f"journal-{name}.jsonl"
            self._part.parent.mkdir(exist_ok=True)
            self._writer = JournalWriter(self._part)
        self._writer.append(record)
        self._records += 1
        late = time.monotonic() - self._since >= _PART_SECONDS
        if late or self._records >= _PART_RECORDS:
            self._upload()

    def _upload(self) -> None:
        if self._writer is None or self._part is None:
            return
        self._writer.close()
        self._store.objects.upload([self._part])
        self._writer, self._records, self._since = None, 0, time.monotonic()
