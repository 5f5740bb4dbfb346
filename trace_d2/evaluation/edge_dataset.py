"""Edges of a whole data set against COCO panoptic truth, image by image over processes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trace_d2.io.coco_panoptic import PanopticSet, load_panoptic_json, read_panoptic_png
from trace_d2.parallel import ordered_map

from .edge_metrics import (
    MAX_DISTANCE,
    THRESHOLDS,
    EdgeCounts,
    EdgeScores,
    edge_counts,
    edge_scores,
)
from .edge_sources import EdgesToScore
from .edge_truth import VOID_BOUNDARIES, thing_instances, truth_boundaries

# To start a process takes as long as to count some ten photographs.
_IMAGES_A_WORKER = 10


@dataclass(frozen=True)
class EdgeSettings:
    """What the scores depend on besides edges and truth.

    Attributes:
        thresholds: ascending, in (0, 1].
        max_distance: share of the diagonal.
        cldice_distance: share of the diagonal; None: ``max_distance``.
        void: one of ``VOID_BOUNDARIES``.
        truth_kind: one of ``TRUTH_KINDS``.
    """

    thresholds: tuple[float, ...] = tuple(THRESHOLDS.tolist())
    max_distance: float = MAX_DISTANCE
    cldice_distance: float | None = None
    void: str = VOID_BOUNDARIES[0]
    truth_kind: str = "panoptic"

    def count(
        self,
        edges: np.ndarray,
        segment_ids: np.ndarray,
        origin: str,
        things: Collection[int] | None = None,
    ) -> EdgeCounts:
        """Counts of ``edges`` against a panoptic map.

        Args:
            edges: (H, W) floating point in 0..1.
            segment_ids: (H, W) integers, 0 = void.
            origin: where the edges are from, for messages.
            things: ids of the thing instances, for ``truth_kind`` ``"things"``.

        Raises:
            ValueError: the sizes differ, with origin and remedy in the message; or
                ``truth_boundaries`` refuses the truth.
        """
        if edges.shape != segment_ids.shape:
            height, width = segment_ids.shape
            raise ValueError(
                f"{origin} gives edges of {edges.shape[1]} x {edges.shape[0]} pixels, the truth "
                f"has {width} x {height}: make them at the size of the image, or resize them"
            )
        return edge_counts(
            edges,
            truth_boundaries(segment_ids, self.void, self.truth_kind, things),
            thresholds=np.array(self.thresholds),
            max_distance=self.max_distance,
            cldice_distance=self.cldice_distance,
        )


@dataclass(frozen=True)
class EdgeEvaluation:
    """The result over a data set.

    Attributes:
        scores: of all images together.
        counts: of each image, by the stem of its file.
        settings: what they were counted with.
        missing: stems that had no edges and were left out.
    """

    scores: EdgeScores
    counts: dict[str, EdgeCounts]
    settings: EdgeSettings
    missing: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON: settings, scores in 0..1 and the counts of every image."""
        return {
            "settings": vars(self.settings),
            "scores": self.scores.to_dict(),
            "images": {stem: one.to_dict() for stem, one in self.counts.items()},
            "missing": list(self.missing),
        }


def evaluate_edges(
    source: EdgesToScore,
    truth_json: str | Path,
    truth_dir: str | Path,
    settings: EdgeSettings | None = None,
    *,
    workers: int = 1,
    allow_missing: bool = False,
    progress: bool = False,
) -> EdgeEvaluation:
    """Score edges against the boundaries of panoptic truth, or of its things.

    Args:
        source: the edges. Those of images that the truth lacks are not looked at.
        truth_json: COCO panoptic JSON.
        truth_dir: folder of the PNGs that its annotations name. Edges are named after the images;
            a JSON without a list of images is taken to name its PNGs after them.
        settings: None: those of BSDS.
        workers: processes at most; 0: one a CPU. Less than 20 images run in this process. Others
            import the main module anew, which must keep its work under
            ``if __name__ == "__main__"``. The result does not depend on it.
        allow_missing: leave images without edges out instead of refusing.
        progress: show a progress bar.

    Raises:
        FileNotFoundError, ValueError: a file is missing or wrong; the message names it.
    """
    truth = load_panoptic_json(truth_json)
    if not Path(truth_dir).is_dir():
        raise FileNotFoundError(f"no folder of panoptic PNGs at {truth_dir}; correct the path")
    files = _files_by_stem(truth)
    absent = source.missing(files)
    _check_missing(absent, len(files), truth, allow_missing)
    skipped = frozenset(absent)
    settings = settings or EdgeSettings()
    things = _things_by_file(truth) if settings.truth_kind == "things" else {}
    tasks = [
        (stem, Path(truth_dir) / name, things.get(name))
        for stem, name in files.items()
        if stem not in skipped
    ]
    job = partial(_count_image, source, settings)
    results = ordered_map(
        job,
        tasks,
        workers,
        items_a_worker=_IMAGES_A_WORKER,
        description="edges",
        progress=progress,
    )
    counts = {stem: one for (stem, *_), one in zip(tasks, results, strict=True)}
    return EdgeEvaluation(edge_scores(list(counts.values())), counts, settings, tuple(absent))


def _files_by_stem(truth: PanopticSet) -> dict[str, str]:
    names = {image["id"]: image["file_name"] for image in truth.images if "file_name" in image}
    files: dict[str, str] = {}
    for image_id, annotation in truth.annotations.items():
        stem = Path(names.get(image_id, annotation["file_name"])).stem
        if stem in files:
            raise ValueError(
                f"{truth.path}: {files[stem]} and {annotation['file_name']} share a stem, so their "
                "edges cannot be told apart: rename one"
            )
        files[stem] = annotation["file_name"]
    return files


def _things_by_file(truth: PanopticSet) -> dict[str, frozenset[int]]:
    """Ids of the thing instances in each PNG."""
    isthing = {category.id: category.isthing for category in truth.categories}
    found = {}
    for annotation in truth.annotations.values():
        segments = annotation["segments_info"]
        unknown = {segment["category_id"] for segment in segments} - set(isthing)
        if unknown:
            raise ValueError(
                f'{truth.path}: "categories" lacks {sorted(unknown)[:5]}, so things cannot be told '
                "from stuff: add them there"
            )
        found[annotation["file_name"]] = thing_instances(
            {**segment, "isthing": isthing[segment["category_id"]]} for segment in segments
        )
    return found


def _check_missing(absent: list[str], total: int, truth: PanopticSet, allowed: bool) -> None:
    if not total:
        raise ValueError(f"{truth.path} has no annotations: give the truth of one image at least")
    shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    if len(absent) == total:
        raise ValueError(
            f"there are no edges of any of the {total} images of {truth.path} ({shown}); edges are "
            "named after the images: are they of one data set?"
        )
    if absent and not allowed:
        raise ValueError(
            f"there are no edges of {len(absent)} of {total} images ({shown}); make them, or "
            "leave the images out (--allow-missing)"
        )


def _count_image(
    source: EdgesToScore, settings: EdgeSettings, task: tuple[str, Path, Collection[int] | None]
) -> EdgeCounts:
    stem, truth_file, things = task
    edges, origin = source.read(stem)
    return settings.count(edges, read_panoptic_png(truth_file), origin, things)
