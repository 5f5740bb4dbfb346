"""Masks of a job, one image at a time: cut along edges, propagated and merged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from trace_d2.io.coco_masks import GivenMask
from trace_d2.io.edge_maps import edge_paths, find_edges, has_edges
from trace_d2.io.images import Inputs, Photograph, fit_to_photograph, read_image
from trace_d2.io.mask_rle import SegmentationError, decode_segmentation, text_rle
from trace_d2.jobs.image_job import ImageJob, files_print
from trace_d2.jobs.journal import Record
from trace_d2.jobs.kinds.refine_inputs import MaskEntry
from trace_d2.jobs.kinds.refine_store import RefinedStore
from trace_d2.jobs.pictures import make_mask_pictures
from trace_d2.jobs.settings import NO_EDGES, Settings
from trace_d2.jobs.store import MergeResult
from trace_d2.propagation import (
    BoundaryGuidedPropagation,
    merge_masks,
)
from trace_d2.propagation.calibration import (
    EdgeCalibration,
    EdgeStatistics,
    paint_masks,
)


@dataclass(frozen=True)
class RefineSettings(Settings):
    """All that decides what refined masks are, besides the masks themselves.

    Attributes:
        masks: the file of masks.
        categories: COCO ``categories``, as the file has them.
    """

    nodes = ("BGP",)

    masks: Path
    categories: tuple[dict[str, Any], ...]

    def own_json(self) -> dict[str, Any]:
        """The file of masks and the categories."""
        return {"masks": str(self.masks.resolve()), "categories": list(self.categories)}


@dataclass(frozen=True)
class RefinedMasks:
    """What was made of the masks of one image.

    Attributes:
        given: (K, H, W) bool, the masks it was made from.
        masks: (N, H, W) bool; they may overlap.
        categories: (N,) category ids.
        scores: (N,) confidences; None if the given masks have none.
        notes: remarks for the journal.
    """

    given: np.ndarray
    masks: np.ndarray
    categories: list[int]
    scores: list[float] | None
    notes: tuple[str, ...]


class RefineJob(ImageJob[MaskEntry, Inputs, RefinedMasks]):
    """Refines the masks of images one by one.

    Args:
        settings: what decides the masks.
        output: the COCO file to write.
        save_edges: keep the edges as well.
    """

    settings: RefineSettings
    store: RefinedStore

    def __init__(self, settings: RefineSettings, output: str | Path, save_edges: bool) -> None:
        super().__init__(settings, RefinedStore(output), save_edges)
        self.propagation = BoundaryGuidedPropagation.from_config(settings.cfg)

    def inputs_print(self, entry: MaskEntry) -> str:
        """A text that changes with the image, its edge file (size or time) or its annotations."""
        paths = [self.settings.images / entry.file_name]
        folder = self.settings.edges_folder
        if folder is not None:
            for stem in entry.edge_stems:
                paths += edge_paths(folder, stem)
        masks = [(mask.category_id, mask.segmentation, mask.score) for mask in entry.masks]
        return files_print(paths, masks, entry.size, entry.skipped)

    def skip_reason(self, entry: MaskEntry) -> str:
        """Why there is nothing to refine; empty if there is."""
        return entry.skipped

    def load(self, entry: MaskEntry) -> Inputs:
        """The photograph and, where given, its edges."""
        photograph = read_image(self.settings.images / entry.file_name)
        inputs = Inputs(photograph, None, entry.remarks)
        folder = self.settings.edges_folder
        if folder is None:
            return inputs
        for stem in entry.edge_stems[:-1]:
            if has_edges(folder, stem):
                return inputs.with_edge_file(find_edges(folder, stem))
        return inputs.with_edge_file(find_edges(folder, entry.edge_stems[-1]))

    @property
    def calibrates(self) -> bool:
        """Whether there are edges and masks hang on what their strengths mean."""
        return self.settings.edges != NO_EDGES and self.propagation.settings.cut == "basins"

    def use_calibration(self, calibration: EdgeCalibration | None) -> None:
        """Cut with ``calibration``."""
        self.propagation.calibration = calibration

    def count_edges(self, statistics: EdgeStatistics, entry: MaskEntry, inputs: Inputs) -> None:
        """Count outlines and insides of the given masks."""
        if inputs.edges is None:
            return
        try:
            _, given, _ = _decode(entry, inputs.photograph, str(self.settings.masks))
        except ValueError:  # it will fail, and be recorded then
            return
        labels = paint_masks(list(given), given.shape[1:])
        statistics.add(labels, labels > 0, inputs.edges)

    def make(self, entry: MaskEntry, inputs: Inputs) -> RefinedMasks:
        """The refined masks of ``entry``, category by category; without edges they only merge.

        Raises:
            ValueError: the masks do not fit the image, or none of them has a pixel.
        """
        kept, given, notes = _decode(entry, inputs.photograph, str(self.settings.masks))
        scored = kept[0].score is not None
        parts, categories, scores = [], [], []
        for category in sorted({mask.category_id for mask in kept}):
            own = [rank for rank, mask in enumerate(kept) if mask.category_id == category]
            strengths = np.array([kept[rank].score for rank in own]) if scored else None
            if inputs.edges is None:
                iou = self.propagation.settings.merge_iou
                refined = merge_masks(given[own], strengths, iou_threshold=iou)
            else:
                refined = self.propagation(given[own], inputs.edges, strengths)
            parts.append(refined.masks)
            categories += [category] * len(refined.masks)
            scores += refined.scores.tolist()
        masks = np.concatenate(parts)
        return RefinedMasks(given, masks, categories, scores if scored else None, notes)

    def write(self, entry: MaskEntry, inputs: Inputs, result: RefinedMasks) -> None:
        """Write annotations and, for the report page, pictures."""
        if entry.pictured:
            pictures = make_mask_pictures(
                inputs.photograph.pixels, result.given, inputs.edges, result.masks
            )
            self.store.write_preview(entry.stem, pictures)
        height, width = result.given.shape[1:]
        self.store.write_masks(entry.stem, (height, width), coco_annotations(result))

    def describe(self, record: Record, result: RefinedMasks) -> Record:
        """``record`` with the numbers of masks."""
        return replace(
            record,
            segments=len(result.masks),
            things=len(result.masks),
            given=len(result.given),
            notes=(*record.notes, *result.notes),
        )

    def merge(self) -> MergeResult:
        """Join the masks to the COCO file and the report page."""
        return self.store.merge()


def coco_annotations(result: RefinedMasks) -> list[dict[str, Any]]:
    """COCO annotations of refined masks, without id and image_id: compressed RLE, as text."""
    stack = np.asfortranarray(result.masks.transpose(1, 2, 0).astype(np.uint8))
    encoded = coco_mask.encode(stack)
    boxes, areas = coco_mask.toBbox(encoded).tolist(), coco_mask.area(encoded).tolist()
    annotations = []
    for rank, rle in enumerate(encoded):
        annotation = {
            "category_id": result.categories[rank],
            "bbox": boxes[rank],
            "area": areas[rank],
            "iscrowd": 0,
            "segmentation": text_rle(rle),
        }
        if result.scores is not None:
            annotation["score"] = result.scores[rank]
        annotations.append(annotation)
    return annotations


def _decode(
    entry: MaskEntry, photograph: Photograph, origin: str
) -> tuple[list[GivenMask], np.ndarray, tuple[str, ...]]:
    """The annotations that have pixels, their masks (K, H, W) bool, and remarks."""
    height, width = photograph.pixels.shape[:2]
    name = f"{origin}: a mask of {entry.file_name}"
    kept, masks, notes = [], [], []
    for given in entry.masks:
        polygon = isinstance(given.segmentation, list)
        size = (height, width) if polygon or entry.size is None else entry.size
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
        kept.append(given)
        masks.append(mask)
    if not kept:
        raise ValueError(f"no mask of {entry.file_name} has a pixel in it: {notes[0]}")
    return kept, np.stack(masks), tuple(notes)
