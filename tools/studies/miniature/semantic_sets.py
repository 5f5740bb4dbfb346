"""Sets with semantic truth in their official layouts, and maps of open-vocabulary models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from miniature.data import COCO, VOC, classes, save, scene, write
from trace_d2.io.coco_panoptic import encode_mask
from trace_d2.scenes.procedural import Scene

_CONTEXT = {1: 284, 2: 113, 3: 65, 4: 59, 5: 360, 6: 187}  # ids of the file; person, dog, ...
_RANKS = {kind: rank for rank, kind in enumerate(range(1, 7))}  # any classes of a benchmark


def write_semantic_sets(root: Path) -> None:
    """Two images of val of each below ``root``; maps of two models below ``predictions``."""
    scenes = {n: scene(n) for n in (2, 3)}
    for number, stem in ((2, "2007_000033"), (3, "2007_000042")):
        _predicted(root, "voc21", stem, classes(scenes[number], VOC))
    write_context(root, {f"2008_00000{n}": one for n, one in scenes.items()})
    for number in (3, 4):  # of COCO's val2017
        one, stem = scene(number), f"{number:012d}"
        ids = {k: v - 1 if v < 92 else {187: 156, 194: 110}[v] for k, v in COCO.items()}
        save(root / f"coco/stuffthingmaps/val2017/{stem}.png", classes(one, ids))
        _predicted(root, "stuff171", stem, classes(one, _RANKS))
    for number, one in scenes.items():
        write_ade20k(root, f"ADE_val_0000000{number}", one)
        write_cityscapes(root, f"munster_00000{number}_000019", one)


def _predicted(root: Path, rule: str, stem: str, pixels: np.ndarray) -> None:
    for model in ("ttd", "talk2dino"):
        save(root.parent / f"predictions/{model}/{rule}/{stem}.png", pixels)


def write_context(root: Path, scenes: dict[str, Scene]) -> None:
    """Pascal Context: photographs of VOC 2010, and all annotations in one file."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for rank, (stem, one) in enumerate(scenes.items()):
        height, width = one.segment_ids.shape
        name = f"{stem}.jpg"
        save(root / "VOC2010/JPEGImages" / name, one.image)
        entry = {"image_id": rank, "file_name": name, "phase": "val"}
        images.append({**entry, "height": height, "width": width})
        for number, kind in enumerate(one.category_ids, start=1):
            mask = {"segmentation": encode_mask(one.segment_ids == number)}
            row = {"id": len(annotations), "image_id": rank, "category_id": _CONTEXT[kind]}
            annotations.append({**row, **mask})
        _predicted(root, "context59", stem, classes(one, _RANKS))
    content = {"images": images, "annos_segmentation": annotations}
    write(root / "VOC2010/trainval_merged.json", content)


def write_ade20k(root: Path, stem: str, one: Scene) -> None:
    """ADE20K's challenge: classes from 1, 0 is other."""
    folder = root / "ADEChallengeData2016"
    save(folder / f"images/validation/{stem}.jpg", one.image)
    truth = classes(one, {kind: rank + 1 for kind, rank in _RANKS.items()})
    save(folder / f"annotations/validation/{stem}.png", truth)
    _predicted(root, "ade150", stem, classes(one, _RANKS))


def write_cityscapes(root: Path, stem: str, one: Scene) -> None:
    """Cityscapes: ids of labels, 7 (road) to 12 (wall) here."""
    save(root / f"cityscapes/leftImg8bit/val/munster/{stem}_leftImg8bit.png", one.image)
    labels = classes(one, {1: 24, 2: 26, 3: 33, 4: 11, 5: 23, 6: 7})
    save(root / f"cityscapes/gtFine/val/munster/{stem}_gtFine_labelIds.png", labels)
    _predicted(root, "city19", f"munster/{stem}_leftImg8bit", classes(one, _RANKS))
