"""The folder of a job's results (``layout``): what it holds, and what counts as finished."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from trace_d2.io.atomic import atomic_file, remove_temporaries, write_json
from trace_d2.io.fans import digits_for, fanned
from trace_d2.jobs.clearing import drop_scratch, files_of_ours, sweep
from trace_d2.jobs.images_file import ImagesHead, read_head, read_images, write_images
from trace_d2.jobs.journal import (
    DONE,
    ImageEntry,
    JournalWriter,
    Record,
)
from trace_d2.jobs.layout import NOTES, PREVIEWS, SHARDS, Layout, is_shard_journal
from trace_d2.jobs.locks import LOCKS
from trace_d2.jobs.on_disk import Images, Records, read_journals
from trace_d2.jobs.output import (
    SETTINGS,
    DamagedFileError,
    ForeignFolderError,
    SettingsChangedError,
    check_members,
    check_removable,
    check_writable,
    differences,
    read_ours,
    remove_empty_folders,
    writing_to,
)
from trace_d2.jobs.settings_file import COMMIT, FORMAT, SAM_COMMIT, read_settings

EntryT = TypeVar("EntryT", bound=ImageEntry)


class JobStore:
    """The folder of the results of one kind of job.

    Args:
        output: the folder, or a file beside it (``Layout.beside``). Neither need exist.
        layout: what lies there.

    Attributes:
        has_locks: whether a second job that writes there can be refused.
    """

    has_locks: ClassVar[bool] = True

    def __init__(self, output: str | Path, layout: Layout) -> None:
        self.output = Path(output)
        self.layout = layout
        beside = self.output.with_name(f"{self.output.name}.work")
        self.root = beside if layout.beside else self.output
        self.settings_path = self.root / SETTINGS
        self.images_path = self.root / "images.json"
        self.journal_path = self.root / "journal.jsonl"
        self._fan: int | None = None
        self._records: tuple[list[Any], Records] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a worker."""
        return {**vars(self), "_records": None}

    @property
    def _files(self) -> list[Path]:
        """Our files but those of single images; removed in this order.

        The joined ones go first, as they name images, and the settings last: if removing is cut
        short, what is left are results of the old settings.
        """
        return [*self.joined_files, self.journal_path, self.images_path, self.settings_path]

    @property
    def joined_files(self) -> list[Path]:
        """The files of all images that are made at the end."""
        names = [*self.layout.joined, "report.html"]
        return [*([self.output] if self.layout.beside else []), *(self.root / n for n in names)]

    @property
    def address(self) -> str:
        """Where the folder lies, for users."""
        return self.address_of(self.root)

    def address_of(self, path: Path) -> str:
        """Where the file ``path`` below the folder lies, for users."""
        return str(path)

    def check_place(self) -> None:
        """Check that the folder is ours, or can be.

        Raises:
            ForeignFolderError: it is somebody else's, or of another kind, or holds a link where
                a file or a folder of ours is to be.
            DamagedFileError: its settings are damaged.
            OutputError: it cannot be looked into, or made.
        """
        with writing_to(self.root):
            ours = self.settings_path.exists()
            if self.layout.beside and self.output.is_dir():
                raise ForeignFolderError(f"{self.output} is a folder: choose a file for --output")
            if self.root.is_dir():
                names = (*self.layout.folders, LOCKS)
                check_members(self._files, [self.root / name for name in names])
            elif os.path.lexists(self.root):
                what = "a file" if self.root.is_file() else "a link to nothing"
                raise ForeignFolderError(f"{self.root} is {what}: choose a folder for --output")
            if self.layout.beside and os.path.lexists(self.output) and not ours:
                raise self._foreign_output()
            found = [path.name for path in self.root.iterdir()] if self.root.is_dir() else []
            self._check_content(ours, found)
            if not ours:
                check_writable(self.root)

    def _foreign_output(self) -> ForeignFolderError:
        return ForeignFolderError(
            f"{self.address_of(self.output)} exists and is not of this tool (there is no "
            f"{self.address}): choose another --output, or remove it"
        )

    def _check_content(self, ours: bool, names: Iterable[str]) -> None:
        """Raise a ForeignFolderError if the folder, which holds ``names``, is of another kind."""
        if ours:
            if (kind := self.read_settings().get("kind")) != self.layout.kind:
                raise ForeignFolderError(
                    f"{self.address} holds {kind}, not {self.layout.kind}: choose another --output"
                )
        elif strangers := [name for name in names if not name.startswith(".")]:
            raise ForeignFolderError(
                f"{self.address} is not empty and holds no {self.layout.kind} of this tool "
                f"(it has {min(strangers)!r}): choose a new or empty folder for --output"
            )

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise a SettingsChangedError if there are results of other ``settings``."""
        if not self.settings_path.exists():
            return
        stored = {k: v for k, v in self.read_settings().items() if k not in (COMMIT, SAM_COMMIT)}
        changed = differences(stored, self._complete(settings))
        if changed:
            raise SettingsChangedError(
                f"{self.root} holds {self.layout.kind} made with other settings:\n  "
                + "\n  ".join(changed)
                + "\nUse those settings, choose another --output, or drop the old "
                f"{self.layout.kind} by --overwrite"
            )

    def has_results(self) -> bool:
        """Whether an image is done; else the folder is free for other settings."""
        return bool(self.read_records().of_status(DONE))

    def has_work(self) -> bool:
        """Whether anything is kept that took time: a record, or a file until its image's turn."""
        scratch = self.root / self.layout.scratch if self.layout.scratch else None
        return bool(self.read_records()) or (scratch is not None and scratch.is_dir())

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make the folder ready for results made with ``settings``, a flat dict."""
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.settings_path.exists():  # first, as ``check_place`` looks for it
            write_json(self.settings_path, self._complete(settings), indent=1)

    def has_settings(self) -> bool:
        """Whether a job has begun there."""
        return self.settings_path.is_file()

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Replace what ``read_settings`` gives."""
        write_json(self.settings_path, settings, indent=1)

    def sweep(self) -> None:
        """Remove what killed writers left; only while nobody else writes here."""
        sweep(self.root, self.layout)
        if self.layout.beside:
            remove_temporaries(self.output.parent, of=self.output.name)

    def drop_results(self, stems: Iterable[str] = ()) -> list[Path]:
        """Remove everything this tool wrote; only while nobody else writes here.

        Args:
            stems: of images besides those that the folder knows.

        Returns:
            What stays in our folders, as it isn't ours.

        Raises:
            OutputError: something cannot be removed, and nothing is.
        """
        is_known = self._stems_known({*stems})
        found = partial(files_of_ours, self.root, self.layout, is_known)
        others = [Path(path) for path, ours in found() if not ours]
        files = [path for path in self._files if path.exists()]
        check_removable({os.path.dirname(path) for path, ours in found() if ours})
        check_removable({str(path.parent) for path in files})
        for path, ours in found():
            if ours:
                os.unlink(path)
        for file in files:
            file.unlink(missing_ok=True)
        for name in self.layout.folders:
            remove_empty_folders(self.root / name)
        return others

    def drop_scratch(self) -> None:
        """Remove the files that are needed only until all images are done."""
        drop_scratch(self.root, self.layout)

    def read_settings(self) -> dict[str, Any]:
        """What the results were made with, in the words of today.

        Raises:
            FileNotFoundError: the folder holds no results.
            ForeignFolderError: the file is somebody else's.
            DamagedFileError: the file is damaged.
        """
        return read_settings(self.settings_path, self.layout)

    @property
    def fan(self) -> int:
        """Hex digits of the parts that the files of images lie in, see ``trace_d2.io.fans``."""
        if self._fan is None:
            if not self.images_path.is_file():  # no job has begun
                return 0
            self._fan = read_head(self.images_path, self.layout.kind).fan
        return self._fan

    def write_images(self, entries: Sequence[ImageEntry], limit: int, lowers: bool = True) -> None:
        """Note the images of the job, the first ``limit`` of which are to be done.

        Without ``lowers`` they are as many as another shard was told to do, where that is more.
        Whether their files lie in parts is decided by the first job of the folder.
        """
        try:
            fan = read_head(self.images_path, self.layout.kind).fan
        except (FileNotFoundError, DamagedFileError):
            fan = digits_for(e.stem for e in entries) if self.layout.fans else 0
        write_images(self.images_path, entries, ImagesHead(limit, fan), lowers)
        self._fan = fan

    def read_images(self) -> tuple[Images, int]:
        """The images of the job and how many of them, from the first, are to be done.

        Raises:
            DamagedFileError: the file is damaged, or names lead out of the folder.
        """
        images, head = read_images(self.images_path, self.layout.kind)
        self._fan = head.fan
        return images, min(head.limit, len(images))

    def open_journal(self, shard: str = "") -> JournalWriter:
        """The journal that the shard of this name appends to; empty: that of the whole job."""
        if not shard:
            return JournalWriter(self.journal_path)
        path = self._shard_journal(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalWriter(path)

    def shard_journals(self) -> list[Path]:
        """The journals of shards that are not joined yet."""
        listed = (self.root / SHARDS).glob("journal-*.jsonl")
        return sorted(path for path in listed if is_shard_journal(path.name))

    def read_records(self) -> Records:
        """The record that counts of every stem, of all shards; read again once that changes."""
        state = [(path, os.stat(path)) for path in self.journals()]
        known = [(path, s.st_ino, s.st_size, s.st_mtime_ns) for path, s in state]
        if self._records is None or self._records[0] != known:
            self._records = known, read_journals(path for path, _ in state)
        return self._records[1]

    def read_shard_records(self, shard: str) -> Records:
        """The record that counts of every stem in the journal of the shard of this name."""
        path = self._shard_journal(shard)
        return read_journals([path] if path.exists() else [])

    def join_journals(self) -> Records:
        """Write all journals as one, a line an image in order of stems; returns the records."""
        records = self.read_records()
        with atomic_file(self.journal_path) as file:
            file.writelines(records.lines())
        for path in self.journals():
            if path != self.journal_path:
                path.unlink()
        return records

    def placed(self, stem: str) -> str:
        """What files of ``stem`` are named: it, below its part where there are parts."""
        return fanned(stem, self.fan)

    def path(self, pattern: str, stem: str) -> Path:
        """Where a file of ``stem`` is: ``pattern`` with it for ``{}``."""
        return self.root / pattern.format(self.placed(stem))

    def place(self, pattern: str, stem: str) -> Path:
        """The same, and its folder is made."""
        path = self.path(pattern, stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def check_name(self, name: str) -> None:
        """Raise an OSError if no file of this name, with ``/`` between its parts, can be made."""
        with contextlib.suppress(FileNotFoundError):
            os.lstat(self.root / name)

    def deliver(self, stem: str) -> None:
        """Put the files of ``stem`` where all see them, before its record is given."""

    def share(self, path: Path, first: bool = False) -> bool:
        """Put a file where all see it; with ``first``, unless one is there, which is then read.

        Returns:
            Whether it is this one that lies there now.
        """
        return True

    def fetch(self, path: Path) -> Path:
        """``path``, where the file can be read that others put there, if there is one."""
        return path

    def publish(self) -> None:
        """Put the files that join the results where all see them."""

    def with_notes(self, entries: Collection[EntryT]) -> Collection[EntryT]:
        """``entries``, the notes of which are about to be read in this order."""
        return entries

    def write_note(self, stem: str, note: Mapping[str, Any]) -> None:
        """Note of one image what the joined files take."""
        write_json(self.place(NOTES, stem), note)

    def read_note(self, stem: str) -> Any:
        """What ``write_note`` noted, unless the file was changed since."""
        remedy = "remove it, and run the same command again"
        return read_ours(self.path(NOTES, stem), self.layout.kind, remedy)

    def is_finished(
        self, record: Record | None, entry: ImageEntry, optional: Sequence[str] = ()
    ) -> bool:
        """Whether ``entry`` has a result, see ``has_result``, and pictures if it is pictured."""
        pictured = not entry.pictured or self.has_pictures(entry)
        return pictured and self.has_result(record, entry, optional)

    def has_pictures(self, entry: ImageEntry) -> bool:
        """Whether the report page can show ``entry``."""
        return self._has(PREVIEWS, entry.stem)

    def has_result(
        self, record: Record | None, entry: ImageEntry, optional: Sequence[str] = ()
    ) -> bool:
        """Whether the result of ``entry`` is complete, as far as record and files say.

        Args:
            record: what the journal has of it.
            entry: the image.
            optional: patterns of files that are needed besides those of every result.
        """
        if record is None or record.status != DONE or entry.image_id is None:
            return False
        if record.file_name != entry.file_name or not record.facts.keys() >= {*self.layout.facts}:
            return False
        told = [path for fact, path in self.layout.told.items() if fact in record.facts]
        needed = (*self.layout.results, NOTES, *told, *optional)
        return all(self._has(pattern, entry.stem) for pattern in needed)

    def _has(self, pattern: str, stem: str) -> bool:
        """Whether the file of ``stem`` is there."""
        # A name too long for the file system is no file, but an error to ``Path.is_file``.
        return os.path.isfile(f"{self.root}/{pattern.format(self.placed(stem))}")

    def _shard_journal(self, shard: str) -> Path:
        return self.root / SHARDS / f"journal-{shard}.jsonl"

    def _complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"format": FORMAT, "kind": self.layout.kind, **settings}

    def refresh(self) -> None:
        """See what others wrote meanwhile."""

    def journals(self) -> list[Path]:
        """The journals that are there, that of the whole job first."""
        own = [self.journal_path] if self.journal_path.exists() else []
        return own + self.shard_journals()

    def _stems_known(self, stems: set[str]) -> Callable[[str], bool]:
        """Whether a stem is one of ``stems`` or of an image that the folder tells of."""
        try:
            images = self.read_images()[0] if self.images_path.exists() else Images()
        except DamagedFileError:
            images = Images()
        records = self.read_records()
        return lambda stem: stem in stems or stem in records or images.has_stem(stem)
