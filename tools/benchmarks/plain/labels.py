"""Labels the plain way: one process, a loop over classes and segments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from trace_d2.io.categories import Category


def label_plainly(scenes: Path, output: Path, categories: tuple[Category, ...]) -> None:
    """Connected components cut by the edges, edge pixels to the nearest; a loop over everything."""
    output.mkdir()
    annotations, instances = [], []
    for path in sorted((scenes / "images").iterdir()):
        np.asarray(Image.open(path).convert("RGB"))
        semantic = np.asarray(Image.open(scenes / "semantic" / path.name))
        edges = np.asarray(Image.open(scenes / "edges_oracle" / path.name)) > 127
        segments = _segments(semantic, edges, categories)
        pixels = np.zeros((*semantic.shape, 3), np.uint8)
        infos = []
        for number, (mask, category) in enumerate(segments, start=1):
            pixels[mask] = (number % 256, number // 256 % 256, number // 65536)
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
            info = {"id": number, "category_id": category.id, "area": int(mask.sum())}
            infos.append({**info, "bbox": [int(v) for v in box], "iscrowd": 0})
            if category.isthing:
                code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                instances.append({**info, "segmentation": code["counts"].decode()})
        Image.fromarray(pixels).save(output / path.name)
        Image.fromarray(semantic).save(output / f"semantic_{path.name}")
        annotations.append({"file_name": path.name, "segments_info": infos})
    (output / "panoptic.json").write_text(json.dumps(annotations))
    (output / "instances.json").write_text(json.dumps(instances))


def _segments(
    semantic: np.ndarray, edges: np.ndarray, categories: tuple[Category, ...]
) -> list[tuple[np.ndarray, Category]]:
    segments = []
    for category in categories:
        mask = semantic == category.id
        if not mask.any():
            continue
        parts, count = ndimage.label(mask & ~edges)
        if not category.isthing or count == 0:
            segments.append((mask, category))
            continue
        nearest = ndimage.distance_transform_edt(
            parts == 0, return_distances=False, return_indices=True
        )
        parts = parts[tuple(nearest)] * mask
        segments += [
            (parts == part, category) for part in range(1, count + 1) if (parts == part).any()
        ]
    return segments
