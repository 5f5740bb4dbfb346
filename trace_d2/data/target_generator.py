"""What an image should be segmented into, before augmentation: from files, or made on the spot.

A target generator is a function from a record of the data set to a ``PanopticTarget``. The dataset
mapper is given one, so the two ways to train, on labels made before and straight from semantic
masks and edges, differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from trace_d2._version import __version__
from trace_d2.data.bad_records import Record, blame
from trace_d2.data.label_cache import LabelCache
from trace_d2.data.target_calibration import calibrate_records
from trace_d2.edges.sources import EdgeSource, build_edge_source, check_edge_source
from trace_d2.io.categories import Category, category_entries
from trace_d2.io.coco_panoptic import MAX_SEGMENT_ID, VOID, read_panoptic_png
from trace_d2.io.edge_maps import check_edges, find_edges
from trace_d2.io.images import (
    Sample,
    check_classes,
    fit_to_photograph,
    read_image,
    read_semantic,
)
from trace_d2.jobs.settings import flatten, student_print
from trace_d2.labels import PanopticLabel, PanopticLabeler
from trace_d2.propagation.calibration import EdgeCalibration

if TYPE_CHECKING:
    from detectron2.config import CfgNode

MOST_8_BIT_SEGMENTS = 254
"""255 is what newer Detectron2 pads label maps with."""

# Keys of MODEL.TRACE that no edge depends on.
_NOT_OF_EDGES = ("DEVICE", "POSTPROCESSOR", "MASK2FORMER", "ROI_HEADS", "SOLVER", "BGP")


@dataclass(frozen=True)
class PanopticTarget:
    """The segments of one image of N segments.

    Attributes:
        segment_map: uint8 (H, W), or uint16 for more than 254 segments; ``i + 1`` where segment
            ``i`` is, 0 = void. Each of the numbers occurs.
        category_ids: int64 (N,), contiguous.
        isthing: bool (N,).
        iscrowd: bool (N,), regions of several objects that no one told apart.
    """

    segment_map: np.ndarray
    category_ids: np.ndarray
    isthing: np.ndarray
    iscrowd: np.ndarray

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The attributes by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


TargetGenerator = Callable[[Record], PanopticTarget]


class OfflineTargetGenerator:
    """Reads labels that were made before: a panoptic PNG and ``segments_info`` with contiguous ids.

    Records are those of ``register_trace_panoptic``, and of any panoptic data set in the format of
    Mask2Former.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> OfflineTargetGenerator:
        """A generator; it has no settings."""
        return cls()

    def __call__(self, record: Record) -> PanopticTarget:
        """The target of ``record``.

        Raises:
            BadRecordError: the PNG cannot be read, or disagrees with ``segments_info``.
            ValueError: the record is not one of a panoptic data set.
        """
        path = _file(record, "pan_seg_file_name", "offline", "a panoptic data set")
        segments = record["segments_info"]
        for key in ("id", "category_id", "isthing"):
            if not all(key in segment for segment in segments):
                raise ValueError(
                    f"segments_info of {path} lacks {key}: register the data set by "
                    "register_trace_panoptic"
                )
        with blame(record):
            return number_segments(read_panoptic_png(path), segments, path)


def number_segments(
    segment_ids: np.ndarray, segments: Sequence[Mapping[str, Any]], path: Path
) -> PanopticTarget:
    """The target of a panoptic map.

    Args:
        segment_ids: int32 (H, W), 0 = void.
        segments: ``{id, category_id, isthing, iscrowd}`` of each segment, ``category_id``
            contiguous; a missing ``iscrowd`` is 0.
        path: of the map, for messages.

    Raises:
        ValueError: map and ``segments`` disagree on what segments there are.
    """
    listed = np.array([segment["id"] for segment in segments], np.int64)
    if listed.size and not VOID < listed.min() <= listed.max() <= MAX_SEGMENT_ID:
        raise ValueError(f"{path}: segments_info has ids outside 1..{MAX_SEGMENT_ID}: correct them")
    dtype = np.uint8 if listed.size <= MOST_8_BIT_SEGMENTS else np.uint16
    largest = max(int(listed.max(initial=0)), int(segment_ids.max(initial=0)))
    numbers = np.zeros(largest + 1, dtype)
    numbers[listed] = np.arange(1, listed.size + 1)
    segment_map = np.take(numbers, segment_ids)
    empty = listed[np.bincount(segment_map.ravel(), minlength=listed.size + 1)[1:] == 0]
    unlisted = segment_ids[(segment_map == 0) & (segment_ids != VOID)]
    if empty.size or unlisted.size:
        raise ValueError(
            f"{path} and its segments_info disagree: ids without a pixel {empty.tolist()[:5]}, "
            f"ids without an entry {np.unique(unlisted).tolist()[:5]}: make the label again"
        )
    return PanopticTarget(
        segment_map,
        np.array([segment["category_id"] for segment in segments], np.int64),
        np.array([segment["isthing"] for segment in segments], bool),
        np.array([segment.get("iscrowd", 0) for segment in segments], bool),
    )


class OnlineTargetGenerator:
    """Makes labels from semantic masks and edges, as the label maker does, and keeps them.

    Labels are made at the full size of the image, before augmentation, and looked up in ``cache``
    first. Records are those of ``register_trace_semantic``.
    """

    def __init__(
        self,
        labeler: PanopticLabeler,
        categories: Sequence[Category],
        *,
        edge_files: Callable[[Record], Path | None],
        edge_source: EdgeSource | None = None,
        cache: LabelCache | None = None,
        categories_name: str = "the data set",
    ) -> None:
        """
        Args:
            labeler: from semantic masks and edges to labels.
            categories: of the semantic masks; the contiguous id is the rank in this list.
            edge_files: the edge file of a record, or None where there is none.
            edge_source: finds the edges of images without edge file; None: no edges.
            cache: where labels are kept; None keeps none.
            categories_name: where the categories are from, for messages.
        """
        self.labeler = labeler
        self.categories = tuple(categories)
        self.categories_name = categories_name
        self.edge_files = edge_files
        self.edge_source = edge_source
        self.cache = cache

    @classmethod
    def from_config(cls, cfg: CfgNode) -> OnlineTargetGenerator:
        """A generator for the data sets of ``cfg.DATASETS.TRAIN``.

        Raises:
            ValueError: a key that is wrong, or does not fit the others; the message names it.
        """
        categories = training_categories(cfg.DATASETS.TRAIN)
        edge_files, edge_source = _edge_input(cfg)
        generator = cls(
            PanopticLabeler.from_config(cfg, categories),
            categories,
            edge_files=edge_files,
            edge_source=edge_source,
            categories_name=f"of {cfg.DATASETS.TRAIN[0]}",
        )
        calibration = calibrate_records(cfg, categories, generator.load)
        generator.labeler.calibration = calibration
        generator.cache = _build_cache(cfg, categories, edge_source is not None, calibration)
        return generator

    def __call__(self, record: Record) -> PanopticTarget:
        """The target of ``record``.

        Raises:
            BadRecordError: the image, the mask or the edges cannot be read, or do not fit together.
            ValueError: the record is not one of a semantic data set.
        """
        image, semantic, edges = self._files(record)
        make = partial(self._make, record)
        if self.cache is None:
            return make()
        inputs = [image, semantic, *([edges] if edges else [])]
        return PanopticTarget(**self.cache.get(inputs, lambda: make().to_arrays()))

    def _files(self, record: Record) -> tuple[Path, Path, Path | None]:
        """Image, semantic mask and edge file of ``record``."""
        image = _file(record, "file_name", "online", "a semantic data set")
        semantic = _file(record, "trace_semantic_file_name", "online", "a semantic data set")
        return image, semantic, self.edge_files(record)

    def _make(self, record: Record) -> PanopticTarget:
        sample = self.load(record)
        return label_target(self.labeler(sample.semantic, sample.edges), self.categories)

    def load(self, record: Record) -> Sample:
        """What the target of ``record`` is made from; raises as a call does."""
        image, semantic, edges = self._files(record)
        with blame(record):
            sample = self._load(image, semantic, edges)
        if edges is None and self.edge_source is not None:
            found = self.edge_source(sample.photograph.pixels, image.stem).edges
            sample = sample.with_edges(check_edges(found, f"the edges found in {image}"))
        return sample

    def _load(self, image: Path, semantic: Path, edges: Path | None) -> Sample:
        """The inputs of one label, checked as those of the label maker are."""
        photograph = read_image(image)
        mask = read_semantic(semantic)
        check_classes(mask, self.categories, semantic, self.categories_name)
        mask, _ = fit_to_photograph(mask, photograph, semantic)
        sample = Sample(photograph=photograph, edges=None, notes=(), semantic=mask)
        return sample if edges is None else sample.with_edge_file(edges)


def label_target(label: PanopticLabel, categories: Sequence[Category]) -> PanopticTarget:
    """The target of a label of ``categories``; contiguous ids are ranks in that list."""
    ranks = {category.id: rank for rank, category in enumerate(categories)}
    count = len(label.segments)
    dtype = np.uint8 if count <= MOST_8_BIT_SEGMENTS else np.uint16
    return PanopticTarget(
        label.segment_ids.astype(dtype),
        np.array([ranks[segment.category_id] for segment in label.segments], np.int64),
        np.array([segment.isthing for segment in label.segments], bool),
        np.zeros(count, bool),
    )


TARGET_GENERATORS: dict[str, Callable[[CfgNode], TargetGenerator]] = {
    "offline": OfflineTargetGenerator.from_config,
    "online": OnlineTargetGenerator.from_config,
}
"""What ``INPUT.TRACE.TARGETS`` may be."""


def build_target_generator(cfg: CfgNode) -> TargetGenerator:
    """The target generator that ``cfg.INPUT.TRACE.TARGETS`` names.

    Raises:
        ValueError: a key that is wrong, or does not fit the others; the message names it.
    """
    name = cfg.INPUT.TRACE.TARGETS
    if name not in TARGET_GENERATORS:
        raise ValueError(
            f"INPUT.TRACE.TARGETS is {name!r}; it must be one of {', '.join(TARGET_GENERATORS)}"
        )
    return TARGET_GENERATORS[name](cfg)


def training_categories(names: Sequence[str]) -> tuple[Category, ...]:
    """The categories that all of the registered data sets ``names`` share.

    Raises:
        ValueError: there is no data set, one has no categories, or they differ.
    """
    shared: tuple[Category, ...] | None = None
    for name in names:
        found = getattr(MetadataCatalog.get(name), "categories", None)
        if found is None:
            raise ValueError(
                f"DATASETS.TRAIN has {name!r}, whose metadata has no categories: register it by "
                "register_trace_semantic, or under DATASETS.TRACE"
            )
        if shared is not None and shared != tuple(found):
            raise ValueError(
                f"DATASETS.TRAIN mixes {names[0]!r} and {name!r}, whose categories differ: train "
                "on data sets of one list of categories"
            )
        shared = tuple(found)
    if shared is None:
        raise ValueError("DATASETS.TRAIN is empty: name the data sets to train on")
    return shared


def recorded_edges(record: Record) -> Path:
    """The edge file that the record names."""
    return _file(record, "trace_edges_file_name", "online", "a semantic data set with edges")


def no_edges(record: Record) -> None:
    """No edge file."""


def edges_in_folder(folder: Path, record: Record) -> Path:
    """The edge file in ``folder`` with the stem of the image; a BadRecordError without one."""
    with blame(record):
        return find_edges(folder, Path(record["file_name"]).stem)


def _edge_input(
    cfg: CfgNode,
) -> tuple[Callable[[Record], Path | None], EdgeSource | None]:
    """Where ``INPUT.TRACE.EDGES`` takes edges from: by file, or by looking at the image."""
    choice, source = cfg.INPUT.TRACE.EDGES, cfg.MODEL.TRACE.EDGES.SOURCE
    if choice == "record":
        return recorded_edges, None
    if choice == "none":
        return no_edges, None
    if choice != "source":
        raise ValueError(f"INPUT.TRACE.EDGES is {choice!r}; it must be record, source or none")
    check_edge_source(cfg)
    if source == "files":
        return partial(edges_in_folder, Path(cfg.MODEL.TRACE.EDGES.DIR)), None
    if cfg.DATALOADER.NUM_WORKERS:
        raise ValueError(
            f"INPUT.TRACE.EDGES is 'source' and MODEL.TRACE.EDGES.SOURCE {source!r}, but data "
            f"workers (DATALOADER.NUM_WORKERS is {cfg.DATALOADER.NUM_WORKERS}) cannot share a "
            "network: write the edges once by `tools/predict_edges.py` (student) or "
            "`tools/make_pseudo_panoptic.py --save-edges`, and train with MODEL.TRACE.EDGES.SOURCE "
            "files and MODEL.TRACE.EDGES.DIR, or set DATALOADER.NUM_WORKERS 0"
        )
    return no_edges, build_edge_source(cfg)


def _build_cache(
    cfg: CfgNode,
    categories: tuple[Category, ...],
    edges_by_network: bool,
    calibration: EdgeCalibration | None,
) -> LabelCache | None:
    """The cache at ``INPUT.TRACE.CACHE_DIR``, for labels of these settings alone."""
    where = cfg.INPUT.TRACE.CACHE_DIR
    if where == "none":
        return None
    folder = Path(where) if where else Path(cfg.OUTPUT_DIR) / "label_cache"
    settings: dict[str, Any] = {
        "version": __version__,
        "categories": category_entries(categories),
        "edges": cfg.INPUT.TRACE.EDGES,
        "LABELS": flatten(cfg.MODEL.TRACE.LABELS),
        "calibration": None if calibration is None else calibration.to_json(),
    }
    if edges_by_network:
        nodes = {k: v for k, v in cfg.MODEL.TRACE.items() if k not in _NOT_OF_EDGES}
        settings["TRACE"] = flatten(nodes)
        if cfg.MODEL.TRACE.EDGES.SOURCE == "student":
            settings["student"] = student_print(cfg)
    try:
        return LabelCache(folder, settings)
    except OSError as error:
        raise ValueError(
            f"INPUT.TRACE.CACHE_DIR is {where!r}, and {folder} cannot be made ({error}): name a "
            "folder that can, or 'none'"
        ) from error


def _file(record: Record, key: str, targets: str, data_set: str) -> Path:
    """The local path of a file of ``record``."""
    if key not in record:
        raise ValueError(
            f"a record without {key} (image {record.get('file_name')}), but INPUT.TRACE.TARGETS is "
            f"{targets!r}: train on {data_set}, or change INPUT.TRACE.TARGETS or INPUT.TRACE.EDGES"
        )
    return Path(PathManager.get_local_path(record[key]))
