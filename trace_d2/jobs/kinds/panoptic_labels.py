"""Labels: from semantic mask and edges to the files of a panoptic label.

::

    OUTPUT/
      panoptic.json  panoptic/<stem>.png    COCO panoptic
      instances.json                        COCO instances (RLE) of the thing segments
      semantic/<stem>.png                   contiguous ids: the rank in the categories, 255 = void
      edges/<stem>.png                      with --save-edges
      calibration.json                      what the strengths of the edges were found to mean
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from fvcore.common.config import CfgNode

from trace_d2.io.atomic import atomic_file, write_png
from trace_d2.io.categories import (
    UNKNOWN,
    Category,
    category_entries,
    parse_categories,
)
from trace_d2.io.coco_panoptic import (
    id2rgb,
    image_entry,
    instance_annotations,
    panoptic_annotation,
)
from trace_d2.io.coco_stream import CocoStream
from trace_d2.io.images import Sample
from trace_d2.io.regions import is_sliver
from trace_d2.jobs.coco_files import read_result
from trace_d2.jobs.journal import ImageEntry, Record
from trace_d2.jobs.kinds.class_map_job import ClassMapJob
from trace_d2.jobs.kinds.cutting_job import SCRATCH
from trace_d2.jobs.kinds.edge_job import KEPT_EDGES, upgrade
from trace_d2.jobs.kinds.redrawing_job import CUT, RedrawingJob, sam_rows
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.pictures import PHOTOGRAPH, Pictures, colored, cut_strengths
from trace_d2.jobs.report import Measure, Report, counted
from trace_d2.jobs.trust import CALIBRATION
from trace_d2.labels import PanopticLabel, PanopticLabeler
from trace_d2.labels.panoptic import LabelSettings, of_one_strength
from trace_d2.labels.replacing import parts_of, replace_parts
from trace_d2.masks.patches import Patch
from trace_d2.masks.sam_files import check_sam
from trace_d2.propagation.calibration import EdgeStatistics

if TYPE_CHECKING:
    from trace_d2.masks.sam import Redrawn

PANOPTIC, SEMANTIC = "panoptic/{}.png", "semantic/{}.png"
_PANES = (
    (PHOTOGRAPH, "Image"),
    ("semantic", "Semantic mask"),
    ("edges", "Edges"),
    ("uncut", "Segments without edges"),
    (CUT, "Segments before SAM"),
    ("segments", "Segments"),
)


class LabelJob(ClassMapJob[PanopticLabel], RedrawingJob[ImageEntry, Sample, PanopticLabel]):
    """Labels images one by one, by their semantic masks; see ``ClassMapJob``."""

    layout = Layout(
        kind="labels",
        results=(PANOPTIC, SEMANTIC),
        optional=(KEPT_EDGES,),
        facts=("segments", "things"),
        joined=("panoptic.json", "instances.json", CALIBRATION),
        scratch=SCRATCH,
        upgrade=upgrade,
    )
    done = "labelled"
    files = "labels: {}/panoptic.json"
    nodes = ("LABELS",)
    checks = (LabelSettings.from_config, check_sam)

    def build_cutter(self, cfg: CfgNode) -> PanopticLabeler:
        return PanopticLabeler.from_config(cfg, self.categories)

    def skip(self, entry: ImageEntry) -> str:
        if entry.image_id is None:
            return "the list given by --images-json does not name it"
        path = self.given_map(entry)
        return "" if path.is_file() else f"no semantic mask at {path} (an image without tags?)"

    def count_edges(self, statistics: EdgeStatistics, entry: ImageEntry, inputs: Sample) -> None:
        assert inputs.edges is not None
        self.cutter.count_edges(statistics, inputs.semantic, inputs.edges)

    def count_false_pieces(self, inputs: Sample) -> tuple[int, int]:
        """Stuff masks, and the pieces that edges would cut off them if they were things."""
        return self.cutter.cut_stuff(inputs.semantic, inputs.edges)

    def cut(self, entry: ImageEntry, inputs: Sample) -> PanopticLabel:
        return self.cutter(inputs.semantic, inputs.edges)

    def masks_of(self, result: PanopticLabel) -> list[Patch]:
        return [part for _, part in parts_of(result)]

    def redraw(self, result: PanopticLabel, answers: Sequence[Redrawn | None]) -> PanopticLabel:
        return replace_parts(result, [answer.patch if answer else None for answer in answers])

    def write(self, entry: ImageEntry, inputs: Sample, result: PanopticLabel) -> dict[str, Any]:
        if self.optional:
            self.keep_edges(entry, inputs.edges)
        ids, ranks = result.segment_ids, train_ids(result, self.categories)
        write_png(self.store.place(PANOPTIC, entry.stem), id2rgb(ids), fast=True)
        write_png(self.store.place(SEMANTIC, entry.stem), ranks, fast=True)
        segments = [
            {
                "id": segment.id,
                "category_id": segment.category_id,
                "area": segment.area,
                "bbox": list(segment.bbox),
                "iscrowd": 0,
            }
            for segment in result.segments
        ]
        # Ids of image and instances are given when the notes are joined.
        instances = instance_annotations(ids, segments, self.categories, image_id=0)
        height, width = ids.shape
        return {"height": height, "width": width, "segments": segments, "instances": instances}

    def pictures(self, inputs: Sample, result: PanopticLabel) -> Pictures:
        ids = result.segment_ids
        wanted = {c.name: c.color for c in self.categories}
        segments = colored(ids, self._names(result), wanted)
        classes = inputs.semantic + np.uint8(1)  # unknown is 0
        names = {c.id + 1: c.name for c in self.categories}
        semantic = colored(classes, names, wanted, shown=[segments], numbered=False)
        panes = {"segments": segments, "semantic": semantic}
        if before := inputs.before:
            own = self._names(before)
            panes[CUT] = colored(before.segment_ids, own, wanted, shown=[segments], numbered=False)
        pale = [c.name for c in self.categories if not c.isthing]
        if inputs.edges is None:
            return Pictures(inputs.photograph.pixels, panes, pale=pale)
        uncut = self.cutter(inputs.semantic)
        panes["uncut"] = colored(
            uncut.segment_ids,
            self._names(uncut),
            wanted,
            shown=[segments, semantic],
            numbered=False,
        )
        cuts = cut_strengths(ids, uncut.segment_ids, inputs.edges)
        strengths = {"edges": inputs.edges}
        return Pictures(inputs.photograph.pixels, {**panes, **strengths}, cuts, "segments", pale)

    def _names(self, label: PanopticLabel) -> dict[int, str]:
        """The classes of the segments, by their ids."""
        names = {c.id: c.name for c in self.categories}
        return {segment.id: names[segment.category_id] for segment in label.segments}

    def facts(self, inputs: Sample, result: PanopticLabel) -> Mapping[str, Any]:
        things = sum(segment.isthing for segment in result.segments)
        cut = inputs.edges is not None and not of_one_strength(inputs.edges)
        uncut = self.cutter(inputs.semantic) if cut else None
        return {
            "segments": len(result.segments),
            "things": things,
            "uncut": sum(segment.isthing for segment in uncut.segments) if uncut else 0,
            "blunt": int(inputs.blunt),
            "slivers": _slivers(result),
            "uncut_slivers": _slivers(uncut) if uncut else 0,
        }

    @classmethod
    def join(cls, outcome: Outcome) -> None:
        store, categories = outcome.store, _categories(outcome)
        listed = category_entries(categories)
        things = category_entries(tuple(c for c in categories if c.isthing))
        with (
            atomic_file(store.root / "panoptic.json") as panoptic_file,
            atomic_file(store.root / "instances.json") as instances_file,
            CocoStream(panoptic_file, listed, "pseudo panoptic labels") as panoptic,
            CocoStream(instances_file, things, "pseudo instance labels") as instances,
        ):
            for entry, record in outcome.noted():
                counts = {"segments": record.facts["segments"], "instances": record.facts["things"]}
                note = read_result(store, entry.stem, **counts)
                image_id = int(entry.image_id)  # type: ignore[arg-type]  # finished ones have one
                image = image_entry(image_id, entry.file_name, note["height"], note["width"])
                panoptic.add_image(image)
                instances.add_image(image)
                png = f"{store.placed(entry.stem)}.png"
                panoptic.add(panoptic_annotation(image_id, png, note["segments"]))
                for instance in note["instances"]:
                    instances.add({**instance, "image_id": image_id, "id": instances.count + 1})
            panoptic.end()
            instances.end()

    @classmethod
    def report(cls, outcome: Outcome) -> Report:
        settings, counts = outcome.settings, outcome.counts
        things, segments = (counts.mean(name) for name in ("things", "segments"))

        def caption(facts: dict[str, Any]) -> list[str]:
            stuff = facts["segments"] - facts["things"]
            return [f"{counted(facts['things'], 'things')}, {stuff} stuff"]

        return cls.trust_page(
            outcome,
            "Pseudo panoptic labels",
            _PANES,
            caption,
            [("Semantic masks", settings.get("semantic", "")), *sam_rows(settings)],
            cards=[
                ("segments", f"{counts.sums['segments']:,}"),
                ("things an image", f"{things:.1f}"),
                ("stuff an image", f"{segments - things:.1f}"),
            ],
            measures=[
                Measure("pieces added by edges", _added),
                Measure("slivers added by edges", _added_slivers),
                Measure("slivers", lambda record: record.facts.get("slivers", 0), False),
                Measure("segments", lambda record: record.facts["segments"], suspicious=False),
            ],
        )


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


def _added(record: Record) -> int:
    """Things that there are for edges alone; 0 where none cut anything, or none was counted."""
    uncut = record.facts.get("uncut")
    return max(0, record.facts["things"] - uncut) if uncut else 0


def _added_slivers(record: Record) -> int:
    facts = record.facts
    cut = facts.get("uncut") and "slivers" in facts
    return max(0, facts["slivers"] - facts.get("uncut_slivers", 0)) if cut else 0


def _slivers(label: PanopticLabel) -> int:
    """Things too small or thin for most objects."""
    pixels = label.segment_ids.size
    return sum(one.isthing and is_sliver(one.area, one.bbox, pixels) for one in label.segments)


def _categories(outcome: Outcome) -> tuple[Category, ...]:
    origin = outcome.store.address_of(outcome.store.settings_path)
    return parse_categories(outcome.settings.get("categories"), origin)
