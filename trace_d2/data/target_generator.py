"""What an image should be segmented into, before augmentation: from files, or made on the spot.

A target generator is a function from a record of the data set to a ``PanopticTarget``. The dataset
mapper is given one, so the two ways to train, on labels made before and straight from semantic
masks and edges, differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from trace_d2._version import __version__
from trace_d2.data.bad_records import Record, blame
from trace_d2.data.label_cache import LabelCache
from trace_d2.data.stem_dicts import EDGES_KEY, SEMANTIC_KEY
from trace_d2.data.target_calibration import calibrate_records
from trace_d2.edges.sources import EdgeSource, build_edge_source, check_edge_source
from trace_d2.edges.student_files import student_print
from trace_d2.io.categories import Category, category_entries
from trace_d2.io.coco_panoptic import MAX_SEGMENT_ID, VOID, read_panoptic_png
from trace_d2.io.edge_maps import check_edges, find_edges
from trace_d2.io.images import Sample, load_sample
from trace_d2.labels import PanopticLabel, PanopticLabeler
from trace_d2.propagation.calibration import EdgeCalibration
from trace_d2.settings import NodeSettings, flatten, one_of

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


TargetGenerator = Callable[[Record], PanopticTarget]


def read_target(record: Record) -> PanopticTarget:
    """The target of a label that was made before: a panoptic PNG and ``segments_info``.

    Args:
        record: of ``register_trace_panoptic``, or of any panoptic data set in the format of
            Mask2Former; its category ids are contiguous.

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
        edges: Path | str | None,
        edge_source: EdgeSource | None = None,
        cache: LabelCache | None = None,
        categories_name: str = "the data set",
    ) -> None:
        """
        Args:
            labeler: from semantic masks and edges to labels.
            categories: of the semantic masks; the contiguous id is the rank in this list.
            edges: folder of edge files, or "record" for those that records name; None: no files.
            edge_source: finds the edges of images without edge file; None: no edges.
            cache: where labels are kept; None keeps none.
            categories_name: where the categories are from, for messages.
        """
        self.labeler = labeler
        self.categories = tuple(categories)
        self.categories_name = categories_name
        self.edges = edges
        self.edge_source = edge_source
        self.cache = cache

    @classmethod
    def from_config(cls, cfg: CfgNode) -> OnlineTargetGenerator:
        """A generator for the data sets of ``cfg.DATASETS.TRAIN``.

        Raises:
            ValueError: a key that is wrong, or does not fit the others; the message names it.
        """
        settings = TargetSettings.from_config(cfg)
        categories = training_categories(cfg.DATASETS.TRAIN)
        edges, edge_source = _edge_input(cfg, settings.edges)
        generator = cls(
            PanopticLabeler.from_config(cfg, categories),
            categories,
            edges=edges,
            edge_source=edge_source,
            categories_name=f"of {cfg.DATASETS.TRAIN[0]}",
        )
        calibration = calibrate_records(cfg, categories, generator.load)
        generator.labeler.calibration = calibration
        if settings.cache_dir != "none":
            folder = settings.cache_dir or Path(cfg.OUTPUT_DIR) / "label_cache"
            key = _cache_key(cfg, categories, edge_source is not None, calibration)
            generator.cache = LabelCache(folder, key)
        return generator

    def __call__(self, record: Record) -> PanopticTarget:
        """The target of ``record``.

        Raises:
            BadRecordError: the image, the mask or the edges cannot be read, or do not fit together.
            ValueError: the record is not one of a semantic data set.
        """
        image, semantic, edges = self._files(record)

        def make() -> dict[str, np.ndarray]:
            sample = self.load(record)
            label = self.labeler(sample.semantic, sample.edges)
            return vars(label_target(label, self.categories))

        inputs = [image, semantic, *([edges] if edges else [])]
        return PanopticTarget(**(make() if self.cache is None else self.cache.get(inputs, make)))

    def load(self, record: Record) -> Sample:
        """What the target of ``record`` is made from; raises as a call does."""
        image, semantic, edges = self._files(record)
        with blame(record):
            sample = load_sample(image, semantic, None, self.categories, self.categories_name)
            if edges is not None:
                sample = sample.with_edge_file(edges)
        if edges is None and self.edge_source is not None:
            found = self.edge_source(sample.photograph.pixels, image.stem).edges
            sample = sample.with_edges(check_edges(found, f"the edges found in {image}"))
        return sample

    def _files(self, record: Record) -> tuple[Path, Path, Path | None]:
        """Image, semantic mask and edge file of ``record``."""
        image = _file(record, "file_name", "online", "a semantic data set")
        semantic = _file(record, SEMANTIC_KEY, "online", "a semantic data set")
        if self.edges == "record":
            edges = _file(record, EDGES_KEY, "online", "a semantic data set with edges")
            return image, semantic, edges
        if self.edges is None:
            return image, semantic, None
        with blame(record):
            return image, semantic, find_edges(self.edges, image.stem)


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


@dataclass(frozen=True)
class TargetSettings(NodeSettings, node="INPUT.TRACE"):
    """Where targets come from; ``defaults.yaml`` tells what the keys mean."""

    targets: str = one_of("offline", "online", default="offline")
    edges: str = one_of("record", "source", "none", default="record")
    cache_dir: str = ""


def build_target_generator(cfg: CfgNode) -> TargetGenerator:
    """The target generator that ``cfg.INPUT.TRACE.TARGETS`` names.

    Raises:
        ValueError: a key that is wrong, or does not fit the others; the message names it.
    """
    offline = TargetSettings.from_config(cfg).targets == "offline"
    return read_target if offline else OnlineTargetGenerator.from_config(cfg)


def training_categories(names: Sequence[str]) -> tuple[Category, ...]:
    """The categories that all of the registered data sets ``names`` share.

    Raises:
        ValueError: there is no data set, one has no categories, or they differ.
    """
    if not names:
        raise ValueError("DATASETS.TRAIN is empty: name the data sets to train on")
    found = {name: MetadataCatalog.get(name).get("categories") for name in names}
    shared: tuple[Category, ...] = found[names[0]]
    for name, categories in found.items():
        if categories is None:
            raise ValueError(
                f"DATASETS.TRAIN has {name!r}, whose metadata has no categories: register it by "
                "register_trace_semantic, or under DATASETS.TRACE"
            )
        if categories != shared:
            raise ValueError(
                f"DATASETS.TRAIN mixes {names[0]!r} and {name!r}, whose categories differ: train "
                "on data sets of one list of categories"
            )
    return shared


def _edge_input(cfg: CfgNode, choice: str) -> tuple[Path | str | None, EdgeSource | None]:
    """Where ``INPUT.TRACE.EDGES`` takes edges from: by file, or by looking at the image."""
    if choice != "source":
        return "record" if choice == "record" else None, None
    check_edge_source(cfg)
    source = cfg.MODEL.TRACE.EDGES.SOURCE
    if source == "files":
        return Path(cfg.MODEL.TRACE.EDGES.DIR), None
    if cfg.DATALOADER.NUM_WORKERS:
        raise ValueError(
            f"INPUT.TRACE.EDGES is 'source' and MODEL.TRACE.EDGES.SOURCE {source!r}, but data "
            f"workers (DATALOADER.NUM_WORKERS is {cfg.DATALOADER.NUM_WORKERS}) cannot share a "
            "network: write the edges once by `tools/predict_edges.py` (student) or "
            "`tools/make_pseudo_panoptic.py --save-edges`, and train with MODEL.TRACE.EDGES.SOURCE "
            "files and MODEL.TRACE.EDGES.DIR, or set DATALOADER.NUM_WORKERS 0"
        )
    return None, build_edge_source(cfg)


def _cache_key(
    cfg: CfgNode,
    categories: tuple[Category, ...],
    edges_by_network: bool,
    calibration: EdgeCalibration | None,
) -> dict[str, Any]:
    """All that decides a label besides its files."""
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
    return settings


def _file(record: Record, key: str, targets: str, data_set: str) -> Path:
    """The local path of a file of ``record``."""
    if key not in record:
        raise ValueError(
            f"a record without {key} (image {record.get('file_name')}), but INPUT.TRACE.TARGETS is "
            f"{targets!r}: train on {data_set}, or change INPUT.TRACE.TARGETS or INPUT.TRACE.EDGES"
        )
    return Path(PathManager.get_local_path(record[key]))
