"""Photographs of very many pixels, with masks and edges such as a detector gives, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from trace_d2.io.atomic import write_json, write_png
from trace_d2.io.categories import category_entries
from trace_d2.io.coco_panoptic import coco_dataset, encode_mask, image_entry
from trace_d2.scenes.dataset import still_life_categories
from trace_d2.scenes.noise import EdgeQuality, degrade_edges
from trace_d2.scenes.oracle import boundaries
from trace_d2.scenes.still_life import make_still_life

_DRAWN = 1000  # pixels: the long side of what is drawn, and enlarged then
_FALSE = 0.5  # strength of false edges


def draw(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write photographs, masks and edges of ``size`` (width, height) in pixels."""
    categories = still_life_categories()
    for name in ("images", "semantic", "edges"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_json(folder / "categories.json", category_entries(categories))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        name = f"large_{index}"
        semantic = _draw(folder, name, index, size)
        images.append(image_entry(index + 1, f"{name}.jpg", *semantic.shape))
        for category in np.unique(semantic[semantic > 0]).tolist():
            mask = encode_mask(semantic == category)
            one = {"segmentation": mask, "bbox": [0, 0, *size], "area": 1, "iscrowd": 0}
            ids = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": category}
            annotations.append({**ids, **one})
    write_json(folder / "masks.json", coco_dataset(images, annotations, categories))


def _draw(folder: Path, name: str, index: int, size: tuple[int, int]) -> np.ndarray:
    """The files of one image; returns its classes, uint8 (H, W)."""
    scale = max(1.0, max(size) / _DRAWN)
    scene = make_still_life(0, index, (round(size[1] / scale), round(size[0] / scale)))
    rng = np.random.default_rng(index)
    image = cv2.resize(scene.image, size, interpolation=cv2.INTER_CUBIC)
    grain = rng.integers(-9, 10, (size[1] // 4, size[0], 1), np.int16)
    for start in range(0, size[1], len(grain)):  # of all rows at once it would take long
        rows = image[start : start + len(grain)]
        rows[:] = np.clip(rows + grain[: len(rows)], 0, 255)
    ordered = np.ascontiguousarray(image[..., ::-1])
    cv2.imwrite(str(folder / "images" / f"{name}.jpg"), ordered, [cv2.IMWRITE_JPEG_QUALITY, 92])
    grey = cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    slope = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    false = np.minimum(slope / np.float32(np.percentile(slope, 99)), 1)
    edges = degrade_edges(boundaries(scene.segment_ids) > 0, false, EdgeQuality(_FALSE), index)
    large = np.clip(cv2.resize(edges, size, interpolation=cv2.INTER_LINEAR), 0, 1)
    levels = np.rint(large * 65535).astype(np.uint16)
    write_png(folder / "edges" / f"{name}.png", levels, fast=True)
    semantic = cv2.resize(scene.semantic(), size, interpolation=cv2.INTER_NEAREST)
    write_png(folder / "semantic" / f"{name}.png", semantic, fast=True)
    return semantic
