"""The folder of a job's results: what lies where, and what counts as finished.

::

    OUTPUT/
      journal.jsonl                one line an image
      report.html                  the report page
      settings.json  images.json   what the results were made with, and of which images
      annotations/<stem>.json      a note of each image, for the files that join all
      previews/<stem>.json         pictures for the report page
      shards/                      a journal for each shard, until they are joined

and what the ``Layout`` of a kind of job adds. Every file but the journal is written whole or not at
all. A result counts as finished when all its files and then its line in the journal are on the
disk. Images in sub-folders keep their sub-folder: ``annotations/n01440764/x.json``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trace_d2.io.atomic import remove_temporaries, write_bytes, write_json
from trace_d2.jobs.journal import (
    DONE,
    FAILED,
    ImageEntry,
    JournalWriter,
    Record,
    encode_record,
    read_journals,
)

GATE_SECONDS = 30.0  # jobs hold the gate only while they try the other locks
FORMAT = 2  # of settings.json and journal; 1 is read as well


class SettingsChangedError(ValueError):
    """The folder holds results that were made with other settings."""


class ForeignFolderError(ValueError):
    """The folder belongs to somebody else."""


class OutputError(RuntimeError):
    """The folder takes no more files: the disk is full, or not ours to write to."""


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raise an OutputError that says what to do where writing to ``folder`` fails in the block."""
    try:
        yield
    except OSError as error:
        remedy = "make it writable"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "the disk is full: make room"
        raise OutputError(
            f"cannot write to {folder} ({error.strerror or error}): {remedy}. Finished images "
            "are safe, and the same command continues"
        ) from error


@dataclass(frozen=True)
class Layout:
    """What the folder of one kind of job has besides the above; ``{}`` stands for a stem.

    Attributes:
        kind: of the results, in words, as ``"labels"``.
        results: the files of one image's result.
        optional: files of one image that a run may be asked for besides.
        joined: files of all images.
        scratch: a folder that is needed only until all images are done.
        beside: whether the output is a file, and the folder is ``<file>.work``.
        upgrade: from settings of format 1 to those of today.
    """

    kind: str
    results: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    scratch: str = ""
    beside: bool = False
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict

    @property
    def folders(self) -> list[str]:
        """All folders of the results."""
        own = [pattern.split("/")[0] for pattern in (*self.results, *self.optional)]
        own += [self.scratch] if self.scratch else []
        return [*own, "annotations", "previews", "shards"]


class JobStore:
    """The folder of the results of one kind of job.

    Args:
        output: the folder, or a file beside it (``Layout.beside``). Neither need exist.
        layout: what lies there.
    """

    def __init__(self, output: str | Path, layout: Layout) -> None:
        self.output = Path(output)
        self.layout = layout
        beside = self.output.with_name(f"{self.output.name}.work")
        self.root = beside if layout.beside else self.output
        self.settings_path = self.root / "settings.json"
        self.images_path = self.root / "images.json"
        self.journal_path = self.root / "journal.jsonl"

    def check_place(self) -> None:
        """Raise a ForeignFolderError if the folder is somebody else's, or of another kind."""
        ours = self.settings_path.exists()
        if self.layout.beside and self.output.is_dir():
            raise ForeignFolderError(f"{self.output} is a folder: choose a file for --output")
        if self.layout.beside and self.output.exists() and not ours:
            raise ForeignFolderError(
                f"{self.output} exists and is not of this tool (there is no {self.root}): choose "
                "another --output, or remove it"
            )
        if self.root.exists() and not self.root.is_dir():
            raise ForeignFolderError(f"{self.root} is a file: choose a folder for --output")
        if ours:
            if self.read_settings().get("kind") != self.layout.kind:
                raise ForeignFolderError(
                    f"{self.root} holds other results than {self.layout.kind}: choose another "
                    "--output"
                )
        elif self.root.is_dir():
            strangers = [p.name for p in self.root.iterdir() if not p.name.startswith(".")]
            if strangers:
                raise ForeignFolderError(
                    f"{self.root} is not empty and holds no {self.layout.kind} of this tool (it "
                    f"has {sorted(strangers)[0]!r}): choose a new or empty folder for --output"
                )

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise a SettingsChangedError if there are results of other ``settings``."""
        if not self.settings_path.exists():
            return
        changed = differences(self.read_settings(), self._complete(settings))
        if changed:
            raise SettingsChangedError(
                f"{self.root} holds {self.layout.kind} made with other settings:\n  "
                + "\n  ".join(changed)
                + "\nUse those settings, choose another --output, or drop the old "
                f"{self.layout.kind} by --overwrite"
            )

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make the folder ready for results made with ``settings``, a flat dict."""
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.settings_path.exists():  # first, as ``check_place`` looks for it
            write_json(self.settings_path, self._complete(settings), indent=1)
        for name in self.layout.folders:
            (self.root / name).mkdir(exist_ok=True)

    def sweep(self) -> None:
        """Remove what killed writers left; only while nobody else writes here."""
        for folder, _, _ in os.walk(self.root):
            remove_temporaries(folder)
        if self.layout.beside:
            for leftover in self.output.parent.glob(f".{self.output.name}.*.tmp"):
                leftover.unlink(missing_ok=True)

    def drop_results(self) -> None:
        """Remove everything this tool wrote; only while nobody else writes here.

        The journals go first, so that no result looks finished, and the settings last: if this is
        cut short, the next run finds them changed once more.
        """
        if self.layout.beside:
            self.output.unlink(missing_ok=True)
        for path in self._journals():
            path.unlink()
        for name in (*self.layout.joined, "report.html", "images.json"):
            (self.root / name).unlink(missing_ok=True)
        for name in self.layout.folders:
            if (self.root / name).is_dir():
                shutil.rmtree(self.root / name)
        self.settings_path.unlink(missing_ok=True)

    def drop_scratch(self) -> None:
        """Empty the folder that is needed only until all images are done."""
        if self.layout.scratch:
            shutil.rmtree(self.root / self.layout.scratch, ignore_errors=True)
            (self.root / self.layout.scratch).mkdir(exist_ok=True)

    def read_settings(self) -> dict[str, Any]:
        """What the results were made with, in the words of today.

        Raises:
            FileNotFoundError: the folder holds no results.
            ForeignFolderError: the file is somebody else's.
            ValueError: the file is damaged.
        """
        content = self._read_json(self.settings_path)
        if not isinstance(content, dict) or "format" not in content:
            raise ForeignFolderError(
                f"{self.settings_path} is not of this tool: choose another --output"
            )
        if content["format"] == 1:
            content = self.layout.upgrade({**content, "format": FORMAT})
        return content

    def write_images(self, entries: Sequence[ImageEntry], limit: int) -> None:
        """Note the images of the job, the first ``limit`` of which are to be done."""
        names = [field.name for field in fields(ImageEntry)]  # what a subclass adds stays out
        images = [{name: getattr(entry, name) for name in names} for entry in entries]
        write_json(self.images_path, {"limit": limit, "images": images})

    def read_images(self) -> tuple[list[ImageEntry], int]:
        """The images of the job and how many of them, from the first, are to be done."""
        content = self._read_json(self.images_path)
        return [ImageEntry(**entry) for entry in content["images"]], int(content["limit"])

    def open_journal(self, shard: str = "") -> JournalWriter:
        """The journal that the shard of this name appends to; empty: that of the whole job."""
        own = self.root / "shards" / f"journal-{shard}.jsonl"
        return JournalWriter(own if shard else self.journal_path)

    def read_records(self) -> dict[str, Record]:
        """The newest record of every stem, of all shards."""
        return read_journals(self._journals())

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

    def write_note(self, stem: str, note: Mapping[str, Any]) -> None:
        """Note of one image what the joined files take."""
        write_json(self.place("annotations/{}.json", stem), note)

    def read_note(self, stem: str) -> dict[str, Any]:
        """What ``write_note`` noted."""
        return dict(self._read_json(self.root / f"annotations/{stem}.json"))

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
        if record.file_name != entry.file_name:
            return False
        needed = [*self.layout.results, "annotations/{}.json", *optional]
        if entry.pictured:
            needed.append("previews/{}.json")
        return all((self.root / pattern.format(entry.stem)).is_file() for pattern in needed)

    def _complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"format": FORMAT, "kind": self.layout.kind, **settings}

    def _journals(self) -> list[Path]:
        own = [self.journal_path] if self.journal_path.exists() else []
        return own + sorted((self.root / "shards").glob("journal-*.jsonl"))

    def _read_json(self, path: Path) -> Any:
        if not path.is_file():
            raise FileNotFoundError(
                f"no {path.name} in {path.parent}: it is not a folder of {self.layout.kind}"
            )
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): remove it and run again") from error


class JobFolder:
    """What a job left in a folder, for whoever goes on with its results; see ``open_job_folder``.

    Attributes:
        root: the folder.
        settings: what the results were made with.
    """

    def __init__(self, root: str | Path) -> None:
        self._store = JobStore(root, Layout("results"))
        self.root = self._store.root
        self.settings = self._store.read_settings()

    @cached_property
    def entries(self) -> list[ImageEntry]:
        """The images that were to be done; none where nothing is known of them."""
        if not self._store.images_path.is_file():
            return []
        entries, limit = self._store.read_images()
        return entries[:limit]

    @cached_property
    def records(self) -> dict[str, Record]:
        """How images came out, by stem."""
        return self._store.read_records()

    @property
    def pending(self) -> list[ImageEntry]:
        """Images that no run has come to yet."""
        return [entry for entry in self.entries if entry.stem not in self.records]

    @property
    def done(self) -> set[str]:
        """Stems of the images whose results are there."""
        return {stem for stem, record in self.records.items() if record.status == DONE}

    @property
    def failed(self) -> list[Record]:
        """Records of the images that were to be done and failed."""
        own = [self.records[entry.stem] for entry in self.entries if entry.stem in self.records]
        return [record for record in own if record.status == FAILED]

    @property
    def joined(self) -> bool:
        """Whether the results of all shards are joined."""
        return not any((self.root / "shards").glob("journal-*.jsonl"))

    def is_locked(self) -> bool:
        """Whether a job writes there now.

        The gate is held meanwhile, so that a job that starts just now waits instead of meeting a
        lock that we hold for a moment. Nobody writes to a folder that cannot be written to.
        """
        locks = self.root / ".locks"
        jobs = sorted(locks.glob("job*.lock"))
        if not jobs or not os.access(locks, os.W_OK):
            return False
        try:
            with FileLock(locks / "gate.lock").acquire(timeout=GATE_SECONDS):
                for path in jobs:
                    with FileLock(path).acquire(timeout=0):
                        pass
        except Timeout:
            return True
        return False


def open_job_folder(root: str | Path) -> JobFolder | None:
    """What a job left in ``root``; None where no job wrote it.

    Raises:
        ForeignFolderError, ValueError: its settings are somebody else's, or damaged.
    """
    return JobFolder(root) if (Path(root) / "settings.json").is_file() else None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A line for every key that differs, with both values."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, now = (_show(side[key]) if key in side else "absent" for side in (old, new))
        if key not in old or key not in new or old[key] != new[key]:
            lines.append(f"{key}: {before} there, {now} now")
    return lines


def _show(value: Any) -> str:
    """``value`` short enough for a message."""
    if isinstance(value, Mapping):
        shown = ", ".join(f"{k} {v}" for k, v in value.items() if not isinstance(v, (list, dict)))
    elif isinstance(value, (list, tuple)) and len(value) > 8:
        shown = f"a list of {len(value)}"
    else:
        return str(value)
    digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
    return f"{shown} (sha256 {digest})"
