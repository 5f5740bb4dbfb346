"""Class maps sharpened along edges: from maps or scores of a semantic model to better maps.

::

    OUTPUT/
      semantic/<stem>.png    8 bit, grey: pixel = category id as in the input, 255 = unknown
      edges/<stem>.png       with --save-edges
      calibration.json       what the strengths of the edges were found to mean
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from trace_d2.io.atomic import write_png
from trace_d2.io.categories import UNKNOWN
from trace_d2.io.images import Sample
from trace_d2.io.remote import InputFile
from trace_d2.io.score_stacks import SCORE_SUFFIXES
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.kinds.class_map_job import ClassMapJob
from trace_d2.jobs.kinds.cutting_job import SCRATCH
from trace_d2.jobs.kinds.edge_job import KEPT_EDGES
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.pictures import PHOTOGRAPH, Pictures, Regions, colored
from trace_d2.jobs.report import Measure, Report
from trace_d2.jobs.trust import CALIBRATION, MAPS
from trace_d2.labels.semantic import SemanticRefiner, SemanticSettings
from trace_d2.propagation.outlines import OutlineStatistics

SEMANTIC = "semantic/{}.png"
_PANES = (
    (PHOTOGRAPH, "Image"),
    ("given", "Class map"),
    ("edges", "Edges"),
    ("refined", "Refined"),
)


class SemanticJob(ClassMapJob[np.ndarray]):
    """Refines class maps one by one, and stacks of scores to class maps; see ``ClassMapJob``."""

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
    nodes = ("SEMANTIC",)
    endings = (".png", *SCORE_SUFFIXES)
    checks = (SemanticSettings.from_config,)
    meaning = (
        "Calibration: what an edge near an outline of a class map means",
        "probability that it is the outline",
    )

    def build_cutter(self, cfg: CfgNode) -> SemanticRefiner:
        return SemanticRefiner.from_config(cfg, self.categories)

    def skip(self, entry: ImageEntry) -> str:
        paths = self.maps(entry)
        return "" if any(path.is_file() for path in paths) else f"no class map at {paths[0]}"

    def given_map(self, entry: ImageEntry) -> InputFile:
        given = [path for path in self.maps(entry) if path.is_file()]
        if len(given) > 1:
            raise ValueError(f"both {given[0]} and {given[1].name} exist: remove one of them")
        return given[0] if given else super().given_map(entry)

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
