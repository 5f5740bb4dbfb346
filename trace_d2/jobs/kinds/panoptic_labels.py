"""Labels of a job, one image at a time: from semantic mask and edges to the files of the label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trace_d2.io.atomic import write_json
from trace_d2.io.categories import UNKNOWN
from trace_d2.io.edge_maps import edge_paths
from trace_d2.io.images import Sample, load_sample
from trace_d2.jobs.entries import ImageEntry
from trace_d2.jobs.image_job import ImageJob, files_print
from trace_d2.jobs.journal import Record
from trace_d2.jobs.merge import merge_labels
from trace_d2.jobs.pictures import make_pictures
from trace_d2.jobs.settings import NO_EDGES, JobSettings
from trace_d2.jobs.store import LabelStore, MergeResult
from trace_d2.labels.panoptic import PanopticLabel, PanopticLabeler
from trace_d2.propagation.calibration import (
    EdgeCalibration,
    EdgeStatistics,
    semantic_statistics,
)


class LabelJob(ImageJob[ImageEntry, Sample, PanopticLabel]):
    """Labels images one by one.

    Args:
        settings: what decides the labels.
        output: folder of the labels.
        save_edges: keep the edges as well.
    """

    settings: JobSettings
    store: LabelStore

    def __init__(self, settings: JobSettings, output: str | Path, save_edges: bool) -> None:
        super().__init__(settings, LabelStore(output), save_edges)
        self.labeler = PanopticLabeler.from_config(settings.cfg, settings.categories)

    def inputs_print(self, entry: ImageEntry) -> str:
        """A text that changes when an input file of ``entry`` does (its size or its time)."""
        folder = self.settings.edges_folder
        paths = [self.settings.images / entry.file_name, self.semantic_path(entry)]
        if folder is not None:
            paths += edge_paths(folder, entry.stem)
        return files_print(paths)

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

    @property
    def calibrates(self) -> bool:
        """Whether there are edges and labels hang on what their strengths mean."""
        return self.settings.edges != NO_EDGES and self.labeler.cut == "basins"

    def use_calibration(self, calibration: EdgeCalibration | None) -> None:
        """Label with ``calibration``."""
        self.labeler.calibration = calibration

    def count_edges(self, statistics: EdgeStatistics, entry: ImageEntry, inputs: Sample) -> None:
        """Count outlines of classes and insides of things."""
        if inputs.edges is not None:
            isthing = self.labeler.isthing
            semantic_statistics(statistics, inputs.semantic, isthing, UNKNOWN, inputs.edges)

    def count_false_pieces(self, inputs: Sample) -> tuple[int, int]:
        """Stuff masks, and the pieces that edges would cut off them if they were things."""
        return self.labeler.cut_stuff(inputs.semantic, inputs.edges)

    def make(self, entry: ImageEntry, inputs: Sample) -> PanopticLabel:
        """The label of ``entry``."""
        return self.labeler(inputs.semantic, inputs.edges)

    def write(self, entry: ImageEntry, inputs: Sample, result: PanopticLabel) -> None:
        """Write the files of the label."""
        categories = self.settings.categories
        if entry.pictured:
            pictures = make_pictures(
                inputs.photograph.pixels, inputs.semantic, inputs.edges, result, categories
            )
            write_json(self.store.preview_path(entry.stem), pictures)
        self.store.write_label(entry.stem, result, categories)

    def describe(self, record: Record, result: PanopticLabel) -> Record:
        """``record`` with the number of segments and things, and of things without edges."""
        things = sum(segment.isthing for segment in result.segments)
        count = len(result.segments)
        return replace(record, segments=count, things=things, uncut=result.uncut)

    def merge(self) -> MergeResult:
        """Join the labels to COCO files and the report page."""
        return merge_labels(self.store)
