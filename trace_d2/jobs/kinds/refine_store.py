"""The folder of refined masks, and the COCO file that joins them.

::

    refined.json                 COCO: what pycocotools and Detectron2 read
    refined.json.work/
      journal.jsonl              one line an image
      left_out.jsonl             one line an annotation that could not be used, with the reason
      report.html                the report page
      edges/<stem>.png           with --save-edges
      settings.json  images.json  annotations/  previews/  shards/    what the above are joined from

Images in sub-folders keep their sub-folder: ``annotations/n01440764/x.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from trace_d2.io.atomic import atomic_file, write_json
from trace_d2.io.coco_masks import LeftOut
from trace_d2.io.coco_panoptic import image_entry
from trace_d2.jobs.entries import ImageEntry
from trace_d2.jobs.kinds.refine_report import write_refine_report
from trace_d2.jobs.merge import CocoStream
from trace_d2.jobs.store import ForeignFolderError, JobStore, MergeResult


class RefinedStore(JobStore):
    """The folder beside the file of refined masks.

    Args:
        output: the file; its folder is ``<output>.work``. Neither need exist.
    """

    kind = "refined masks"
    joined = ("left_out.jsonl", *JobStore.joined)

    def __init__(self, output: str | Path) -> None:
        self.output = Path(output)
        super().__init__(self.output.with_name(self.output.name + ".work"))

    def check_place(self) -> None:
        """Raise a ForeignFolderError if the file or its folder is somebody else's."""
        if self.output.is_dir():
            raise ForeignFolderError(f"{self.output} is a folder: choose a file for --output")
        if self.output.exists() and not self.settings_path.exists():
            raise ForeignFolderError(
                f"{self.output} exists and is not of this tool (there is no {self.root}): choose "
                "another --output, or remove it"
            )
        super().check_place()

    def drop_results(self) -> None:
        """Remove everything this tool wrote, the joined file first."""
        self.output.unlink(missing_ok=True)
        super().drop_results()

    def result_paths(self, stem: str) -> list[Path]:
        """None: the annotations are the result."""
        return []

    def write_masks(
        self, stem: str, size: tuple[int, int], annotations: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write the refined masks of one image. Raises OSError if the disk takes them not.

        Args:
            stem: name of the image in the store.
            size: (H, W).
            annotations: COCO annotations without id and image_id.
        """
        path = self.annotation_path(stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"height": size[0], "width": size[1], "instances": list(annotations)})

    def write_edges(self, stem: str, edges: np.ndarray) -> None:
        """Keep ``edges`` float32 (H, W) in 0..1."""
        self.edges_path(stem).parent.mkdir(parents=True, exist_ok=True)
        super().write_edges(stem, edges)

    def write_preview(self, stem: str, pictures: Mapping[str, str]) -> None:
        """Keep the pictures of one image for the report page."""
        self.preview_path(stem).parent.mkdir(parents=True, exist_ok=True)
        write_json(self.preview_path(stem), pictures)

    def write_left_out(self, left_out: Iterable[LeftOut]) -> None:
        """Write what could not be used, a line each."""
        with atomic_file(self.root / "left_out.jsonl") as file:
            for left in left_out:
                file.write((json.dumps(asdict(left)) + "\n").encode("ascii"))

    def read_left_out(self, most: int) -> tuple[list[LeftOut], int]:
        """The first ``most`` annotations that could not be used, and how many there are."""
        path = self.root / "left_out.jsonl"
        if not path.is_file():
            return [], 0
        with open(path, encoding="ascii") as file:
            first = [LeftOut(**json.loads(line)) for line in islice(file, most)]
            return first, len(first) + sum(1 for _ in file)

    def merge(self) -> MergeResult:
        """Write the COCO file, the joined journal and the report page; the caller holds the folder.

        All finished images go in, in sorted order of stems, so that the file does not depend on
        workers, shards or the order in which images ended. Ids of annotations count from 1.
        """
        settings = self.read_settings()
        entries, limit = self.read_images()
        records = self.join_journals()
        done = [e for e in entries if self.is_finished(records.get(e.stem), e, save_edges=False)]
        self._write_coco(settings["categories"], done)
        write_refine_report(self, entries, records, done)
        return self.standing(entries[:limit], records, len(done))

    def sweep(self) -> None:
        """Remove what killed writers left; only while nobody else writes here."""
        super().sweep()
        for leftover in self.output.parent.glob(f".{self.output.name}.*.tmp"):
            leftover.unlink(missing_ok=True)

    def _write_coco(
        self, categories: Sequence[Mapping[str, Any]], done: Sequence[ImageEntry]
    ) -> None:
        images = []
        with atomic_file(self.output) as file:
            stream = CocoStream(file, categories, "masks refined along instance edges")
            for entry in done:
                note = self.read_annotation(entry.stem)
                image_id = int(entry.image_id)  # type: ignore[arg-type]  # all have ids
                images.append(image_entry(image_id, entry.file_name, note["height"], note["width"]))
                for annotation in note["instances"]:
                    stream.add({"id": stream.count + 1, "image_id": image_id, **annotation})
            stream.close(images)
