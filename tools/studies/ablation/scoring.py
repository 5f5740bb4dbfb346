"""Scores of edges on scenes: against true boundaries, and through what they are used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from trace_d2.evaluation.edge_metrics import EdgeCounts, edge_counts, edge_scores, even_thresholds
from trace_d2.evaluation.edges import truth_boundaries
from trace_d2.evaluation.instances import class_agnostic_ap
from trace_d2.evaluation.panoptic import summarize
from trace_d2.evaluation.segment_matching import image_counts
from trace_d2.io.coco_panoptic import (
    encode_mask,
    image_entry,
    instance_annotations,
    segments_info,
)
from trace_d2.labels.panoptic import PanopticLabeler
from trace_d2.propagation import BoundaryGuidedPropagation
from trace_d2.scenes.dataset import scene_categories
from trace_d2.scenes.procedural import Scene, make_scene

SERIES = 0
"""The held-out scenes; trace-tiny was trained on series 1, students are on series 11."""


@dataclass(frozen=True)
class HeldOut:
    """A scene and all its truth."""

    image_id: int  # its number in the series
    scene: Scene
    segments: list[dict[str, Any]]  # COCO ``segments_info``
    boundaries: np.ndarray  # (H, W) bool, one pixel wide
    merged: np.ndarray  # (K, H, W) bool, the connected parts of all things

    @property
    def key(self) -> str:
        """The name of the scene, which fixes its noise."""
        return f"scene_{self.image_id:06d}"


def held_out(index: int, side: int, series: int = SERIES) -> HeldOut:
    """Scene ``index`` of a series, ``side`` x ``side`` pixels, with its truth."""
    scene = make_scene(series, index, (side, side))
    things = [category.id for category in scene_categories() if category.isthing]
    labels, count = ndimage.label(np.isin(scene.semantic(), things))
    return HeldOut(
        index,
        scene,
        segments_info(scene.segment_ids, dict(enumerate(scene.category_ids, start=1))),
        truth_boundaries(scene.segment_ids),
        labels == np.arange(1, count + 1)[:, None, None],
    )


@dataclass(frozen=True)
class ImageScore:
    """What one image adds to a row."""

    counts: EdgeCounts
    panoptic: np.ndarray  # (C, 4), see ``image_counts``
    masks: list[dict[str, Any]]  # COCO results of the merged masks, refined
    strength: tuple[float, float]  # the mean on true boundaries, and elsewhere


class Judge:
    """Scores the edges of an image as labels, as masks and as edges, by the rules of a config."""

    def __init__(self, cfg: Any, thresholds: int) -> None:
        self.categories = scene_categories()
        self.rows = {category.id: row for row, category in enumerate(self.categories)}
        self.labeler = PanopticLabeler.from_config(cfg, self.categories)
        self.propagation = BoundaryGuidedPropagation.from_config(cfg)
        self.share_power = cfg.MODEL.TRACE.POSTPROCESSOR.SHARE_POWER
        self.thresholds = even_thresholds(thresholds)

    def __call__(self, truth: HeldOut, edges: np.ndarray | None) -> ImageScore:
        """Score ``edges`` (H, W) float32 in 0..1; None: there are none."""
        label = self.labeler(truth.scene.semantic(), edges)
        segments = [{"id": s.id, "category_id": s.category_id} for s in label.segments]
        strengths = np.zeros(truth.boundaries.shape, np.float32) if edges is None else edges
        return ImageScore(
            edge_counts(strengths, truth.boundaries, thresholds=self.thresholds),
            image_counts(
                truth.scene.segment_ids, truth.segments, label.segment_ids, segments, self.rows
            ),
            self._masks(truth, edges),
            (float(strengths[truth.boundaries].mean()), float(strengths[~truth.boundaries].mean())),
        )

    def _masks(self, truth: HeldOut, edges: np.ndarray | None) -> list[dict[str, Any]]:
        """The merged masks refined; scored as the post-processor does, by their share of a mask."""
        masks, scores = truth.merged, np.ones(len(truth.merged))
        if edges is not None and len(masks):
            found = self.propagation(masks, edges)
            shares = found.masks.sum((1, 2)) / masks.sum((1, 2))[found.sources]
            masks, scores = found.masks, np.minimum(shares, 1) ** self.share_power
        return [
            {"image_id": truth.image_id, "score": float(score), "segmentation": encode_mask(mask)}
            for mask, score in zip(masks, scores, strict=True)
        ]

    def total(self, truth: Sequence[HeldOut], scores: Sequence[ImageScore]) -> dict[str, float]:
        """The metrics of the report in 0..1 over the images of ``truth``.

        Besides: the threshold of ODS, and the mean strength on boundaries and off them.
        """
        edges = edge_scores([one.counts for one in scores])
        counts = np.sum([one.panoptic for one in scores], axis=0)
        masks = [mask for one in scores for mask in one.masks]
        found = class_agnostic_ap(_instances(truth), masks, ["segm"])
        on, off = np.mean([one.strength for one in scores], axis=0).tolist()
        return {
            "ods": edges.ods,
            "ods_threshold": edges.ods_threshold,
            "ois": edges.ois,
            "cldice": edges.cldice,
            "pq_th": summarize(counts, self.categories, len(truth)).things.pq,
            "ap": found.scores["segm"]["AP"],
            "on": on,
            "off": off,
        }


def _instances(truth: Sequence[HeldOut]) -> dict[str, Any]:
    """The things of the scenes as COCO instances."""
    annotations: list[dict[str, Any]] = []
    for one in truth:
        ids = one.scene.segment_ids
        annotations += instance_annotations(
            ids, one.segments, scene_categories(), one.image_id, len(annotations) + 1
        )
    images = [
        image_entry(one.image_id, f"{one.image_id}.png", *one.boundaries.shape) for one in truth
    ]
    return {"images": images, "annotations": annotations}
