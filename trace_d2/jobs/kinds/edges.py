"""Edges of a job, one image at a time: detected, kept, and made to pseudo edges."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trace_d2.edges.sources import EdgeOutput
from trace_d2.io.edge_maps import label_shares
from trace_d2.io.images import Inputs, read_image
from trace_d2.io.listing import list_images, spread
from trace_d2.jobs.entries import ImageEntry, build_entries
from trace_d2.jobs.image_job import ImageJob, files_print
from trace_d2.jobs.journal import Record
from trace_d2.jobs.kinds.edge_report import make_edge_pictures
from trace_d2.jobs.kinds.edge_store import EdgeStore, PseudoEdgeStore
from trace_d2.jobs.settings import BACKBONE, Settings
from trace_d2.jobs.store import MergeResult


@dataclass(frozen=True)
class EdgeSettings(Settings):
    """All that decides what detected edges are: the images, the detector and its config.

    ``edges`` is ``BACKBONE`` or ``STUDENT``.
    """

    nodes = ()
    calibration = ""  # nothing is cut

    def own_json(self) -> dict[str, Any]:
        """What the folder holds, as other jobs have folders too."""
        return {"kind": _store_of(self).kind}


@dataclass(frozen=True)
class EdgeInputs(Inputs):
    """A photograph, its edges once they are detected, and the pseudo edges made of them.

    Attributes:
        labels: int8 (H, W) of 1, 0 and -1; None from the student.
    """

    labels: np.ndarray | None = None


class EdgeJob(ImageJob[ImageEntry, EdgeInputs, tuple[float, ...]]):
    """Detects the edges of images one by one. A result is the shares of pseudo edge labels.

    Args:
        settings: what decides the edges.
        output: folder of the edges.
    """

    settings: EdgeSettings
    store: EdgeStore

    def __init__(self, settings: EdgeSettings, output: str | Path) -> None:
        super().__init__(settings, _store_of(settings)(output), save_edges=True)
        self.threshold: str = settings.cfg.MODEL.TRACE.ABDIV.THRESHOLD

    def inputs_print(self, entry: ImageEntry) -> str:
        """A text that changes when the image does (its size or its time)."""
        return files_print([self.settings.images / entry.file_name])

    def skip_reason(self, entry: ImageEntry) -> str:
        """Empty: every image has edges."""
        return ""

    def load(self, entry: ImageEntry) -> EdgeInputs:
        """The photograph of ``entry``; raises as ``read_image`` does."""
        return EdgeInputs(read_image(self.settings.images / entry.file_name), None, ())

    def with_detected(self, entry: ImageEntry, inputs: EdgeInputs, found: EdgeOutput) -> EdgeInputs:
        """``inputs`` with edges and, from the teacher, pseudo edges.

        Raises:
            ValueError: what was detected is no map of edges, or not of the image's size.
        """
        size = inputs.photograph.pixels.shape[:2]
        if found.edges.shape != size:
            raise ValueError(
                f"the edges detected in {entry.file_name} are of shape {found.edges.shape}, not "
                f"{size}: repair the detector"
            )
        inputs = super().with_detected(entry, inputs, found)
        if not isinstance(self.store, PseudoEdgeStore):
            return inputs
        if found.abdiv is None:
            raise ValueError(f"no ABDiv of {entry.file_name}: pseudo edges need the teacher")
        from trace_d2.edges.abdiv import ternary_edges  # with torch, which workers do without

        return replace(inputs, labels=ternary_edges(found.abdiv, size, self.threshold))

    def make(self, entry: ImageEntry, inputs: EdgeInputs) -> tuple[float, ...]:
        """The shares of edge, none and ignored pixels; empty without pseudo edges."""
        return () if inputs.labels is None else label_shares(inputs.labels)

    def write(self, entry: ImageEntry, inputs: EdgeInputs, result: tuple[float, ...]) -> None:
        """Write pseudo edges, the size and, for the report page, pictures."""
        pixels = inputs.photograph.pixels
        if entry.pictured and inputs.edges is not None:
            pictures = make_edge_pictures(pixels, inputs.edges, inputs.labels)
            self.store.write_preview(entry.stem, pictures)
        if isinstance(self.store, PseudoEdgeStore) and inputs.labels is not None:
            self.store.write_pseudo(entry.stem, inputs.labels)
        self.store.write_note(entry.stem, pixels.shape[:2])

    def describe(self, record: Record, result: tuple[float, ...]) -> Record:
        """``record`` with the shares."""
        return replace(record, shares=tuple(round(share, 6) for share in result))

    def merge(self) -> MergeResult:
        """Join the journals and write the report page."""
        return self.store.merge()


def _store_of(settings: EdgeSettings) -> type[EdgeStore]:
    return PseudoEdgeStore if settings.edges == BACKBONE else EdgeStore


def edge_entries(images: str | Path, limit: int | None, pictured: int) -> list[ImageEntry]:
    """The images of a folder in sorted order of stems, their ids being their ranks.

    Args:
        images: the folder.
        limit: the first so many are to be done; None: all.
        pictured: how many of those the report page shows.

    Raises:
        NotADirectoryError, ValueError: as ``list_images``.
    """
    names = list_images(images)
    stems = list(names)
    ranks = {stem: rank for rank, stem in enumerate(stems, start=1)}
    return build_entries(names, ranks, spread(stems[:limit], pictured))
