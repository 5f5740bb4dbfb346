"""The folder of labels: what lies where, and how a label is written and found again.

::

    OUTPUT/
      panoptic.json  panoptic/<stem>.png    COCO panoptic
      instances.json                        COCO instances (RLE) of the thing segments
      semantic/<stem>.png                   contiguous ids: the rank in the categories, 255 = void
      edges/<stem>.png                      with --save-edges
      journal.jsonl                         one line an image
      report.html                           the report page
      settings.json  images.json            what the labels were made with, and of which images
      calibration.json                      what the strengths of the edges were found to mean
      annotations/  previews/  shards/      one file an image, or a shard: what the above join

Every file but the journal is written whole or not at all. A label counts as finished when all its
files and then its line in the journal are on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from filelock import FileLock, Timeout

from trace_d2.io.atomic import remove_temporaries, write_bytes, write_json, write_png
from trace_d2.io.categories import UNKNOWN, Category
from trace_d2.io.coco_panoptic import id2rgb, instance_annotations
from trace_d2.io.edge_maps import write_edges
from trace_d2.jobs.entries import ImageEntry, Shard, entries_from_json, entries_to_json
from trace_d2.jobs.journal import (
    DONE,
    FAILED,
    SKIPPED,
    Record,
    encode_record,
    read_journals,
)
from trace_d2.jobs.settings import differences
from trace_d2.labels.panoptic import PanopticLabel, Segment

GATE_SECONDS = 30.0  # jobs hold the gate only while they try the other locks
FORMAT = 1  # of the folder; another number is another layout


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
class MergeResult:
    """How the images of a folder of results stand.

    Attributes:
        done: in the joined files.
        skipped: without anything to make a result from.
        failed: records of the failures.
        pending: images of the job that no run has come to yet.
    """

    done: int
    skipped: int
    failed: tuple[Record, ...]
    pending: int


class JobStore(ABC):
    """A folder of results: settings, list of images, journals, and a note for each image.

    Args:
        root: the folder; it need not exist.
    """

    kind: ClassVar[str]  # of the results, in words
    folders: ClassVar[tuple[str, ...]] = (
        "edges", "annotations", "previews", "shards", "calibration"
    )  # fmt: skip
    # Dropped with the results.
    joined: ClassVar[tuple[str, ...]] = ("report.html", "images.json", "calibration.json")

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.settings_path = self.root / "settings.json"
        self.images_path = self.root / "images.json"
        self.journal_path = self.root / "journal.jsonl"
        self.calibration_path = self.root / "calibration.json"

    def check_place(self) -> None:
        """Raise a ForeignFolderError if the folder is somebody else's."""
        if self.root.exists() and not self.root.is_dir():
            raise ForeignFolderError(f"{self.root} is a file: choose a folder for --output")
        if self.root.is_dir() and not self.settings_path.exists():
            strangers = [p.name for p in self.root.iterdir() if not p.name.startswith(".")]
            if strangers:
                raise ForeignFolderError(
                    f"{self.root} is not empty and holds no {self.kind} of this tool (it has "
                    f"{sorted(strangers)[0]!r}): choose a new or empty folder for --output"
                )

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Raise a SettingsChangedError if there are results of other ``settings``."""
        if not self.settings_path.exists():
            return
        changed = differences(self.read_settings(), {"format": FORMAT, **settings})
        if changed:
            raise SettingsChangedError(
                f"{self.root} holds {self.kind} made with other settings:\n  "
                + "\n  ".join(changed)
                + f"\nUse those settings, choose another --output, or drop the old {self.kind} by "
                "--overwrite"
            )

    def open(self, settings: dict[str, Any]) -> None:
        """Make the folder ready for results made with ``settings`` (flat, as of Settings)."""
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.settings_path.exists():  # first, as ``check_place`` looks for it
            write_json(self.settings_path, {"format": FORMAT, **settings}, indent=1)
        for name in self.folders:
            (self.root / name).mkdir(exist_ok=True)

    def sweep(self) -> None:
        """Remove what killed writers left; only while nobody else writes here."""
        for folder, _, _ in os.walk(self.root):
            remove_temporaries(folder)

    def drop_results(self) -> None:
        """Remove everything this tool wrote; only while nobody else writes here.

        The journals go first, so that no result looks finished, and the settings last: if this is
        cut short, the next run finds them changed once more.
        """
        for path in self._journals():
            path.unlink()
        for name in self.joined:
            (self.root / name).unlink(missing_ok=True)
        for name in self.folders:
            if (self.root / name).is_dir():
                shutil.rmtree(self.root / name)
        self.settings_path.unlink(missing_ok=True)

    def read_settings(self) -> dict[str, Any]:
        """What the results were made with.

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
        return content

    def write_images(self, entries: Sequence[ImageEntry], limit: int) -> None:
        """Note the images of the job, the first ``limit`` of which are to be done."""
        write_json(self.images_path, {"limit": limit, "images": entries_to_json(entries)})

    def read_images(self) -> tuple[list[ImageEntry], int]:
        """The images of the job and how many of them, from the first, are to be done."""
        content = self._read_json(self.images_path)
        return entries_from_json(content["images"]), int(content["limit"])

    def journal_of(self, shard: Shard) -> Path:
        """The journal that ``shard`` appends to."""
        if shard.whole:
            return self.journal_path
        return self.root / "shards" / f"journal-{shard.name}.jsonl"

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

    def annotation_path(self, stem: str) -> Path:
        """The COCO annotations of one image."""
        return self.root / "annotations" / f"{stem}.json"

    def edges_path(self, stem: str) -> Path:
        """The kept edges of one image."""
        return self.root / "edges" / f"{stem}.png"

    def preview_path(self, stem: str) -> Path:
        """The pictures of one image for the report page."""
        return self.root / "previews" / f"{stem}.json"

    def sampled_path(self, stem: str, inputs: str) -> Path:
        """Edges that were detected for the calibration; ``inputs`` is the image's fingerprint."""
        return self.root / "calibration" / f"{stem}.{inputs}.npz"

    def drop_sampled(self) -> None:
        """Remove the edges that were detected for the calibration: all images are done."""
        shutil.rmtree(self.root / "calibration", ignore_errors=True)
        (self.root / "calibration").mkdir(exist_ok=True)

    @abstractmethod
    def result_paths(self, stem: str) -> list[Path]:
        """The files of the result of one image."""

    def is_finished(self, record: Record | None, entry: ImageEntry, save_edges: bool) -> bool:
        """Whether the result of ``entry`` is complete, as far as record and files say."""
        if record is None or record.status != DONE or entry.image_id is None:
            return False
        if record.file_name != entry.file_name:
            return False
        needed = [*self.result_paths(entry.stem), self.annotation_path(entry.stem)]
        if save_edges:
            needed.append(self.edges_path(entry.stem))
        if entry.pictured:
            needed.append(self.preview_path(entry.stem))
        return all(path.is_file() for path in needed)

    def read_annotation(self, stem: str) -> dict[str, Any]:
        """What was noted of one image: height, width, and what the joined files take."""
        return dict(self._read_json(self.annotation_path(stem)))

    def standing(
        self, wanted: Sequence[ImageEntry], records: Mapping[str, Record], done: int
    ) -> MergeResult:
        """How ``wanted`` images stand by ``records``, ``done`` of all being joined."""
        own = [records.get(entry.stem) for entry in wanted]
        return MergeResult(
            done=done,
            skipped=sum(record is not None and record.status == SKIPPED for record in own),
            failed=tuple(r for r in own if r is not None and r.status == FAILED),
            pending=own.count(None),
        )

    def write_edges(self, stem: str, edges: np.ndarray) -> None:
        """Keep ``edges`` float32 (H, W) in 0..1."""
        write_edges(self.edges_path(stem), edges)

    def _journals(self) -> list[Path]:
        own = [self.journal_path] if self.journal_path.exists() else []
        return own + sorted((self.root / "shards").glob("journal-*.jsonl"))

    def _read_json(self, path: Path) -> Any:
        if not path.is_file():
            raise FileNotFoundError(
                f"no {path.name} in {path.parent}: it is not a folder of {self.kind}"
            )
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): remove it and run again") from error


class LabelStore(JobStore):
    """A folder of labels."""

    kind = "labels"
    folders = ("panoptic", "semantic", *JobStore.folders)
    joined = ("panoptic.json", "instances.json", *JobStore.joined)

    def result_paths(self, stem: str) -> list[Path]:
        """The PNGs of one label."""
        return [self.root / kind / f"{stem}.png" for kind in ("panoptic", "semantic")]

    def write_label(self, stem: str, label: PanopticLabel, categories: Sequence[Category]) -> None:
        """Write the files of one label. Raises OSError if the disk takes them not."""
        write_png(self.root / "panoptic" / f"{stem}.png", id2rgb(label.segment_ids), fast=True)
        write_png(self.root / "semantic" / f"{stem}.png", train_ids(label, categories), fast=True)
        segments = [_segment_info(segment) for segment in label.segments]
        height, width = label.segment_ids.shape
        # Ids of image and instances are given when the files are joined.
        instances = instance_annotations(label.segment_ids, segments, categories, image_id=0)
        write_json(
            self.annotation_path(stem),
            {"height": height, "width": width, "segments": segments, "instances": instances},
        )


class JobFolder:
    """What a job left in a folder, for whoever goes on with its results; see ``open_job_folder``.

    Attributes:
        root: the folder.
        settings: what the results were made with.
    """

    def __init__(self, root: str | Path) -> None:
        self._store = LabelStore(root)
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


def train_ids(label: PanopticLabel, categories: Sequence[Category]) -> np.ndarray:
    """The label as a semantic map of contiguous ids, as Mask2Former reads ``sem_seg``.

    Returns:
        uint8 (H, W): the rank of the category in ``categories``, 255 where the label is void.
    """
    rank = {category.id: position for position, category in enumerate(categories)}
    table = np.full(len(label.segments) + 1, UNKNOWN, np.uint8)
    for segment in label.segments:
        table[segment.id] = rank[segment.category_id]
    return table[label.segment_ids]


def _segment_info(segment: Segment) -> dict[str, Any]:
    """COCO ``segments_info`` of one segment."""
    return {
        "id": segment.id,
        "category_id": segment.category_id,
        "area": segment.area,
        "bbox": list(segment.bbox),
        "iscrowd": 0,
    }
