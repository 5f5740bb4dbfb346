"""The folder of detected edges: what lies where.

::

    OUTPUT/
      edges/<stem>.png           edge strength at the size of the image, 16 bit: fit for --edges
      pseudo_edges/<stem>.png    of the teacher: 0 none, 255 edge, 128 ignored, 8 bit
      journal.jsonl              one line an image
      report.html                the report page
      settings.json  images.json what the edges were made with, and of which images
      annotations/  previews/  shards/   one file an image, or a shard

The folder is finished when no job holds a lock of it, ``shards/`` is empty, and the journal has a
record of each of the images in ``images.json`` up to its limit. Images whose record is "done" have
all their files; ``annotations/<stem>.json`` has their size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trace_d2.io.atomic import write_json
from trace_d2.io.edge_maps import write_ternary
from trace_d2.jobs.kinds.edge_report import write_edge_report
from trace_d2.jobs.store import ForeignFolderError, JobStore, MergeResult


class EdgeStore(JobStore):
    """A folder of edges of one pass, the student's."""

    kind = "edges"
    title = "Predicted edges"

    def check_place(self) -> None:
        """Raise a ForeignFolderError if the folder is somebody else's, or of another tool."""
        super().check_place()
        if self.settings_path.exists() and self.read_settings().get("kind") != self.kind:
            raise ForeignFolderError(
                f"{self.root} holds other results than {self.kind}: choose another --output"
            )

    def result_paths(self, stem: str) -> list[Path]:
        """The files of one image besides its edges, which every image has."""
        return []

    def write_note(self, stem: str, size: tuple[int, int]) -> None:
        """Note the size (H, W) of one image."""
        write_json(self.annotation_path(stem), {"height": size[0], "width": size[1]})

    def write_preview(self, stem: str, pictures: Mapping[str, str]) -> None:
        """Keep the pictures of one image for the report page."""
        write_json(self.preview_path(stem), pictures)

    def merge(self) -> MergeResult:
        """Write the joined journal and the report page; the caller holds the folder."""
        entries, limit = self.read_images()
        records = self.join_journals()
        done = [e for e in entries if self.is_finished(records.get(e.stem), e, save_edges=True)]
        write_edge_report(self, entries, records, done)
        return self.standing(entries[:limit], records, len(done))


class PseudoEdgeStore(EdgeStore):
    """A folder of the teacher's edges and of pseudo edges made of them."""

    kind = "pseudo edges"
    title = "Pseudo edges"
    folders = ("pseudo_edges", *EdgeStore.folders)

    def pseudo_path(self, stem: str) -> Path:
        """The pseudo edges of one image."""
        return self.root / "pseudo_edges" / f"{stem}.png"

    def result_paths(self, stem: str) -> list[Path]:
        """The pseudo edges of one image."""
        return [self.pseudo_path(stem)]

    def write_pseudo(self, stem: str, labels: np.ndarray) -> None:
        """Write pseudo edges int8 (H, W). Raises OSError if the disk takes them not."""
        write_ternary(self.pseudo_path(stem), labels)
