"""Targets by config: read from labels ("offline") or made from masks and edges ("online")."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from trace_d2._version import __version__
from trace_d2.data.bad_records import BadRecordError, Record, blame
from trace_d2.data.label_cache import LabelCache
from trace_d2.data.stem_dicts import EDGES_KEY, SEMANTIC_KEY
from trace_d2.data.targets import (
    PanopticTarget,
    TargetGenerator,
    label_target,
    read_target,
    record_file,
)
from trace_d2.edges.baselines import FILTERS
from trace_d2.edges.settings import idle_tile_keys
from trace_d2.edges.sources import (
    EdgeSource,
    build_edge_source,
    check_edge_source,
    source_print,
    with_tile_scale,
)
from trace_d2.io.categories import Category, category_entries
from trace_d2.io.edge_maps import check_edges, edge_stem, find_edges
from trace_d2.io.images import Sample, load_sample
from trace_d2.labels import PanopticLabeler
from trace_d2.propagation.calibration import (
    SAMPLE_IMAGES,
    EdgeCalibration,
    EdgeStatistics,
    draw,
)
from trace_d2.remarks import RemarkLog
from trace_d2.settings import NodeSettings, flatten, one_of

logger = logging.getLogger(__name__)

# Keys of MODEL.TRACE that no edge depends on.
_NOT_OF_EDGES = ("DEVICE", "POSTPROCESSOR", "MASK2FORMER", "ROI_HEADS", "SOLVER", "BGP")
_LATER_KEYS = (".REVISION", "EDGES.HED_WEIGHTS", "EDGES.CANNY", "EDGES.SCALE")


@dataclass(frozen=True)
class TargetSettings(NodeSettings, node="INPUT.TRACE"):
    """Where targets come from; ``defaults.yaml`` tells what the keys mean."""

    targets: str = one_of("offline", "online", default="offline")
    edges: str = one_of("record", "source", "none", default="record")
    cache_dir: str = ""


def build_target_generator(cfg: CfgNode) -> TargetGenerator:
    """The target generator that ``cfg.INPUT.TRACE.TARGETS`` names."""
    offline = TargetSettings.from_config(cfg).targets == "offline"
    return read_target if offline else OnlineTargetGenerator.from_config(cfg)


def training_categories(names: Sequence[str]) -> tuple[Category, ...]:
    """The categories that all of the registered data sets ``names`` share."""
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
        self._remark = RemarkLog(logger)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> OnlineTargetGenerator:
        """A generator for the data sets of ``cfg.DATASETS.TRAIN``."""
        settings = TargetSettings.from_config(cfg)
        if settings.edges == "source":
            cfg = with_tile_scale(cfg)
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
            sample = load_sample(image, semantic, edges, self.categories, self.categories_name)
            self._remark(image, sample.notes)
        if edges is None and self.edge_source is not None:
            found = self.edge_source(sample.photograph.pixels, image.stem).edges
            sample = sample.with_edges(check_edges(found, f"the edges found in {image}"))
        return sample

    def _files(self, record: Record) -> tuple[Path, Path, Path | None]:
        """Image, semantic mask and edge file of ``record``."""
        image = record_file(record, "file_name", "online", "a semantic data set")
        semantic = record_file(record, SEMANTIC_KEY, "online", "a semantic data set")
        if self.edges == "record":
            edges = record_file(record, EDGES_KEY, "online", "a semantic data set with edges")
            return image, semantic, edges
        if self.edges is None:
            return image, semantic, None
        with blame(record):
            return image, semantic, find_edges(self.edges, edge_stem(self.edges, image))


def _edge_input(cfg: CfgNode, choice: str) -> tuple[Path | str | None, EdgeSource | None]:
    """Where ``INPUT.TRACE.EDGES`` takes edges from: by file, or by looking at the image."""
    if choice != "source":
        return "record" if choice == "record" else None, None
    check_edge_source(cfg)
    source = cfg.MODEL.TRACE.EDGES.SOURCE
    if source == "files":
        return Path(cfg.MODEL.TRACE.EDGES.DIR), None
    if cfg.DATALOADER.NUM_WORKERS and source not in FILTERS:
        raise ValueError(
            f"INPUT.TRACE.EDGES is 'source' and MODEL.TRACE.EDGES.SOURCE {source!r}, but data "
            f"workers (DATALOADER.NUM_WORKERS is {cfg.DATALOADER.NUM_WORKERS}) cannot share a "
            "network: write the edges once by `tools/predict_edges.py` (student, hed) or "
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
    if cfg.MODEL.TRACE.EDGES.SCALE:
        settings["scale"] = cfg.MODEL.TRACE.EDGES.SCALE
    if edges_by_network:
        nodes = {k: v for k, v in cfg.MODEL.TRACE.items() if k not in _NOT_OF_EDGES}
        # Labels from before there were these keys are those of today where they are empty, and
        # where images are never tiled.
        idle = idle_tile_keys(nodes["EDGES"].TILES.MODE)
        settings["TRACE"] = {
            k: v
            for k, v in flatten(nodes).items()
            if (v or not k.endswith(_LATER_KEYS)) and k not in idle
        }
        settings |= source_print(cfg)
    return settings


def calibrate_records(
    cfg: CfgNode, categories: Sequence[Category], load: Callable[[dict[str, Any]], Sample]
) -> EdgeCalibration | None:
    """The calibration of the edges of ``cfg.DATASETS.TRAIN``; None where none is needed.

    Args:
        cfg: a Detectron2 config with the ``TRACE`` keys.
        categories: of the semantic masks.
        load: from a record to its mask and edges; a BadRecordError skips it.
    """
    trace = cfg.MODEL.TRACE
    if trace.LABELS.CUT != "basins" or cfg.INPUT.TRACE.EDGES == "none":
        return None
    if trace.EDGES.CALIBRATION:
        return EdgeCalibration.load(trace.EDGES.CALIBRATION)
    missing = [name for name in cfg.DATASETS.TRAIN if name not in DatasetCatalog.list()]
    if missing:
        logger.warning("%s is not registered: edges are measured image by image", missing[0])
        return None
    statistics = EdgeStatistics()
    isthing = {category.id: bool(category.isthing) for category in categories}
    for record in tqdm(_sample(cfg), desc="measuring edges", unit="image", leave=False):
        try:
            sample = load(record)
        except BadRecordError as error:
            logger.warning("not measured: %s", error)
            continue
        if sample.edges is not None:
            statistics.add_semantic(sample.semantic, isthing, sample.edges, trace.EDGES.SCALE)
    calibration = statistics.calibrate()
    logger.info(
        "edges measured on %d images: trust %.2f of 1", statistics.images, calibration.trust
    )
    return calibration


def _sample(cfg: CfgNode) -> list[dict[str, Any]]:
    """The records to measure on: they hang on the seed and on names, not on the order."""
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]

    def rank(record: dict[str, Any]) -> tuple[int, str]:
        stem = Path(record["file_name"]).stem
        return draw(cfg.MODEL.TRACE.SEED, stem), record["file_name"]

    return sorted(sorted(records, key=rank)[:SAMPLE_IMAGES], key=lambda r: str(r["file_name"]))
