"""Refined masks: those of training-free methods cut along edges, propagated and merged.

::

    refined.json                 COCO: what pycocotools and Detectron2 read
    refined.json.work/
      left_out.jsonl             one line an annotation that could not be used, with the reason
      edges/<stem>.png           with --save-edges
      calibration.json           what the strengths of the edges were found to mean
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from fvcore.common.config import CfgNode

from trace_d2.complaints import Complaints
from trace_d2.io.atomic import atomic_file
from trace_d2.io.coco_masks import MaskFile, load_mask_json
from trace_d2.io.edge_maps import edge_paths, find_edges, has_edges
from trace_d2.io.images import Inputs, read_image
from trace_d2.io.json_files import shown
from trace_d2.io.listing import spread
from trace_d2.io.paths import check_output
from trace_d2.io.regions import is_sliver
from trace_d2.io.remote import InputFolder
from trace_d2.jobs.coco_files import mask_annotations, write_instances
from trace_d2.jobs.command_line import given_folder
from trace_d2.jobs.edge_options import edge_cfg
from trace_d2.jobs.fingerprint import files_print
from trace_d2.jobs.job import Lookers
from trace_d2.jobs.journal import Record
from trace_d2.jobs.kinds.cutting_job import SCRATCH
from trace_d2.jobs.kinds.edge_job import KEPT_EDGES, upgrade
from trace_d2.jobs.kinds.mask_entries import MaskEntry, decode_masks, mask_entries
from trace_d2.jobs.kinds.redrawing_job import CUT, RedrawingJob, sam_rows
from trace_d2.jobs.layout import Layout
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.output import DamagedFileError, writing_to
from trace_d2.jobs.pictures import (
    PHOTOGRAPH,
    Pictures,
    colored,
    cut_strengths,
    stacked,
)
from trace_d2.jobs.report import Measure, Report, Table, counted
from trace_d2.jobs.store import JobStore
from trace_d2.jobs.trust import BLIND, CALIBRATION, DISCOVERED_BY, is_blind
from trace_d2.masks.patches import Patch, patch_of
from trace_d2.masks.preflight import EDGES
from trace_d2.masks.sam_files import check_sam
from trace_d2.propagation import BoundaryGuidedPropagation, merge_masks
from trace_d2.propagation.bgp import BgpSettings
from trace_d2.propagation.calibration import EdgeStatistics
from trace_d2.propagation.merging import PropagatedInstances
from trace_d2.terminal import say

if TYPE_CHECKING:
    from trace_d2.masks.sam import Redrawn

_LEFT_OUT = "left_out.jsonl"
_QUICKLY_READ = 2**26  # bytes of a file of masks, which takes seconds beyond
_PANES = (
    (PHOTOGRAPH, "Image"),
    ("given", "Given masks"),
    ("edges", "Edges"),
    (CUT, "Masks before SAM"),
    ("refined", "Refined masks"),
)


@dataclass(frozen=True)
class RefinedMasks:
    """What was made of the masks of one image.

    Attributes:
        given: (K, H, W) bool, the masks it was made from.
        given_categories: (K,) their category ids.
        masks: (N, H, W) bool; they may overlap.
        categories: (N,) category ids.
        scores: (N,) confidences; None if the given masks have none.
        notes: remarks for the journal.
    """

    given: np.ndarray
    given_categories: list[int]
    masks: np.ndarray
    categories: list[int]
    scores: list[float] | None
    notes: tuple[str, ...]


class RefineJob(RedrawingJob[MaskEntry, Inputs, RefinedMasks]):
    """Refines the masks of images one by one.

    Args:
        cfg, images, output, entries, save_edges: see ``EdgeTakingJob``.
        masks: the file of masks, checked.
    """

    layout = Layout(
        kind="refined masks",
        optional=(KEPT_EDGES,),
        facts=("segments", "things", "given"),
        joined=(_LEFT_OUT, CALIBRATION),
        scratch=SCRATCH,
        beside=True,
        upgrade=upgrade,
    )
    done = "refined"
    files = "masks: {}"
    needs = ("images", "masks", "output")
    nodes = ("BGP",)
    stays = (*RedrawingJob.stays, "file")

    def __init__(
        self,
        cfg: CfgNode,
        images: str | InputFolder,
        masks: MaskFile,
        output: str | Path,
        entries: Sequence[MaskEntry],
        save_edges: bool = False,
    ) -> None:
        self.file = masks
        self.masks = str(masks.path)
        self.cutter = BoundaryGuidedPropagation.from_config(cfg)
        settings = {"masks": str(masks.path.resolve()), "categories": list(masks.categories)}
        if masks.method == EDGES:
            settings[DISCOVERED_BY] = EDGES
        super().__init__(cfg, images, output, entries, settings, save_edges)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> RefineJob:
        """The job of ``tools/refine_masks.py``; says what is peculiar about the masks."""
        wrong = Complaints()
        wrong.of(check_output, args.output, masks=args.masks, images_json=args.images_json)
        cfg = edge_cfg(wrong, args)
        wrong.of(BgpSettings.from_config, cfg)
        wrong.of(check_sam, cfg)
        images = wrong.of(given_folder, args.images, "--images")
        if wrong and os.path.isfile(args.masks) and os.path.getsize(args.masks) > _QUICKLY_READ:
            wrong.end()
        file = wrong.of(load_mask_json, args.masks, args.images_json)
        if file and images:
            entries = wrong.of(mask_entries, file, images)
        wrong.end()
        ready = [entry.stem for entry in entries[: args.limit] if not entry.skipped]
        shown = frozenset(spread(ready, args.report_images))
        entries = [replace(entry, pictured=entry.stem in shown) for entry in entries]
        job = cls(cfg, images, file, args.output, entries, args.save_edges)
        # Before hours of work.
        masks = sum(len(entry.masks) for entry in entries)
        usable = sum(not entry.skipped for entry in entries)
        say(f"{file.path}: {masks} masks to refine in {usable} of {len(file.images)} images")
        for line in file.findings.lines():
            say(f"note: {line}")
        if is_blind(job.settings):
            say(f"warning: {BLIND}", error=True)
        absent = [entry.skipped for entry in entries if entry.skipped and not entry.edge_stems]
        if absent:
            say(f"note: {len(absent)} images are skipped; first: {absent[0]}")
        return job

    def prepare(
        self,
        left: Sequence[MaskEntry],
        workers: int,
        progress: bool,
        lookers: Lookers | None = None,
    ) -> None:
        path = self.store.root / _LEFT_OUT
        with writing_to(self.store.root), atomic_file(path) as file:
            for annotation in self.file.findings.left_out:
                file.write((json.dumps(annotation) + "\n").encode("ascii"))
        self.store.share(path)
        super().prepare(left, workers, progress, lookers)

    def fingerprint(self, entry: MaskEntry) -> str:
        paths = [self.images / entry.file_name]
        if self.edges_folder is not None:
            for stem in entry.edge_stems:
                paths += edge_paths(self.edges_folder, stem)
        masks = [(mask.category_id, mask.segmentation, mask.score) for mask in entry.masks]
        return files_print(paths, masks, entry.size, entry.skipped)

    def skip(self, entry: MaskEntry) -> str:
        return entry.skipped

    def load(self, entry: MaskEntry) -> Inputs:
        edges, folder = None, self.edges_folder
        if folder is not None:
            stems = [stem for stem in entry.edge_stems if has_edges(folder, stem)]
            edges = find_edges(folder, (stems or entry.edge_stems[-1:])[0])
        image = self.images / entry.file_name
        photograph = read_image(image, [] if edges is None else [edges])
        inputs = Inputs(photograph, None, (*photograph.notes, *entry.remarks))
        return inputs if edges is None else inputs.with_edge_file(edges)

    def probe(self, entry: MaskEntry) -> None:
        decode_masks(entry, self.load(entry).photograph, self.masks)

    def count_edges(self, statistics: EdgeStatistics, entry: MaskEntry, inputs: Inputs) -> None:
        assert inputs.edges is not None
        try:
            _, given, _ = decode_masks(entry, inputs.photograph, self.masks)
        except ValueError:  # it will fail, and be recorded then
            return
        statistics.add_masks(given, inputs.edges, self.cutter.scale)

    def cut(self, entry: MaskEntry, inputs: Inputs) -> RefinedMasks:
        """The refined masks of ``entry``, category by category; without edges they only merge.

        Raises:
            ValueError: the masks do not fit the image, or none of them has a pixel.
        """
        kept, given, notes = decode_masks(entry, inputs.photograph, self.masks)
        categories = [mask.category_id for mask in kept]
        scored = kept[0].score is not None
        scores = [float(mask.score or 0) for mask in kept] if scored else None
        edges = inputs.edges

        def refine(masks: np.ndarray, strengths: np.ndarray | None) -> PropagatedInstances:
            if edges is None:
                return self._merge(masks, strengths)
            return self.cutter(masks, edges, strengths)

        refined = _by_category(given, categories, scores, refine)
        return RefinedMasks(given, categories, *refined, notes)

    def _merge(self, masks: np.ndarray, scores: np.ndarray | None) -> PropagatedInstances:
        return merge_masks(masks, scores, iou_threshold=self.cutter.settings.merge_iou)

    def masks_of(self, result: RefinedMasks) -> list[Patch]:
        patches = [patch_of(mask) for mask in result.masks]
        return [patch for patch in patches if patch is not None]  # cut masks have pixels

    def redraw(self, result: RefinedMasks, answers: Sequence[Redrawn | None]) -> RefinedMasks:
        """Redrawn masks of one category that are the same object by then are merged."""
        masks = result.masks.copy()
        for mask, answer in zip(masks, answers, strict=True):
            if answer is not None:
                mask[:] = False
                mask[answer.patch.box] = answer.patch.mask
        merged = _by_category(masks, result.categories, result.scores, self._merge)
        return RefinedMasks(result.given, result.given_categories, *merged, result.notes)

    def write(self, entry: MaskEntry, inputs: Inputs, result: RefinedMasks) -> dict[str, Any]:
        if self.optional:
            self.keep_edges(entry, inputs.edges)
        height, width = result.given.shape[1:]
        annotations = mask_annotations(result.masks, result.categories, result.scores)
        return {"height": height, "width": width, "instances": annotations}

    def pictures(self, inputs: Inputs, result: RefinedMasks) -> Pictures:
        pixels = inputs.photograph.pixels
        listed = self.settings["categories"]
        names = {one["id"]: str(one.get("name", one["id"])) for one in listed}
        maps, named = {}, {}
        shown = [
            ("given", result.given, result.given_categories),
            ("refined", result.masks, result.categories),
        ]
        if inputs.before is not None:
            shown.append((CUT, inputs.before.masks, inputs.before.categories))
        for key, masks, categories in shown:
            maps[key] = stacked(masks, pixels.shape[:2])
            named[key] = {rank: names[one] for rank, one in enumerate(categories, start=1)}
        scores = {rank: f"score {s:.2f}" for rank, s in enumerate(result.scores or (), start=1)}
        refined = colored(maps["refined"], named["refined"], {}, scores)
        given = colored(maps["given"], named["given"], {}, shown=[refined], numbered=False)
        panes = {"refined": refined, "given": given}
        if CUT in maps:
            panes[CUT] = colored(maps[CUT], named[CUT], {}, shown=[refined], numbered=False)
        if inputs.edges is None:
            return Pictures(pixels, panes)
        cuts = cut_strengths(maps["refined"], maps["given"], inputs.edges)
        return Pictures(pixels, {**panes, "edges": inputs.edges}, cuts, "refined")

    def facts(self, inputs: Inputs, result: RefinedMasks) -> Mapping[str, Any]:
        count = len(result.masks)
        return {
            "segments": count,
            "things": count,
            "given": len(result.given),
            "blunt": int(inputs.blunt),
            "slivers": sum(map(_is_sliver, result.masks)),
            "given_slivers": sum(map(_is_sliver, result.given)),
        }

    def notes(self, inputs: Inputs, result: RefinedMasks) -> tuple[str, ...]:
        return (*inputs.notes, *result.notes)

    @classmethod
    def join(cls, outcome: Outcome) -> None:
        categories = _categories(outcome)
        with atomic_file(outcome.store.output) as file:
            write_instances(file, outcome, categories, "masks refined along instance edges")

    @classmethod
    def report(cls, outcome: Outcome) -> Report:
        given, refined = (outcome.counts.sums[name] for name in ("given", "segments"))
        return cls.trust_page(
            outcome,
            "Refined masks",
            _PANES,
            lambda facts: [
                f"{counted(facts['given'], 'masks')} given, {facts['segments']} refined"
            ],
            [("Masks", outcome.settings.get("masks", "")), *sam_rows(outcome.settings)],
            cards=[("masks given", f"{given:,}"), ("refined masks", f"{refined:,}")],
            tables=[_left_out(outcome.store)],
            measures=[
                Measure("masks added by edges", _added),
                Measure("slivers added by edges", _added_slivers),
                Measure("slivers", lambda record: record.facts.get("slivers", 0), False),
                Measure("refined masks", lambda record: record.facts["segments"], False),
            ],
        )


def _by_category(
    masks: np.ndarray,
    categories: Sequence[int],
    scores: Sequence[float] | None,
    refine: Callable[[np.ndarray, np.ndarray | None], PropagatedInstances],
) -> tuple[np.ndarray, list[int], list[float] | None]:
    """Masks, categories and scores of what ``refine`` makes of the masks of one after the other."""
    parts, owners, strengths = [], [], []
    for category in sorted(set(categories)):
        own = [rank for rank, one in enumerate(categories) if one == category]
        refined = refine(masks[own], np.array([scores[rank] for rank in own]) if scores else None)
        parts.append(refined.masks)
        owners += [category] * len(refined.masks)
        strengths += refined.scores.tolist()
    return np.concatenate(parts), owners, strengths if scores else None


def _added(record: Record) -> int:
    return max(0, record.facts["segments"] - record.facts["given"])


def _added_slivers(record: Record) -> int:
    return max(0, record.facts.get("slivers", 0) - record.facts.get("given_slivers", 0))


def _is_sliver(mask: np.ndarray) -> bool:
    pixels = mask.view(np.uint8)
    return is_sliver(cv2.countNonZero(pixels), cv2.boundingRect(pixels), mask.size)


def _categories(outcome: Outcome) -> list[dict[str, Any]]:
    categories = outcome.settings.get("categories")
    if isinstance(categories, list) and all(isinstance(one, dict) for one in categories):
        return categories
    raise DamagedFileError(
        f"{outcome.store.address_of(outcome.store.settings_path)} is damaged (its categories are "
        "no list): restore it, or choose another --output"
    )


def _left_out(store: JobStore) -> Table:
    path = store.fetch(store.root / _LEFT_OUT)
    lines = path.read_bytes().splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            one = json.loads(line)
            name = f"no. {shown(one['number'])} (id {shown(one['annotation_id'])})"
            rows.append((name, shown(one["reason"])))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedFileError(
                f"{store.address_of(path)} is damaged in line {number} ({error}): run the job "
                "again, which writes it anew"
            ) from error
    return Table("Annotations left out", rows, ("Annotation", "Why"), _LEFT_OUT)
