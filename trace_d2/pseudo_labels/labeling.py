"""One image of a job, from its files to the files of its label."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from trace_d2.edges.files import check_edges
from trace_d2.formats.atomic import write_json
from trace_d2.pseudo_labels.inputs import Sample, load_sample
from trace_d2.pseudo_labels.journal import DONE, FAILED, SKIPPED, Record
from trace_d2.pseudo_labels.listing import ImageEntry
from trace_d2.pseudo_labels.panoptic import PanopticLabel, PanopticLabeler
from trace_d2.pseudo_labels.pictures import make_pictures
from trace_d2.pseudo_labels.settings import JobSettings, fingerprint
from trace_d2.pseudo_labels.store import LabelStore, writing_to


class DetectedEdges(Protocol):
    """What an edge detector returns."""

    @property
    def edges(self) -> np.ndarray:
        """float32 (H, W) in 0..1 at the size of the image."""

    @property
    def timestep(self) -> int:
        """The instance emergence point the edges were read at."""


EdgeDetection = Callable[[np.ndarray, str], DetectedEdges]
"""From an image uint8 (H, W, 3) RGB and its stem to its edges."""


@dataclass(frozen=True)
class LoadedImage:
    """Inputs that were read ahead, so that a backbone could look at the image.

    Attributes:
        sample: the inputs, with the backbone's edges.
        timestep: their instance emergence point.
        seconds: what reading and detection took.
    """

    sample: Sample
    timestep: int
    seconds: float


class ImageLabeler:
    """Labels images one by one. Cheap to pickle before its first use.

    Args:
        settings: what decides the labels.
        output: folder of the labels.
        save_edges: keep the edges as well.
    """

    def __init__(self, settings: JobSettings, output: str | Path, save_edges: bool) -> None:
        self.settings = settings
        self.store = LabelStore(output)
        self.save_edges = save_edges
        self.settings_print = fingerprint(settings.to_json())
        self.labeler = PanopticLabeler.from_config(settings.cfg, settings.categories)

    def inputs_print(self, entry: ImageEntry) -> str:
        """A text that changes when an input file of ``entry`` does (its size or its time)."""
        folder = self.settings.edges_folder
        paths = [self.settings.images / entry.file_name, self.semantic_path(entry)]
        if folder is not None:
            paths += [folder / f"{entry.stem}.png", folder / f"{entry.stem}.npy"]
        stamps = []
        for path in paths:
            status = path.stat() if path.exists() else None
            stamps.append((status.st_size, status.st_mtime_ns) if status else None)
        return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]

    def semantic_path(self, entry: ImageEntry) -> Path:
        """Where the semantic mask of ``entry`` should be."""
        return self.settings.semantic / f"{entry.stem}.png"

    def skip_reason(self, entry: ImageEntry) -> str:
        """Why there is nothing to make a label from; empty if there is."""
        if entry.image_id is None:
            return "the list given by --images-json does not name it"
        path = self.semantic_path(entry)
        return "" if path.is_file() else f"no semantic mask at {path} (an image without tags?)"

    def load(self, entry: ImageEntry) -> Sample:
        """All inputs of ``entry`` but detected edges; raises as ``load_sample`` does."""
        return load_sample(
            self.settings.images / entry.file_name,
            self.semantic_path(entry),
            self.settings.edges_folder,
            self.settings.categories,
            self.settings.categories_name,
        )

    def detect(self, entry: ImageEntry, detection: EdgeDetection) -> LoadedImage | Record:
        """Read the inputs and let the backbone find the edges, or the record of a failure."""
        start = time.perf_counter()
        try:
            sample = self.load(entry)
            found = detection(sample.photograph.pixels, entry.stem)
            edges = check_edges(found.edges, f"the edges detected in {entry.file_name}")
        except Exception as error:  # recorded with its cause; the other images go on
            return self.failure(entry, error, time.perf_counter() - start)
        return LoadedImage(
            sample.with_edges(edges), int(found.timestep), time.perf_counter() - start
        )

    def __call__(self, entry: ImageEntry, loaded: LoadedImage | None = None) -> Record:
        """Label ``entry``; a label that cannot be made becomes the record of a failure.

        Raises:
            OutputError: the output folder takes no more files, which is no fault of the image.
        """
        start = time.perf_counter() - (loaded.seconds if loaded else 0.0)
        reason = self.skip_reason(entry)
        if reason:
            return replace(self._record(entry), status=SKIPPED, reason=reason)
        try:
            sample = loaded.sample if loaded else self.load(entry)
            label = self.labeler(sample.semantic, sample.edges)
        except Exception as error:  # recorded with its cause; the other images go on
            return self.failure(entry, error, time.perf_counter() - start)
        with writing_to(self.store.root):
            self._write(entry, sample, label)
        return replace(
            self._record(entry),
            status=DONE,
            notes=sample.notes,
            seconds=round(time.perf_counter() - start, 4),
            timestep=loaded.timestep if loaded else None,
            segments=len(label.segments),
            things=sum(segment.isthing for segment in label.segments),
        )

    def failure(self, entry: ImageEntry, error: Exception, seconds: float) -> Record:
        """The record of an image that could not be labelled because of ``error``."""
        reason = str(error)
        if not isinstance(error, (ValueError, OSError)):  # not foreseen: say where it came from
            reason = "".join(traceback.format_exception(error)).strip()
        return replace(self._record(entry), status=FAILED, reason=reason, seconds=round(seconds, 4))

    def _record(self, entry: ImageEntry) -> Record:
        return Record(
            entry.stem,
            entry.file_name,
            FAILED,
            settings=self.settings_print,
            inputs=self.inputs_print(entry),
            finished=round(time.time(), 3),
        )

    def _write(self, entry: ImageEntry, sample: Sample, label: PanopticLabel) -> None:
        categories = self.settings.categories
        if self.save_edges and sample.edges is not None:
            self.store.write_edges(entry.stem, sample.edges)
        if entry.pictured:
            pictures = make_pictures(
                sample.photograph.pixels, sample.semantic, sample.edges, label, categories
            )
            write_json(self.store.preview_path(entry.stem), pictures)
        self.store.write_label(entry.stem, label, categories)
