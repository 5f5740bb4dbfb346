"""Rows of benchmark.py: reading whole files, beside the plain way and beside another checkout.

A checkout is timed in a process of its own, which reads the same files in turns with this one.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measuring import Checkout, in_turns
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from trace_d2.io.atomic import write_json, write_png
from trace_d2.io.coco_instances import read_truth
from trace_d2.io.coco_masks import load_mask_json
from trace_d2.io.coco_panoptic import (
    id2rgb,
    load_panoptic_json,
    read_panoptic_png,
    segments_info,
)
from trace_d2.io.edge_maps import read_edges
from trace_d2.io.images import read_semantic
from trace_d2.scenes.procedural import make_scene

Row = list[str]
_SIZE = (480, 640)


def reading_rows(small: bool, repeats: int, against: Path | None = None) -> list[Row]:
    """A row for each kind of file; with ``against`` another, beside the trace_d2 of that folder."""
    images, annotations, panoptic = (2, 60, 20) if small else (20, 100_000, 20_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, images, annotations, panoptic)
        rows = []
        other = Checkout(against, "benchmark_reading") if against else None
        for kind in _KINDS.values():
            title = kind.title.format(f"{panoptic if 'images' in kind.title else annotations:,}")
            ours, plain = partial(kind.read, folder), partial(kind.read_plainly, folder)
            turns = in_turns(ours, plain, repeats, time.process_time, warm_up=1)
            rows.append(turns.row(f"reading {title}", 0.0))
            if other:
                request = kind.title, str(folder)
                turns = other.turns(ours, request, repeats, time.process_time)
                rows.append(turns.row(f"  against {against}", 0.0))
        if other:
            other.close()
    return rows


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        title: what messages call it.
        place: file, or folder of files, below the folder of all.
        ours, plain: read one file.
    """

    title: str
    place: str
    ours: Callable[[Path], Any]
    plain: Callable[[Path], Any]

    def read(self, folder: Path) -> None:
        """Read all files of this kind our way."""
        for path in self._paths(folder):
            self.ours(path)

    def read_plainly(self, folder: Path) -> None:
        """Read them the plain way."""
        for path in self._paths(folder):
            self.plain(path)

    def _paths(self, folder: Path) -> list[Path]:
        path = folder / self.place
        return sorted(path.iterdir()) if path.is_dir() else [path]


def write_files(folder: Path, images: int, annotations: int, panoptic: int) -> None:
    """Files of every kind: so many images of 480 x 640, annotations, and images in a JSON file."""
    for number in range(images):
        scene = make_scene(0, number, size=_SIZE)
        stem = f"{number:06d}.png"
        edges = scene.segment_ids != np.roll(scene.segment_ids, 1, axis=1)
        for kind in ("semantic", "panoptic", "edges"):
            (folder / kind).mkdir(exist_ok=True)
        write_png(folder / "semantic" / stem, (scene.segment_ids % 20).astype(np.uint8))
        write_png(folder / "panoptic" / stem, id2rgb(scene.segment_ids))
        write_png(folder / "edges" / stem, edges.astype(np.uint16) * 40_000)
    segments = segments_info(scene.segment_ids, {s: 1 for s in _ids(scene.segment_ids)})
    masks = [scene.segment_ids == segment["id"] for segment in segments]
    write_json(folder / "rle.json", _instances(masks, annotations, polygons=False))
    write_json(folder / "polygons.json", _instances(masks, annotations, polygons=True))
    content = {
        "images": [_image(n) for n in range(panoptic)],
        "annotations": [
            {"image_id": n, "file_name": f"{n:06d}.png", "segments_info": segments}
            for n in range(panoptic)
        ],
        "categories": [{"id": 1, "name": "thing", "isthing": 1}],
    }
    write_json(folder / "panoptic.json", content)


def serve() -> None:
    """Read what lines of standard input ask for, and answer each with the seconds it took."""
    for line in sys.stdin:
        title, folder = json.loads(line)
        start = time.process_time()
        _KINDS[title].read(Path(folder))
        print(time.process_time() - start, flush=True)


def _plain_mask(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def _plain_panoptic(path: Path) -> np.ndarray:
    rgb = np.asarray(Image.open(path)).astype(np.uint32)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def _plain_edges(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.float32) / np.float32(65535)


def _plain_json(path: Path) -> Any:
    return json.loads(path.read_text())


def _plain_coco(path: Path) -> Any:
    """pycocotools' index, and every mask as compressed RLE."""
    stdout, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115
    try:
        coco = COCO(str(path))
    finally:
        sys.stdout.close()
        sys.stdout = stdout
    return [coco.annToRLE(row) for row in coco.anns.values()]


def _ours_coco(path: Path) -> Any:
    truth = read_truth(path, masks=True)
    return [truth.rle(row) for row in truth.annotations]


_KINDS = {
    kind.title: kind
    for kind in (
        Kind("semantic masks", "semantic", read_semantic, _plain_mask),
        Kind("panoptic PNG", "panoptic", read_panoptic_png, _plain_panoptic),
        Kind("edges, 16-bit PNG", "edges", read_edges, _plain_edges),
        Kind("COCO JSON, {} RLE", "rle.json", _ours_coco, _plain_coco),
        Kind("COCO JSON, {} polygons", "polygons.json", _ours_coco, _plain_coco),
        Kind("masks to refine, {} RLE", "rle.json", load_mask_json, _plain_json),
        Kind("panoptic JSON, {} images", "panoptic.json", load_panoptic_json, _plain_json),
    )
}


def _image(number: int) -> dict[str, Any]:
    height, width = _SIZE
    return {"id": number, "file_name": f"{number:06d}.jpg", "height": height, "width": width}


def _ids(segment_ids: np.ndarray) -> list[int]:
    return [int(segment) for segment in np.unique(segment_ids) if segment]


def _instances(masks: Sequence[np.ndarray], count: int, polygons: bool) -> dict[str, Any]:
    forms: list[Any] = []
    for mask in masks:
        encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        box, area = coco_mask.toBbox(encoded).tolist(), int(mask.sum())
        form: Any = {"size": list(mask.shape), "counts": encoded["counts"].decode()}
        if polygons:
            found, _ = cv2.findContours(
                mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_L1
            )
            form = [c.ravel().astype(float).tolist() for c in found if len(c) >= 3]
        if form:
            forms.append({"segmentation": form, "bbox": box, "area": area})
    rows = [
        {"id": n + 1, "image_id": n // 10, "category_id": 1, "iscrowd": 0, **forms[n % len(forms)]}
        for n in range(count)
    ]
    images = [_image(number) for number in range(-(-count // 10))]
    categories = [{"id": 1, "name": "thing"}]
    return {"images": images, "annotations": rows, "categories": categories}
