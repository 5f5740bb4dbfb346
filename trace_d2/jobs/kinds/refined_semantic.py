"""Class maps sharpened along edges: from maps or scores of a semantic model to better maps.

::

    OUTPUT/
      semantic/<stem>.png    8 bit, grey: pixel = category id as in the input, 255 = unknown
      edges/<stem>.png       with --save-edges
      calibration.json       what the strengths of the edges were found to mean
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from trace_d2.complaints import Complaints
from trace_d2.io.atomic import write_png
from trace_d2.io.categories import UNKNOWN, Category, category_entries
from trace_d2.io.edge_maps import edge_paths, find_edges
from trace_d2.io.fans import file_of
from trace_d2.io.images import Sample, load_sample
from trace_d2.io.remote import InputFile, InputFolder, input_folder
from trace_d2.io.score_stacks import SCORE_SUFFIXES
from trace_d2.jobs.edge_options import edge_cfg
from trace_d2.jobs.fingerprint import files_print
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.kinds.cutting_job import SCRATCH, CuttingJob
from trace_d2.jobs.kinds.edge_job import KEPT_EDGES
from trace_d2.jobs.kinds.semantic_inputs import elsewhere, semantic_inputs
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.pictures import PHOTOGRAPH, Pictures, Regions, colored
from trace_d2.jobs.report import Measure, Report
from trace_d2.jobs.trust import CALIBRATION, MAPS
from trace_d2.labels.semantic import SemanticRefiner, SemanticSettings
from trace_d2.propagation.outlines import OutlineStatistics

SEMANTIC = "semantic/{}.png"
_ENDINGS = (".png", *SCORE_SUFFIXES)
_PANES = (
    (PHOTOGRAPH, "Image"),
    ("given", "Class map"),
    ("edges", "Edges"),
    ("refined", "Refined"),
)


class SemanticJob(CuttingJob[ImageEntry, Sample, np.ndarray]):
    """Refines class maps one by one.

    Args:
        cfg, images, output, entries, save_edges: see ``EdgeTakingJob``.
        semantic: folder of the maps and stacks of scores.
        categories: what the maps hold; scores are in their order.
        origin: file or built-in name the categories are from, for messages.
        map_stems, edge_stems: of the maps and given edges that have not the stem of their image.
    """

    layout = Layout(
        kind=MAPS,
        results=(SEMANTIC,),
        optional=(KEPT_EDGES,),
        facts=("changed", "pixels"),
        joined=(CALIBRATION,),
        scratch=SCRATCH,
    )
    done = "refined"
    files = "class maps: {}/semantic"
    needs = ("images", "semantic", "categories", "output")
    nodes = ("SEMANTIC",)
    meaning = (
        "Calibration: what an edge near an outline of a class map means",
        "probability that it is the outline",
    )

    def __init__(
        self,
        cfg: CfgNode,
        images: str | InputFolder,
        semantic: str | InputFolder,
        categories: Sequence[Category],
        output: str | Path,
        entries: Sequence[ImageEntry],
        origin: str = "",
        save_edges: bool = False,
        map_stems: Mapping[str, str] | None = None,
        edge_stems: Mapping[str, str] | None = None,
    ) -> None:
        self.semantic = input_folder(semantic)
        self.map_stems, self.edge_stems = map_stems or {}, edge_stems or {}
        self.categories = tuple(categories)
        self.origin = origin
        self.cutter = SemanticRefiner.from_config(cfg, categories)
        settings = {
            "semantic": str(self.semantic.resolve()),
            "categories": category_entries(self.categories),
        }
        super().__init__(cfg, images, output, entries, settings, save_edges)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> SemanticJob:
        """The job of ``tools/refine_semantic.py``; says what will be left out."""
        wrong = Complaints()
        cfg = edge_cfg(wrong, args)
        wrong.of(SemanticSettings.from_config, cfg)
        found = semantic_inputs(wrong, args, cfg, _ENDINGS)
        job = cls(
            cfg, found.images, found.semantic, found.categories, args.output, found.entries,
            args.categories, args.save_edges, elsewhere(found.mask_stems), elsewhere(found.edged),
        )  # fmt: skip
        job.edges_folder = found.edges  # which is listed by now
        found.tell()
        return job

    def fingerprint(self, entry: ImageEntry) -> str:
        paths = [self.images / entry.file_name, *self._maps(entry)]
        if self.edges_folder is not None:
            paths += edge_paths(self.edges_folder, self.edge_stems.get(entry.stem, entry.stem))
        return files_print(paths)

    def skip(self, entry: ImageEntry) -> str:
        paths = self._maps(entry)
        return "" if any(path.is_file() for path in paths) else f"no class map at {paths[0]}"

    def load(self, entry: ImageEntry) -> Sample:
        folder, stem = self.edges_folder, self.edge_stems.get(entry.stem, entry.stem)
        edges = None if folder is None else find_edges(folder, stem)
        given = [path for path in self._maps(entry) if path.is_file()]
        if len(given) > 1:
            raise ValueError(f"both {given[0]} and {given[1].name} exist: remove one of them")
        path = given[0] if given else self._maps(entry)[0]
        image = self.images / entry.file_name
        return load_sample(image, path, edges, self.categories, self.origin)

    def _maps(self, entry: ImageEntry) -> list[InputFile]:
        """The files that may hold the map of ``entry``, or its scores."""
        stem = self.map_stems.get(entry.stem, entry.stem)
        return [file_of(self.semantic, f"{stem}{ending}") for ending in _ENDINGS]

    @property
    def measures(self) -> bool:
        return True

    def new_statistics(self) -> OutlineStatistics:
        return OutlineStatistics()

    def count_edges(self, statistics: OutlineStatistics, entry: ImageEntry, inputs: Sample) -> None:
        assert inputs.edges is not None
        self.cutter.count(statistics, inputs.semantic, inputs.edges)

    def make(self, entry: ImageEntry, inputs: Sample) -> np.ndarray:
        refined: np.ndarray = self.cutter(inputs.semantic, inputs.edges, inputs.scores)
        return refined

    def write(self, entry: ImageEntry, inputs: Sample, result: np.ndarray) -> dict[str, Any]:
        if self.optional:
            self.keep_edges(entry, inputs.edges)
        write_png(self.store.place(SEMANTIC, entry.stem), result, fast=True)
        return {}

    def pictures(self, inputs: Sample, result: np.ndarray) -> Pictures:
        refined = self._pane(result, ())
        panes: dict[str, Regions | np.ndarray] = {
            "refined": refined,
            "given": self._pane(inputs.semantic, [refined]),
        }
        if inputs.edges is not None:
            panes["edges"] = inputs.edges
        pale = [c.name for c in self.categories if not c.isthing]
        return Pictures(inputs.photograph.pixels, panes, pale=pale)

    def _pane(self, semantic: np.ndarray, shown: Sequence[Regions]) -> Regions:
        numbers = np.where(semantic == UNKNOWN, 0, semantic.astype(np.int32) + 1)
        names = {c.id + 1: c.name for c in self.categories}
        wanted = {c.name: c.color for c in self.categories}
        return colored(numbers, names, wanted, shown=shown, numbered=False)

    def facts(self, inputs: Sample, result: np.ndarray) -> Mapping[str, Any]:
        changed = int(np.count_nonzero(result != inputs.semantic))
        return {"changed": changed, "pixels": result.size, "blunt": int(inputs.blunt)}

    @classmethod
    def report(cls, outcome: Outcome) -> Report:
        sums = outcome.counts.sums
        return cls.trust_page(
            outcome,
            "Refined class maps",
            _PANES,
            lambda facts: [f"{_share(facts):.1%} of the pixels changed"],
            [("Class maps", outcome.settings.get("semantic", ""))],
            cards=[("of the pixels changed", f"{_share(sums):.1%}")],
            measures=[
                Measure("share of pixels changed", lambda record: _share(record.facts), False)
            ],
        )


def _share(counts: Mapping[str, Any]) -> float:
    """Of the pixels that changed, of one image or of all."""
    return float(counts["changed"] / max(1, counts["pixels"]))
