"""Rows of benchmark.py: images a second that one data worker prepares for training."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, MetadataCatalog
from measuring import in_turns
from PIL import Image
from plain.panoptic_mapper import PlainPanopticMapper

from trace_d2.config import add_trace_config
from trace_d2.data.coco_dicts import load_panoptic_dicts
from trace_d2.data.dataset_mapper import TraceDatasetMapper
from trace_d2.io.atomic import write_png
from trace_d2.scenes.dataset import SceneSettings, scene_categories, write_scenes

Mapper = Callable[[dict[str, Any]], Any]

DATASET = "trace_d2_benchmark_scenes"


def make_records(folder: Path, count: int, side: int) -> list[dict[str, Any]]:
    """Write scenes, and list them with every kind of annotation that a mapper here reads."""
    write_scenes(folder, count, SceneSettings(size=(side, side)), progress=False)
    (folder / "sem_seg").mkdir()
    ranks = {category.id: rank for rank, category in enumerate(scene_categories())}
    contiguous = np.full(256, 255, np.uint8)
    contiguous[list(ranks)] = list(ranks.values())
    annotations = defaultdict(list)
    for one in json.loads((folder / "instances.json").read_text())["annotations"]:
        own = {"bbox_mode": 1, "category_id": ranks[one["category_id"]]}  # XYWH
        annotations[one["image_id"]].append({**one, **own})
    records = load_panoptic_dicts(
        folder / "images", folder / "panoptic.json", folder / "panoptic", scene_categories(), ""
    )
    for record in records:
        name = Path(record["file_name"]).name
        with Image.open(folder / "semantic" / name) as semantic:
            write_png(folder / "sem_seg" / name, contiguous[np.asarray(semantic)])
        record |= {
            "sem_seg_file_name": str(folder / "sem_seg" / name),
            "trace_semantic_file_name": str(folder / "semantic" / name),
            "trace_edges_file_name": str(folder / "edges_oracle" / name),
            "annotations": annotations[record["image_id"]],
        }
    return records


def mapper_cfg(folder: Path, side: int, *pairs: Any) -> CfgNode:
    """Large-scale jitter to ``side`` pixels, and ``KEY, VALUE`` pairs."""
    cfg = get_cfg()
    add_trace_config(cfg)
    cfg.DATASETS.TRAIN = (DATASET,)
    cfg.OUTPUT_DIR = str(folder)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.TRACE.IMAGE_SIZE = side
    cfg.merge_from_list(list(pairs))
    return cfg


def jitter(side: int, pad: bool) -> list[T.Augmentation]:
    """The same augmentations from Detectron2's own parts."""
    return [
        T.RandomFlip(),
        T.ResizeScale(0.1, 2.0, side, side),
        T.FixedSizeCrop((side, side), pad=pad),
    ]


def compare(
    name: str, records: list[dict[str, Any]], ours: Mapper, plain: Mapper, repeats: int
) -> list[str]:
    """A row of the table: images a second of each, in turns, and how far the images lie apart."""

    def all_records(mapper: Mapper) -> Callable[[], list[Any]]:
        turns = itertools.count()

        def way() -> list[Any]:
            np.random.seed(next(turns))
            return [mapper(record) for record in records]

        return way

    # The first turn fills caches of files and of labels.
    turns = in_turns(all_records(ours), all_records(plain), repeats, warm_up=1)
    apart = max(_apart(a, b) for a, b in zip(*turns.results, strict=True))
    return turns.row(name, apart, len(records))


def _apart(ours: dict[str, Any], plain: dict[str, Any]) -> float:
    """The largest difference of images (of 255), and of masks where their form is the same."""
    pairs = [(ours["image"], plain["image"])]
    masks = [mapped["instances"].gt_masks for mapped in (ours, plain)]
    if all(isinstance(mask, torch.Tensor) for mask in masks):
        pairs.append((masks[0], masks[1]))
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs if a.numel())


def mapper_rows(count: int, side: int, repeats: int) -> list[list[str]]:
    """Offline and online targets against the plain ways to them, all in one process."""
    MetadataCatalog.get(DATASET).set(categories=scene_categories())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = make_records(folder / "scenes", count, side)
        online = ("INPUT.TRACE.TARGETS", "online")
        offline = TraceDatasetMapper(mapper_cfg(folder, side), True)
        bitmask = TraceDatasetMapper(mapper_cfg(folder, side, "INPUT.TRACE.FORMAT", "bitmask"))
        cached = TraceDatasetMapper(mapper_cfg(folder, side, *online), True)
        anew = mapper_cfg(folder, side, *online, "INPUT.TRACE.CACHE_DIR", "none")
        plain = PlainPanopticMapper(jitter(side, pad=False), "BGR", (side, side))
        stock = DatasetMapper(
            True,
            augmentations=jitter(side, pad=True),
            image_format="BGR",
            use_instance_mask=True,
            instance_mask_format="bitmask",
            recompute_boxes=True,
        )
        kind = f"mapper, {side} x {side}"
        rows: list[tuple[str, Mapper, Mapper]] = [
            (f"{kind}, offline / Mask2Former's way", offline, plain),
            (f"{kind}, offline bitmask / Detectron2's", bitmask, stock),
            (f"{kind}, online cached / anew", cached, TraceDatasetMapper(anew)),
        ]
        return [compare(title, records, ours, other, repeats) for title, ours, other in rows]
