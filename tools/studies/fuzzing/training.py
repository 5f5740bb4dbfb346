"""Readers of training: data sets registered, loaded and mapped; prepared; students; checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from trace_d2.config import add_trace_config
from trace_d2.data.bad_records import NoUsableRecordError
from trace_d2.data.dataset_mapper import TraceDatasetMapper
from trace_d2.data.edge_mapper import TraceEdgeDatasetMapper
from trace_d2.data.label_folder import UnfinishedLabelsError
from trace_d2.data.registration import register_from_config
from trace_d2.data.tolerant_mapper import TolerantDatasetMapper

from . import files
from .readers import Reader, make_labels

_FORESEEN = (ValueError, OSError, UnfinishedLabelsError, NoUsableRecordError)
"""What tools/train_net.py turns into a message."""

_found: dict[str, Any] = {}  # what the last reading gave, by folder


def _train_cfg(kind: str, entry: Sequence[str], *pairs: Any) -> CfgNode:
    cfg = get_cfg()
    add_trace_config(cfg)
    plain = ("INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SIZE_TRAIN", (48,))
    cfg.merge_from_list([*plain, f"DATASETS.TRACE.{kind}", [list(entry)], *pairs])
    cfg.DATASETS.TRAIN = (entry[0],)
    return cfg


def _load_and_map(folder: Path, cfg: CfgNode, mapper: Callable[[CfgNode, bool], Any]) -> int:
    """Register, load and map as training does; what comes out is kept for ``_mapped``."""
    before = set(DatasetCatalog)
    records = []
    try:
        register_from_config(cfg)
        listed = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
        ours = mapper(cfg, True)
        for record in listed:
            mapped = ours(record)
            records.append([record["image_id"], None if mapped is None else _facts(mapped)])
    except _FORESEEN as error:
        print(f"error: {error}")
        return 2
    finally:
        for name in set(DatasetCatalog) - before:
            DatasetCatalog.remove(name)
            MetadataCatalog.pop(name, None)
    _found[str(folder)] = records
    return 0


def _facts(mapped: dict[str, Any]) -> Any:
    """Ids, classes and masks of what a model is given."""
    facts: list[Any] = [list(mapped["image"].shape), mapped["height"], mapped["width"]]
    if "pseudo_edges" in mapped:
        facts.append(_print_of(mapped["pseudo_edges"]))
    if "sem_seg" in mapped:
        facts.append(_print_of(mapped["sem_seg"]))
    if "instances" in mapped:
        instances = mapped["instances"]
        masks = instances.gt_masks
        facts.append(instances.gt_classes.tolist())
        facts.append(_print_of(masks if isinstance(masks, torch.Tensor) else masks.tensor))
    return facts


def _print_of(tensor: torch.Tensor) -> str:
    return hashlib.sha256(np.ascontiguousarray(tensor.numpy()).tobytes()).hexdigest()[:12]


def _mapped(folder: Path) -> Any:
    return _found.pop(str(folder), None)


def _train_panoptic(folder: Path) -> int:
    entry = ("fuzzed", str(folder / "out"), str(folder / "images"))
    cfg = _train_cfg("PANOPTIC", entry, "INPUT.TRACE.SEMANTIC", "file")
    cfg.INPUT.TRACE.AUGMENTATION = "resize"
    return _load_and_map(folder, cfg, TraceDatasetMapper)


def _train_semantic(folder: Path) -> int:
    places = ("images", "semantic", "categories.json", "edges")
    entry = ("fuzzed", *(str(folder / place) for place in places))
    cfg = _train_cfg("SEMANTIC", entry, "INPUT.TRACE.TARGETS", "online")
    cfg.INPUT.TRACE.CACHE_DIR = "none"
    cfg.INPUT.TRACE.AUGMENTATION = "resize"
    return _load_and_map(folder, cfg, TraceDatasetMapper)


def _train_instances(folder: Path) -> int:
    entry = ("fuzzed", str(folder / "truth.json"), str(folder / "images"))
    cfg = _train_cfg("INSTANCES", entry, "MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask")
    return _load_and_map(folder, cfg, TolerantDatasetMapper)


def _train_edges(folder: Path) -> int:
    entry = ("fuzzed", str(folder / "images"), str(folder / "pseudo_edges"))
    cfg = _train_cfg("EDGES", entry, "INPUT.TRACE.PSEUDO_EDGES.SIZE", 32)
    return _load_and_map(folder, cfg, TraceEdgeDatasetMapper)


def _make_semantic(folder: Path) -> None:
    files.write_images(folder / "images")
    files.write_semantic(folder / "semantic")
    files.write_edges(folder / "edges")
    files.write_json(folder / "categories.json", files.CATEGORIES)


def _make_instances(folder: Path) -> None:
    files.write_images(folder / "images")
    files.write_instances(folder / "truth.json")


def _make_pseudo_edges(folder: Path) -> None:
    files.write_images(folder / "images")
    files.write_pseudo_edges(folder / "pseudo_edges")


TRAINING_READERS: Sequence[Reader] = (
    Reader(
        "train-panoptic", make_labels, _train_panoptic, _mapped,
        ("out/settings.json", "out/images.json", "out/journal.jsonl", "out/panoptic.json",
         "out/panoptic.json", "out/panoptic/*", "out/semantic/*", "images/*"),
    ),
    Reader(
        "train-semantic", _make_semantic, _train_semantic, _mapped,
        ("images/*", "semantic/*", "edges/*", "categories.json"),
    ),
    Reader(
        "train-instances", _make_instances, _train_instances, _mapped,
        ("truth.json", "truth.json", "truth.json", "images/*"),
    ),
    Reader(
        "train-edges", _make_pseudo_edges, _train_edges, _mapped, ("images/*", "pseudo_edges/*")
    ),
)  # fmt: skip
