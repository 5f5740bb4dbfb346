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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from fvcore.common.config import CfgNode

from trace_d2.complaints import Complaints
from trace_d2.io.atomic import atomic_file
from trace_d2.io.coco_masks import GivenMask, MaskFile, MaskImage, load_mask_json
from trace_d2.io.edge_maps import edge_paths, find_edges, has_edges
from trace_d2.io.images import Inputs, Photograph, fit_to_photograph, read_image
from trace_d2.io.json_files import shown
from trace_d2.io.listing import locate_images, spread
from trace_d2.io.mask_rle import SegmentationError, decode_segmentation
from trace_d2.io.paths import check_output
from trace_d2.io.regions import is_sliver
from trace_d2.jobs.coco_files import mask_annotations, write_instances
from trace_d2.jobs.command_line import edge_cfg, existing_folder
from trace_d2.jobs.job import files_print
from trace_d2.jobs.journal import ImageEntry, Record, check_name
from trace_d2.jobs.kinds.cutting_job import SCRATCH, CuttingJob
from trace_d2.jobs.kinds.edge_job import KEPT_EDGES, upgrade
from trace_d2.jobs.output import DamagedFileError, writing_to
from trace_d2.jobs.pictures import (
    PHOTOGRAPH,
    Pictures,
    colored,
    cut_strengths,
    following,
    stacked,
)
from trace_d2.jobs.report import Measure, Outcome, Report, Table
from trace_d2.jobs.store import JobStore, Layout
from trace_d2.jobs.trust import CALIBRATION
from trace_d2.propagation import BoundaryGuidedPropagation, merge_masks
from trace_d2.propagation.bgp import BgpSettings
from trace_d2.propagation.calibration import EdgeStatistics
from trace_d2.terminal import say

_LEFT_OUT = "left_out.jsonl"
_QUICKLY_READ = 2**26  # bytes of a file of masks, which takes seconds beyond
_MOST_GIB = 4  # of the masks of one image, decoded
_MOST_REMARKS = 20  # of one image in the journal; the list of what is left out has them all
_PANES = (
    (PHOTOGRAPH, "Image"),
    ("given", "Given masks"),
    ("edges", "Edges"),
    ("refined", "Refined masks"),
)


@dataclass(frozen=True)
class MaskEntry(ImageEntry):
    """One image of a job that refines masks, with all that its worker needs of the file.

    ``stem`` is the path of the image below the folder of images, without its ending;
    ``file_name`` is that path with it.

    Attributes:
        masks: its annotations.
        size: (H, W) that the masks are of; None: that of the photograph.
        skipped: why there is nothing to refine; empty if there is.
        remarks: for the journal.
        edge_stems: names that its edge file may have, the first that exists counts.
    """

    masks: tuple[GivenMask, ...] = ()
    size: tuple[int, int] | None = None
    skipped: str = ""
    remarks: tuple[str, ...] = ()
    edge_stems: tuple[str, ...] = ()


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


class RefineJob(CuttingJob[MaskEntry, Inputs, RefinedMasks]):
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
    stays = (*CuttingJob.stays, "file")

    def __init__(
        self,
        cfg: CfgNode,
        images: str | Path,
        masks: MaskFile,
        output: str | Path,
        entries: Sequence[MaskEntry],
        save_edges: bool = False,
    ) -> None:
        self.file = masks
        self.masks = str(masks.path)
        self.cutter = BoundaryGuidedPropagation.from_config(cfg)
        settings = {"masks": str(masks.path.resolve()), "categories": list(masks.categories)}
        super().__init__(cfg, images, output, entries, settings, save_edges)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> RefineJob:
        """The job of ``tools/refine_masks.py``; says what is peculiar about the masks."""
        wrong = Complaints()
        wrong.of(check_output, args.output, masks=args.masks, images_json=args.images_json)
        cfg = edge_cfg(wrong, args)
        wrong.of(BgpSettings.from_config, cfg)
        wrong.of(existing_folder, args.images, "--images")
        if wrong and os.path.isfile(args.masks) and os.path.getsize(args.masks) > _QUICKLY_READ:
            wrong.end()
        file = wrong.of(load_mask_json, args.masks, args.images_json)
        if file and os.path.isdir(args.images):
            entries = wrong.of(mask_entries, file, args.images)
        wrong.end()
        ready = [entry.stem for entry in entries[: args.limit] if not entry.skipped]
        shown = frozenset(spread(ready, args.report_images))
        entries = [replace(entry, pictured=entry.stem in shown) for entry in entries]
        job = cls(cfg, args.images, file, args.output, entries, args.save_edges)
        # Before hours of work.
        masks = sum(len(entry.masks) for entry in entries)
        usable = sum(not entry.skipped for entry in entries)
        say(f"{file.path}: {masks} masks to refine in {usable} of {len(file.images)} images")
        for line in file.findings.lines():
            say(f"note: {line}")
        absent = [entry.skipped for entry in entries if entry.skipped and not entry.edge_stems]
        if absent:
            say(f"note: {len(absent)} images are skipped; first: {absent[0]}")
        return job

    def prepare(self, left: Sequence[MaskEntry], workers: int, progress: bool) -> None:
        path = self.store.root / _LEFT_OUT
        with writing_to(self.store.root), atomic_file(path) as file:
            for annotation in self.file.findings.left_out:
                file.write((json.dumps(annotation) + "\n").encode("ascii"))
        super().prepare(left, workers, progress)

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
        self._decode(entry, self.load(entry).photograph)

    def count_edges(self, statistics: EdgeStatistics, entry: MaskEntry, inputs: Inputs) -> None:
        assert inputs.edges is not None
        try:
            _, given, _ = self._decode(entry, inputs.photograph)
        except ValueError:  # it will fail, and be recorded then
            return
        statistics.add_masks(given, inputs.edges)

    def make(self, entry: MaskEntry, inputs: Inputs) -> RefinedMasks:
        """The refined masks of ``entry``, category by category; without edges they only merge.

        Raises:
            ValueError: the masks do not fit the image, or none of them has a pixel.
        """
        kept, given, notes = self._decode(entry, inputs.photograph)
        scored = kept[0].score is not None
        parts, categories, scores = [], [], []
        for category in sorted({mask.category_id for mask in kept}):
            own = [rank for rank, mask in enumerate(kept) if mask.category_id == category]
            strengths = np.array([kept[rank].score for rank in own]) if scored else None
            if inputs.edges is None:
                iou = self.cutter.settings.merge_iou
                refined = merge_masks(given[own], strengths, iou_threshold=iou)
            else:
                refined = self.cutter(given[own], inputs.edges, strengths)
            parts.append(refined.masks)
            categories += [category] * len(refined.masks)
            scores += refined.scores.tolist()
        masks = np.concatenate(parts)
        given_categories = [mask.category_id for mask in kept]
        return RefinedMasks(
            given, given_categories, masks, categories, scores if scored else None, notes
        )

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
        for key, masks, categories in (
            ("given", result.given, result.given_categories),
            ("refined", result.masks, result.categories),
        ):
            maps[key] = stacked(masks, pixels.shape[:2])
            named[key] = {rank: names[one] for rank, one in enumerate(categories, start=1)}
        scores = {rank: f"score {s:.2f}" for rank, s in enumerate(result.scores or (), start=1)}
        refined = colored(maps["refined"], named["refined"], {}, scores)
        given = following(maps["given"], named["given"], refined)
        panes = {"given": given, "refined": refined}
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
        given, refined = (
            sum(record.facts[name] for record in outcome.finished) for name in ("given", "segments")
        )
        return cls.trust_page(
            outcome,
            "Refined masks",
            _PANES,
            lambda facts: [f"{facts['given']} masks given, {facts['segments']} refined"],
            [("Masks", outcome.settings.get("masks", ""))],
            cards=[("masks given", f"{given:,}"), ("refined masks", f"{refined:,}")],
            tables=[_left_out(outcome.store)],
            legend="refined",
            measures=[
                Measure("masks added by edges", _added),
                Measure("slivers added by edges", _added_slivers),
                Measure("slivers", lambda record: record.facts.get("slivers", 0), False),
                Measure("refined masks", lambda record: record.facts["segments"], False),
            ],
        )

    def _decode(
        self, entry: MaskEntry, photograph: Photograph
    ) -> tuple[list[GivenMask], np.ndarray, tuple[str, ...]]:
        """The annotations that have pixels, their masks (K, H, W) bool, and remarks."""
        height, width = photograph.pixels.shape[:2]
        name = f"{self.masks}: a mask of {entry.file_name}"
        kept: list[GivenMask] = []
        notes: list[str] = []
        if entry.size is not None and not all(_is_polygons(mask) for mask in entry.masks):
            # Before masks of another size are decoded.
            fit_to_photograph(np.broadcast_to(np.False_, entry.size), photograph, name)
        needed = len(entry.masks) * height * width / 2**30
        if needed > _MOST_GIB:
            raise ValueError(
                f"{len(entry.masks)} masks of {entry.file_name} at {width}x{height} pixels need "
                f"{needed:.1f} GiB at once, more than {_MOST_GIB}: give fewer masks of it, or a "
                "smaller image"
            )
        masks = np.empty((len(entry.masks), height, width), bool)
        for given in entry.masks:
            size = entry.size
            if size is None or _is_polygons(given):
                size = (height, width)
            try:
                mask = decode_segmentation(given.segmentation, *size)
            except SegmentationError as error:
                notes.append(f"annotation no. {given.number} is left out: {error}")
                continue
            mask, remarks = fit_to_photograph(mask, photograph, name)
            if not mask.any():
                notes.append(f"annotation no. {given.number} is left out: its mask is empty")
                continue
            notes += [remark for remark in remarks if remark not in notes]
            masks[len(kept)] = mask
            kept.append(given)
        if not kept:
            raise ValueError(f"no mask of {entry.file_name} has a pixel in it: {notes[0]}")
        return kept, masks[: len(kept)], tuple(notes)


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
        f"{outcome.store.settings_path} is damaged (its categories are no list): restore it, or "
        "choose another --output"
    )


def _is_polygons(mask: GivenMask) -> bool:
    return isinstance(mask.segmentation, list)


def _left_out(store: JobStore) -> Table:
    path = store.root / _LEFT_OUT
    lines = path.read_bytes().splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            one = json.loads(line)
            name = f"no. {shown(one['number'])} (id {shown(one['annotation_id'])})"
            rows.append((name, shown(one["reason"])))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedFileError(
                f"{path} is damaged in line {number} ({error}): run the job again, which writes it "
                "anew"
            ) from error
    return Table("Annotations left out", rows, ("Annotation", "Why"), _LEFT_OUT)


def mask_entries(file: MaskFile, images: str | Path) -> list[MaskEntry]:
    """The images of ``file``, in sorted order of stems, with where they lie below ``images``.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: none of the images with masks is there.
    """
    names = {image.image_id: image.file_name for image in file.images}
    paths, absent = locate_images(names, images)
    if not any(image.masks and image.image_id in paths for image in file.images):
        first = next(image.file_name for image in file.images if image.masks)
        raise ValueError(
            f"none of the {len(file.images)} images of {file.path} is in {images} (the first is "
            f"{first}): correct --images"
        )
    present = [path for key, path in paths.items() if key not in absent]
    stems = Counter(map(_stem, present))
    basenames = Counter(PurePosixPath(path).stem for path in present)
    entries = []
    for image in file.images:
        key, name = image.image_id, image.file_name
        if key in absent:
            listed = _listed_name(name)
            entries.append(MaskEntry(listed, listed, key, skipped=absent[key]))
            continue
        path = paths[key]
        # Without ending, unless another image has that stem too.
        entry = MaskEntry(_stem(path) if stems[_stem(path)] == 1 else path, path, key)
        basename = PurePosixPath(path).stem
        edge_stems = dict.fromkeys([_stem(path), *([basename] if basenames[basename] == 1 else [])])
        entries.append(_with_masks(entry, image, tuple(edge_stems)))
    return sorted(entries, key=lambda entry: entry.stem)


def _with_masks(entry: MaskEntry, image: MaskImage, edge_stems: tuple[str, ...]) -> MaskEntry:
    remarks = tuple(image.left_out[:_MOST_REMARKS])
    more = len(image.left_out) - len(remarks)
    if more:
        remarks += (f"and {more} more are left out",)
    return replace(
        entry,
        masks=tuple(image.masks),
        size=image.size,
        skipped="" if image.masks else "\n".join(("no mask to refine", *remarks)),
        remarks=remarks,
        edge_stems=edge_stems,
    )


def _listed_name(name: str) -> str:
    """``name`` of an image that is not there, for the journal; quoted if it leads elsewhere."""
    try:
        return check_name(name)
    except ValueError:
        return quote(name, safe="")


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))
