"""Small sound files of every kind: three images of 48 x 64 with two cats that touch and a dog.

Truth, masks and predictions agree, so that every reader is through with them and says nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 48, 64
STEMS = ("1", "2", "3")
GROUND, CAT, DOG = 0, 3, 7
CATEGORIES = [
    {"id": GROUND, "name": "ground", "isthing": 0, "color": [90, 90, 90]},
    {"id": CAT, "name": "cat", "isthing": 1, "color": [220, 20, 60]},
    {"id": DOG, "name": "dog", "isthing": 1, "color": [20, 60, 220]},
]
_OF_SEGMENT = {1: CAT, 300: CAT, 70000: DOG, 5: GROUND}  # ids of one, two and three bytes
_ENDINGS = {"1": ".jpg", "2": ".png", "3": ".tif"}


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path``, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def segment_map(stem: str) -> np.ndarray:
    """Segment ids (H, W) int64; 0 is void."""
    shift = int(stem)
    ids = np.full((HEIGHT, WIDTH), 5)
    ids[6:26, 4 + shift : 20 + shift] = 1
    ids[6:26, 20 + shift : 40] = 300
    ids[30 + shift : 46, 20:60] = 70000
    ids[0, :6] = 0
    return ids


def save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    """Write ``pixels`` as an image file, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def write_images(folder: Path) -> None:
    """Photographs of three kinds of files."""
    for stem in STEMS:
        rng = np.random.default_rng(int(stem))
        pixels = rng.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
        save(folder / f"{stem}{_ENDINGS[stem]}", pixels.repeat(4, 0).repeat(4, 1))


def write_semantic(folder: Path) -> None:
    """Semantic masks: grey, a palette, and grey with few colours in it."""
    for stem in STEMS:
        ids = segment_map(stem)
        mask = np.full(ids.shape, 255, np.uint8)
        for segment, category in _OF_SEGMENT.items():
            mask[ids == segment] = category
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(mask)
        if stem == "2":
            image = image.copy()
            image.putpalette([channel for i in range(256) for channel in (i, 255 - i, 7 * i % 256)])
        image.save(folder / f"{stem}.png")


def outlines(ids: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour is of another segment, bool (H, W)."""
    found = np.zeros(ids.shape, bool)
    found[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    found[:-1] |= ids[:-1] != ids[1:]
    return found


def write_edges(folder: Path) -> None:
    """Edges of 8 and 16 bit, and floating point."""
    for stem in STEMS:
        found = outlines(segment_map(stem))
        if stem == "2":
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{stem}.npy", found.astype(np.float32) * np.float32(0.9))
        elif stem == "1":
            save(folder / f"{stem}.png", found.astype(np.uint16) * 60000)
        else:
            save(folder / f"{stem}.png", found.astype(np.uint8) * 255)


def write_pseudo_edges(folder: Path) -> None:
    """Pseudo edges: 255 edge, 128 ignored, 0 none."""
    for stem in STEMS:
        labels = outlines(segment_map(stem)).astype(np.uint8) * 255
        labels[:3] = 128
        save(folder / f"{stem}.png", labels)


def image_entries() -> list[dict[str, Any]]:
    """COCO ``images``."""
    return [
        {"id": int(s), "file_name": f"{s}{_ENDINGS[s]}", "height": HEIGHT, "width": WIDTH}
        for s in STEMS
    ]


def write_panoptic(json_file: Path, folder: Path) -> None:
    """COCO panoptic."""
    annotations = []
    for stem in STEMS:
        ids = segment_map(stem)
        rgb = np.stack((ids % 256, ids // 256 % 256, ids // 65536), axis=2).astype(np.uint8)
        save(folder / f"{stem}.png", rgb)
        segments = []
        for segment, category in _OF_SEGMENT.items():
            rows, columns = np.nonzero(ids == segment)
            x, y = int(columns.min()), int(rows.min())
            box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
            segments.append(
                {
                    "id": segment, "category_id": category, "area": len(rows), "bbox": box,
                    "iscrowd": 0,
                }
            )  # fmt: skip
        entry = {"image_id": int(stem), "file_name": f"{stem}.png", "segments_info": segments}
        annotations.append(entry)
    content = {"images": image_entries(), "annotations": annotations, "categories": CATEGORIES}
    write_json(json_file, content)


def instances() -> list[dict[str, Any]]:
    """COCO annotations of the things: compressed and uncompressed RLE, and polygons."""
    rows: list[dict[str, Any]] = []
    for stem in STEMS:
        ids = segment_map(stem)
        for form, segment in enumerate((1, 300, 70000)):
            mask = np.asfortranarray((ids == segment).astype(np.uint8))
            encoded = coco_mask.encode(mask)
            x, y, width, height = coco_mask.toBbox(encoded).tolist()
            counts: Any = encoded["counts"].decode()
            if form == 1:
                changes = np.flatnonzero(np.diff(mask.ravel(order="F"))) + 1
                counts = np.diff([0, *changes.tolist(), mask.size]).tolist()
            segmentation: Any = {"size": [HEIGHT, WIDTH], "counts": counts}
            if form == 2:
                corners = [x, y, x + width, y, x + width, y + height, x, y + height]
                segmentation = [corners]
            rows.append(
                {
                    "id": len(rows) + 1, "image_id": int(stem), "category_id": _OF_SEGMENT[segment],
                    "segmentation": segmentation, "area": int(mask.sum()),
                    "bbox": [x, y, width, height], "iscrowd": 0,
                }
            )  # fmt: skip
    return rows


def write_instances(path: Path) -> None:
    """COCO instances."""
    things = [category for category in CATEGORIES if category["isthing"]]
    write_json(path, {"images": image_entries(), "annotations": instances(), "categories": things})


def results() -> list[dict[str, Any]]:
    """A list of results, as detectors write it."""
    kept = ("image_id", "category_id", "segmentation", "bbox")
    return [
        {**{key: row[key] for key in kept}, "score": round(0.99 - 0.01 * rank, 2)}
        for rank, row in enumerate(instances())
    ]
