"""Edges of a whole data set against COCO panoptic truth, image by image over processes.

True edges are the boundaries between segments, one pixel wide.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trace_d2.edges.sources import EdgeSource
from trace_d2.io.agreement import Disagreement, check_segments, warn_of_disagreements
from trace_d2.io.coco_panoptic import VOID, PanopticSet, load_panoptic_json, read_panoptic_png
from trace_d2.io.edge_maps import (
    INVERTED,
    SCALE,
    edge_size,
    edge_stems,
    find_edges,
    looks_inverted,
    read_edges,
)
from trace_d2.io.images import read_image
from trace_d2.io.listing import list_images
from trace_d2.io.paths import file_below
from trace_d2.io.png import read_png_header
from trace_d2.io.regions import check_map
from trace_d2.io.subfolders import counterparts
from trace_d2.parallel import ordered_map

from .edge_metrics import (
    MAX_DISTANCE,
    THRESHOLDS,
    EdgeCounts,
    EdgeScores,
    edge_counts,
    edge_scores,
)

logger = logging.getLogger(__name__)

# To start a process takes as long as to count some ten photographs.
_IMAGES_A_WORKER = 10

VOID_BOUNDARIES = ("count", "ignore")
"""Boundaries of segments against void: they are truth; or void bounds nothing."""

TRUTH_KINDS = {
    "panoptic": "boundaries of all segments",
    "things": "outlines of thing instances",
}
"""What is truth, with its name in reports."""


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
        """``edge_counts`` of ``edges``, from ``origin``, and ``truth_boundaries`` of a map."""
        _check_sizes(edges.shape[::-1], segment_ids.shape[::-1], origin)
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
        counts: of each image, by its ``image_stem``.
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
    folder: str | Path,
    truth_json: str | Path,
    truth_dir: str | Path,
    settings: EdgeSettings | None = None,
    *,
    source: EdgeSource | None = None,
    workers: int = 1,
    allow_missing: bool = False,
    progress: bool = False,
) -> EdgeEvaluation:
    """Score edges against the boundaries of panoptic truth, or of its things.

    Args:
        folder: of ``<stem>.png`` or ``<stem>.npy``, as ``trace_d2.io.edge_maps`` reads them; with
            ``source``, of images. Those that the truth lacks are not looked at. Sub-folders are
            those of the truth's images, or none.
        truth_json: COCO panoptic JSON.
        truth_dir: folder of the PNGs that its annotations name. Edges are named after the images;
            a JSON without a list of images is taken to name its PNGs after them.
        settings: None: those of BSDS.
        source: finds the edges in the images of ``folder``; goes to other processes by pickle.
        workers: processes at most, see ``ordered_map``; less than 20 images run in this one. The
            result does not depend on it.
        allow_missing: leave images without edges out instead of refusing.
        progress: show a progress bar.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: a file or folder is missing or wrong; the
            message names it.
    """
    truth = load_panoptic_json(truth_json)
    if not Path(truth_dir).is_dir():
        raise FileNotFoundError(f"no folder of panoptic PNGs at {truth_dir}; correct the path")
    ids = truth.by_stem()
    paths = _paths_by_stem(Path(folder), ids, images=source is not None)
    absent = [stem for stem in ids if stem not in paths]
    _check_missing(absent, len(ids), truth, allow_missing)
    settings = settings or EdgeSettings()
    by_id = {ids[stem]: path for stem, path in paths.items()}
    results = ordered_map(
        partial(_count_image, source, settings),
        _tasks(truth, Path(truth_dir), by_id, settings),
        workers,
        items_a_worker=_IMAGES_A_WORKER,
        description="edges",
        progress=progress,
    )
    each, disagreements, inverted = zip(*results, strict=True)
    counts = dict(zip(paths, each, strict=True))
    warn_of_disagreements(str(truth.path), dict(zip(by_id, disagreements, strict=True)))
    if not any(one.truth for one in each):
        raise ValueError(
            f"{truth.path}: the truth ({TRUTH_KINDS[settings.truth_kind]}) has no pixel in any of "
            f"{len(each)} images, so there is nothing to find: give another truth or --truth-kind"
        )
    _warn_of_blunt(counts)
    _warn_of_inverted([stem for stem, yes in zip(paths, inverted, strict=True) if yes], len(each))
    return EdgeEvaluation(edge_scores(each), counts, settings, tuple(absent))


class _Task(NamedTuple):
    """What there is to count of one image; its size (H, W) where the truth tells."""

    path: Path  # of its edges, or of itself
    truth_file: Path
    size: tuple[int, int] | None
    segments: list[dict[str, Any]]
    things: Collection[int] | None


def _tasks(
    truth: PanopticSet, truth_dir: Path, paths: Mapping[Any, Path], settings: EdgeSettings
) -> list[_Task]:
    """A task for each of ``paths``, which are of edges, or of images, by image id."""
    things = _things_by_image(truth) if settings.truth_kind == "things" else {}
    tasks = []
    for image_id, path in paths.items():
        annotation, size = truth.annotations[image_id], truth.sizes.get(image_id)
        truth_file = file_below(truth_dir, annotation["file_name"])
        segments = annotation["segments_info"]
        tasks.append(_Task(path, truth_file, size, segments, things.get(image_id)))
    return tasks


def truth_boundaries(
    segment_ids: np.ndarray,
    void: str = "count",
    kind: str = "panoptic",
    things: Collection[int] | None = None,
) -> np.ndarray:
    """Boundaries between segments, thinned to lines one pixel wide.

    A pixel is on a boundary where its right or lower neighbour is of another segment, as in the
    oracle edges. The frame of the image is no boundary.

    Args:
        segment_ids: (H, W) integers, 0 = void.
        void: ``"count"``: a boundary against void is one, as the segment does end there; only what
            lies behind it is unknown. In COCO, two fifths of all boundaries are of that kind.
            ``"ignore"``: only boundaries between two segments are truth, and edges found
            elsewhere, those of segments against void too, count as false.
        kind: ``"panoptic"``: all segments have boundaries. ``"things"``: only instances have, each
            against whatever lies beside it; where neither side is an instance, as between two
            segments of stuff, there is no truth, and edges found there count as false.
        things: ids of the instances, which ``kind`` ``"things"`` needs and the other does not
            look at.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: ``segment_ids`` is not (H, W) of integers, ``void`` or ``kind`` is unknown, or
            ``things`` is missing.
    """
    from .edge_pixels import thin  # with numba

    check_map(segment_ids, "segment ids are (H, W) integers")
    if void not in VOID_BOUNDARIES:
        raise ValueError(f"void={void!r}; choose one of {', '.join(VOID_BOUNDARIES)}")
    bounded = _bounded(segment_ids, kind, things)
    boundary = np.zeros(segment_ids.shape, bool)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differs = segment_ids[here] != segment_ids[there]
        if void == "ignore":
            differs &= (segment_ids[here] != VOID) & (segment_ids[there] != VOID)
        boundary[here] |= differs & (bounded[here] | bounded[there])
    return thin(boundary)


def _bounded(segment_ids: np.ndarray, kind: str, things: Collection[int] | None) -> np.ndarray:
    """Bool (H, W): pixels of the segments that have boundaries, see ``truth_boundaries``."""
    if kind not in TRUTH_KINDS:
        raise ValueError(f"kind={kind!r}; choose one of {', '.join(TRUTH_KINDS)}")
    if kind == "panoptic":
        return np.asarray(segment_ids != VOID)
    if things is None:
        raise ValueError('kind="things" needs the ids of the instances: give things')
    return np.isin(segment_ids, list(things))


def thing_instances(segments: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    """Ids of the things among ``{id, isthing[, iscrowd]}``; a crowd region is no instance."""
    return frozenset(s["id"] for s in segments if s["isthing"] and not s.get("iscrowd", 0))


def _paths_by_stem(folder: Path, stems: Collection[str], images: bool) -> dict[str, Path]:
    """The image, or the edge file, of each stem that has one."""
    if images:
        names = list_images(folder)
        found = counterparts(stems, names)
        return {stem: folder / names[other] for stem, other in found.items()}
    if not folder.is_dir():
        raise NotADirectoryError(f"no folder of edges at {folder}: correct the path")
    found = counterparts(stems, edge_stems(folder))
    return {stem: find_edges(folder, other) for stem, other in found.items()}


def things_of_records(
    records: Iterable[Mapping[str, Any]], dataset_name: str
) -> dict[str, frozenset[int]]:
    """Thing instances of each image, by its file; raises ValueError if a record does not tell.

    The records are those of the registered data set, as mappers leave ``segments_info`` out.
    """
    found = {}
    for record in records:
        name, segments = str(record["file_name"]), record.get("segments_info")
        if segments is None or any("isthing" not in segment for segment in segments):
            raise ValueError(
                f"{dataset_name!r}: the record of {name} has no segments_info with isthing, so "
                'things cannot be told from stuff; evaluate with truth_kind="panoptic"'
            )
        found[name] = thing_instances(segments)
    return found


def _things_by_image(truth: PanopticSet) -> dict[Any, frozenset[int]]:
    """Ids of the thing instances of each image."""
    isthing = {category.id: category.isthing for category in truth.categories}
    found = {}
    for image_id, annotation in truth.annotations.items():
        segments = annotation["segments_info"]
        unknown = {segment["category_id"] for segment in segments} - set(isthing)
        if unknown:
            raise ValueError(
                f'{truth.path}: "categories" lacks {sorted(unknown)[:5]}, so things cannot be told '
                "from stuff: add them there"
            )
        found[image_id] = thing_instances(
            {**segment, "isthing": isthing[segment["category_id"]]} for segment in segments
        )
    return found


def _check_sizes(edges: tuple[int, ...], truth: tuple[int, ...], origin: str) -> None:
    """Raise a ValueError unless the sizes, width and height in pixels, are one."""
    if edges != truth:
        raise ValueError(
            f"{origin} gives edges of {edges[0]} x {edges[1]} pixels, the truth has {truth[0]} x "
            f"{truth[1]}: make them at the size of the image, or resize them"
        )


def _warn_of_blunt(counts: Mapping[str, EdgeCounts]) -> None:
    """Say how many images have no edge at any threshold, of those that should have some."""
    blunt = [stem for stem, one in counts.items() if one.truth and not one.predictions.any()]
    if blunt:
        logger.warning(
            "%d of %d images have no edge at any threshold, such as %s: %s",
            len(blunt),
            len(counts),
            blunt[0],
            SCALE,
        )


def _warn_of_inverted(stems: Sequence[str], total: int) -> None:
    if stems:
        logger.warning(
            "in %d of %d edge maps most pixels are edges, such as %s: %s",
            len(stems),
            total,
            stems[0],
            INVERTED,
        )


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
    source: EdgeSource | None, settings: EdgeSettings, task: _Task
) -> tuple[EdgeCounts, Disagreement, bool]:
    """Counts of an image, how its truth disagrees, and whether its edge map looks inverted."""
    path, truth_file, size, segments, things = task
    if source is None:
        header = read_png_header(truth_file, "panoptic PNG", "make it again or correct the folder")
        _check_sizes(edge_size(path), header.size, str(path))
    truth = read_panoptic_png(truth_file, size, "the JSON of the truth")
    try:
        disagreement = check_segments(truth, segments)
    except ValueError as error:
        raise ValueError(f"{truth_file}: {error}") from error
    if source is None:
        edges = read_edges(path)
    else:
        edges = source(read_image(path, [truth_file]).pixels, path.stem).edges
    inverted = source is None and looks_inverted(edges)
    return settings.count(edges, truth, str(path), things), disagreement, inverted
