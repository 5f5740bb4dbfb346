"""What the runner runs: one image after the other, from its files to the files of its result.

``ImageJob`` holds what labels (`trace_d2.jobs.kinds.panoptic_labels`) and refined masks
(`trace_d2.jobs.kinds.refined_masks`) share: reading, detection of edges, failures and records.
"""

from __future__ import annotations

import hashlib
import io
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from trace_d2.edges.sources import EdgeOutput, EdgeSource
from trace_d2.io.atomic import write_bytes
from trace_d2.io.edge_maps import check_edges
from trace_d2.io.images import Inputs
from trace_d2.jobs.entries import ImageEntry
from trace_d2.jobs.journal import DONE, FAILED, SKIPPED, Record
from trace_d2.jobs.settings import BACKBONE, Settings, fingerprint
from trace_d2.jobs.store import JobStore, MergeResult, writing_to
from trace_d2.propagation.calibration import (
    EdgeCalibration,
    EdgeStatistics,
)

EntryT = TypeVar("EntryT", bound=ImageEntry)
InputsT = TypeVar("InputsT", bound=Inputs)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Loaded(Generic[InputsT]):
    """Inputs that were read ahead, so that a backbone could look at the image.

    Attributes:
        inputs: the inputs, with the detected edges.
        timestep: their instance emergence point; None from the student.
        seconds: what reading and detection took.
    """

    inputs: InputsT
    timestep: int | None
    seconds: float


class ImageJob(ABC, Generic[EntryT, InputsT, ResultT]):
    """Makes the results of images one by one. Cheap to pickle before its first use.

    Args:
        settings: what decides the results.
        store: the folder they are written to.
        save_edges: keep the edges as well.
    """

    def __init__(self, settings: Settings, store: JobStore, save_edges: bool) -> None:
        self.settings = settings
        self.store = store
        self.save_edges = save_edges
        self.settings_print = fingerprint(settings.to_json())

    @abstractmethod
    def inputs_print(self, entry: EntryT) -> str:
        """A text that changes when an input of ``entry`` does."""

    @abstractmethod
    def skip_reason(self, entry: EntryT) -> str:
        """Why there is nothing to make a result from; empty if there is."""

    @abstractmethod
    def load(self, entry: EntryT) -> InputsT:
        """All inputs of ``entry`` but detected edges.

        Raises:
            OSError, ValueError: a file is missing, damaged or does not fit.
        """

    @abstractmethod
    def make(self, entry: EntryT, inputs: InputsT) -> ResultT:
        """The result of ``entry``. Raises ValueError if the inputs are not fit for one."""

    @abstractmethod
    def write(self, entry: EntryT, inputs: InputsT, result: ResultT) -> None:
        """Write the files of the result. Raises OSError if the disk takes them not."""

    @abstractmethod
    def describe(self, record: Record, result: ResultT) -> Record:
        """``record`` with what the journal tells of ``result``."""

    @property
    def calibrates(self) -> bool:
        """Whether edges are to be calibrated before the first result."""
        return False

    def use_calibration(self, calibration: EdgeCalibration | None) -> None:
        """Make results with ``calibration``."""

    def count_edges(self, statistics: EdgeStatistics, entry: EntryT, inputs: InputsT) -> None:
        """Count the edges of ``entry`` for the calibration."""
        raise NotImplementedError

    def count_false_pieces(self, inputs: InputsT) -> tuple[int, int]:
        """Masks of one image that hold no border, and the pieces that edges cut off them."""
        return 0, 0

    @abstractmethod
    def merge(self) -> MergeResult:
        """Join the results of all images; the caller holds the folder."""

    def is_current(self, record: Record | None, entry: EntryT) -> bool:
        """Whether ``entry`` has a finished result of these settings and of the inputs now."""
        return (
            record is not None
            and self.store.is_finished(record, entry, self.save_edges)
            and record.settings == self.settings_print
            and record.inputs == self.inputs_print(entry)
        )

    def edge_key(self, entry: EntryT) -> str:
        """What fixes the noise of the detector: the stem without folders."""
        return Path(entry.file_name).stem

    def with_detected(self, entry: EntryT, inputs: InputsT, found: EdgeOutput) -> InputsT:
        """``inputs`` with what was detected. Raises ValueError if that is no map of edges."""
        edges = check_edges(found.edges, f"the edges detected in {entry.file_name}")
        return inputs.with_edges(edges)

    def detect(
        self,
        entry: EntryT,
        detection: EdgeSource,
        read: Callable[[], InputsT],
        keep: bool = False,
    ) -> Loaded[InputsT] | Record:
        """Let the detector find the edges of ``read()``, or the record of a failure.

        Args:
            entry: the image.
            detection: finds edges.
            read: gives what ``load`` gives, or raises what it raises.
            keep: keep the edges for when the image's turn comes; it takes them from there.
        """
        start = time.perf_counter()
        path = self.store.sampled_path(entry.stem, self.inputs_print(entry))
        found: EdgeOutput
        try:
            inputs = read()
            if path.is_file():
                found = read_sampled(path)
            else:
                found = detection(inputs.photograph.pixels, self.edge_key(entry))
            inputs = self.with_detected(entry, inputs, found)
        except Exception as error:  # recorded with its cause; the other images go on
            return self.failure(entry, error, time.perf_counter() - start)
        if keep and inputs.edges is not None and not path.is_file():
            write_sampled(path, inputs.edges, found.timestep)
        timestep = found.timestep if self.settings.edges == BACKBONE else None
        return Loaded(inputs, timestep, time.perf_counter() - start)

    def __call__(self, entry: EntryT, loaded: Loaded[InputsT] | None = None) -> Record:
        """Make and write the result of ``entry``; what cannot be made becomes a failed record.

        Raises:
            OutputError: the output folder takes no more files, which is no fault of the image.
        """
        start = time.perf_counter() - (loaded.seconds if loaded else 0.0)
        reason = self.skip_reason(entry)
        if reason:
            return replace(self._record(entry), status=SKIPPED, reason=reason)
        try:
            inputs = loaded.inputs if loaded else self.load(entry)
            result = self.make(entry, inputs)
        except Exception as error:  # recorded with its cause; the other images go on
            return self.failure(entry, error, time.perf_counter() - start)
        with writing_to(self.store.root):
            if self.save_edges and inputs.edges is not None:
                self.store.write_edges(entry.stem, inputs.edges)
            self.write(entry, inputs, result)
        record = replace(
            self._record(entry),
            status=DONE,
            notes=inputs.notes,
            seconds=round(time.perf_counter() - start, 4),
            timestep=loaded.timestep if loaded else None,
        )
        return self.describe(record, result)

    def failure(self, entry: EntryT, error: Exception, seconds: float) -> Record:
        """The record of an image that has no result because of ``error``."""
        reason = str(error)
        if not isinstance(error, (ValueError, OSError)):  # not foreseen: say where it came from
            reason = "".join(traceback.format_exception(error)).strip()
        return replace(self._record(entry), status=FAILED, reason=reason, seconds=round(seconds, 4))

    def _record(self, entry: EntryT) -> Record:
        return Record(
            entry.stem,
            entry.file_name,
            FAILED,
            settings=self.settings_print,
            inputs=self.inputs_print(entry),
            finished=round(time.time(), 3),
        )


def write_sampled(path: Path, edges: np.ndarray, timestep: int | None) -> None:
    """Keep ``edges`` float32 (H, W) of 16-bit levels. Raises OSError if the disk takes them not."""
    buffer = io.BytesIO()
    levels = np.rint(edges * np.float32(65535)).astype(np.uint16)
    np.savez_compressed(buffer, levels=levels, timestep=-1 if timestep is None else timestep)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def read_sampled(path: Path) -> EdgeOutput:
    """What ``write_sampled`` wrote."""
    with np.load(path, allow_pickle=False) as content:
        edges = content["levels"].astype(np.float32) / np.float32(65535)
        timestep = int(content["timestep"])
        return EdgeOutput(edges, timestep=None if timestep < 0 else timestep)


def files_print(paths: Iterable[Path], *others: Any) -> str:
    """A text that changes when the size or time of a file does, or one of ``others``."""
    stamps: list[Any] = []
    for path in paths:
        status = path.stat() if path.exists() else None
        stamps.append((status.st_size, status.st_mtime_ns) if status else None)
    return hashlib.sha256(repr([*stamps, *others]).encode()).hexdigest()[:16]
