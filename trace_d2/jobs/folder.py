"""What a job left in a folder, for whoever goes on with its results."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from trace_d2.jobs.journal import DONE, FAILED, ImageEntry, Record
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.locks import is_locked, who_writes
from trace_d2.jobs.on_disk import Records
from trace_d2.jobs.store import JobStore


class UnfinishedLabelsError(ValueError):
    """A folder of labels is still being written, or was left half done."""


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
    def _images(self) -> tuple[list[ImageEntry], int]:
        if not self._store.images_path.is_file():
            return [], 0
        images, limit = self._store.read_images()
        return list(images), limit

    @property
    def listed(self) -> list[ImageEntry]:
        """All images that the job knew, those beyond its limit too."""
        return self._images[0]

    @property
    def entries(self) -> list[ImageEntry]:
        """The images that were to be done; none where nothing is known of them."""
        entries, limit = self._images
        return entries[:limit]

    @cached_property
    def records(self) -> Records:
        """How images came out, by stem."""
        return self._store.read_records()

    @property
    def pending(self) -> list[ImageEntry]:
        """Images that no run has come to yet."""
        return [entry for entry in self.entries if entry.stem not in self.records]

    @property
    def done(self) -> set[str]:
        """Stems of the images whose results are there."""
        return {record.stem for record in self.records.of_status(DONE)}

    @property
    def failed(self) -> list[Record]:
        """Records of the images that were to be done and failed."""
        own = [self.records[entry.stem] for entry in self.entries if entry.stem in self.records]
        return [record for record in own if record.status == FAILED]

    @property
    def joined(self) -> bool:
        """Whether the results of all shards are joined."""
        return not self._store.shard_journals()

    def is_locked(self) -> bool:
        """Whether a job writes there now."""
        return is_locked(self.root)

    def check_finished(self, what: str, merge: str) -> None:
        """Raise an UnfinishedLabelsError unless the job is through; ``merge`` tells how to join."""
        if not self.entries:
            return
        if holder := who_writes(self.root):
            raise UnfinishedLabelsError(
                f"{self.root} is still being written by another job ({holder}): wait until it "
                "ends; --status of its tool tells how far it is"
            )
        self.check_done(what)
        if not self.joined:
            raise UnfinishedLabelsError(f"the shards of {self.root} are not joined yet: {merge}")

    def check_done(self, what: str) -> None:
        """Raise an UnfinishedLabelsError if no run has come to some images yet."""
        if self.pending:
            raise UnfinishedLabelsError(
                f"{self.root} lacks the {what} of {len(self.pending)} of {len(self.entries)} "
                f"images, such as {self.pending[0].file_name}: wait for the job that makes them, "
                "or run its command again, it continues"
            )


def open_job_folder(root: str | Path) -> JobFolder | None:
    """What a job left in ``root``; None where no job wrote it.

    Raises:
        ForeignFolderError, DamagedFileError: its settings are somebody else's, or damaged.
    """
    return JobFolder(root) if (Path(root) / "settings.json").is_file() else None
