"""The folder of a job's results (``layout``): what it holds, and what counts as finished."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from trace_d2.io.atomic import remove_temporaries, write_bytes, write_json
from trace_d2.io.json_files import shown
from trace_d2.jobs.clearing import drop_scratch, own_files, sweep
from trace_d2.jobs.images_file import read_images, write_images
from trace_d2.jobs.journal import (
    DONE,
    ImageEntry,
    JournalWriter,
    Record,
    encode_record,
    read_journals,
)
from trace_d2.jobs.layout import NOTES, PREVIEWS, SHARDS, Layout
from trace_d2.jobs.locks import LOCKS
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

FORMAT = 2  # of settings.json and journal; 1 is read as well
COMMIT, SAM_COMMIT = "commit", "sam_commit"
"""Of the hub's backbone and SAM: in the settings once they are known, and none of them."""
_SHARD_JOURNALS = "shards/journal-{}.jsonl"
# Of an object store it is one of several parts, with the time and a random number in its name.
_SHARD_JOURNAL = re.compile(r"journal-[0-9]+-of-[0-9]+(\.[0-9]{13}-[0-9a-f]{8})?\.jsonl")
_TEXTS = ("images", "edges", "semantic", "masks", COMMIT, SAM_COMMIT)  # of the settings


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

    @property
    def _files(self) -> list[Path]:
        """Our files but those of single images; removed in this order.

        The joined ones go first, as they name images, and the settings last: if removing is cut
        short, what is left are results of the old settings.
        """
        names = [*self.layout.joined, "report.html"]
        joined = [*([self.output] if self.layout.beside else []), *(self.root / n for n in names)]
        return [*joined, self.journal_path, self.images_path, self.settings_path]

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
        return any(record.status == DONE for record in self.read_records().values())

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
        known = {*stems, *self._known_stems()}
        names = {pattern.format(stem) for stem in known for pattern in self.layout.patterns}
        names |= {path.relative_to(self.root).as_posix() for path in self.shard_journals()}
        own, others = own_files(self.root, self.layout, names)
        files = [path for path in self._files if path.exists()]
        check_removable([*own, *files])
        for path in (*own, *files):
            path.unlink(missing_ok=True)
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
        content = read_ours(
            self.settings_path, self.layout.kind, "restore it, or choose another --output"
        )
        if not isinstance(content, dict) or "format" not in content:
            raise ForeignFolderError(
                f"{self.settings_path} is not of this tool: choose another --output"
            )
        if content["format"] not in (1, FORMAT):
            raise ForeignFolderError(
                f"{self.settings_path} has format {shown(content['format'])}, which this version "
                "does not know: use the version that wrote it, or choose another --output"
            )
        for name in _TEXTS:
            if not isinstance(content.get(name, ""), str):
                raise DamagedFileError(
                    f"{self.settings_path} is damaged ({name} is {shown(content[name])}, not "
                    "text): restore it, or choose another --output"
                )
        if content["format"] == 1:
            content = self.layout.upgrade({**content, "format": FORMAT})
        return content

    def write_images(self, entries: Sequence[ImageEntry], limit: int) -> None:
        """Note the images of the job, the first ``limit`` of which are to be done."""
        write_images(self.images_path, entries, limit)

    def read_images(self) -> tuple[list[ImageEntry], int]:
        """The images of the job and how many of them, from the first, are to be done.

        Raises:
            DamagedFileError: the file is damaged, or names lead out of the folder.
        """
        return read_images(self.images_path, self.layout.kind)

    def open_journal(self, shard: str = "") -> JournalWriter:
        """The journal that the shard of this name appends to; empty: that of the whole job."""
        if not shard:
            return JournalWriter(self.journal_path)
        return JournalWriter(self.place(_SHARD_JOURNALS, shard))

    def shard_journals(self) -> list[Path]:
        """The journals of shards that are not joined yet."""
        listed = (self.root / SHARDS).glob("journal-*.jsonl")
        return sorted(path for path in listed if is_shard_journal(path.name))

    def read_records(self) -> dict[str, Record]:
        """The record that counts of every stem, of all shards."""
        return read_journals(self._journals())

    def read_shard_records(self, shard: str) -> dict[str, Record]:
        """The record that counts of every stem in the journal of the shard of this name."""
        path = self.root / _SHARD_JOURNALS.format(shard)
        return read_journals([path] if path.exists() else [])

    def join_journals(self) -> dict[str, Record]:
        """Write all journals as one, a line an image in order of stems; returns the records."""
        records = dict(sorted(self.read_records().items()))
        write_bytes(self.journal_path, b"".join(map(encode_record, records.values())))
        for path in self._journals():
            if path != self.journal_path:
                path.unlink()
        return records

    def place(self, pattern: str, stem: str) -> Path:
        """Where a file of ``stem`` is to be written: ``pattern`` with it for ``{}``."""
        path = self.root / pattern.format(stem)
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

    def with_notes(self, entries: Sequence[EntryT]) -> Sequence[EntryT]:
        """``entries``, the notes of which are about to be read in this order."""
        return entries

    def write_note(self, stem: str, note: Mapping[str, Any]) -> None:
        """Note of one image what the joined files take."""
        write_json(self.place(NOTES, stem), note)

    def read_note(self, stem: str) -> Any:
        """What ``write_note`` noted, unless the file was changed since."""
        remedy = "remove it, and run the same command again"
        return read_ours(self.root / NOTES.format(stem), self.layout.kind, remedy)

    def is_finished(
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
        needed = [*self.layout.results, NOTES, *told, *optional]
        if entry.pictured:
            needed.append(PREVIEWS)
        return all(self._has(pattern, entry.stem) for pattern in needed)

    def _has(self, pattern: str, stem: str) -> bool:
        """Whether the file of ``stem`` is there."""
        # A name too long for the file system is no file, but an error to ``Path.is_file``.
        return os.path.isfile(self.root / pattern.format(stem))

    def _complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"format": FORMAT, "kind": self.layout.kind, **settings}

    def _journals(self) -> list[Path]:
        own = [self.journal_path] if self.journal_path.exists() else []
        return own + self.shard_journals()

    def _known_stems(self) -> set[str]:
        """Stems of all images that the folder tells of."""
        try:
            listed = self.read_images()[0] if self.images_path.exists() else []
        except DamagedFileError:
            listed = []
        return {entry.stem for entry in listed} | self.read_records().keys()


def is_shard_journal(name: str) -> bool:
    """Whether a file of this name is a shard's journal, or a part of one."""
    return _SHARD_JOURNAL.fullmatch(name) is not None
