"""What perfect models would say of a panoptic data set: semantic masks and instance edges.

They bound what labels can reach, and edges with gaps show how a method bears missing pixels.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from trace_d2.io.atomic import write_json, write_png
from trace_d2.io.categories import UNKNOWN, category_entries
from trace_d2.io.coco_panoptic import load_panoptic_json, read_panoptic_png

_HOLE = 5  # side of a hole in pixels


def boundaries(segment_ids: np.ndarray) -> np.ndarray:
    """Oracle edges (H, W) uint8: 255 where a pixel's right or lower neighbour is another segment.

    As thin as edges can be that part all 4-connected neighbours of different segments.
    """
    edges = np.zeros(segment_ids.shape, bool)
    edges[:, :-1] |= segment_ids[:, 1:] != segment_ids[:, :-1]
    edges[:-1] |= segment_ids[1:] != segment_ids[:-1]
    return edges.astype(np.uint8) * 255


def punch_gaps(edges: np.ndarray, share: float, seed: int | list[int]) -> np.ndarray:
    """``edges`` (H, W) uint8 with square holes of 5 pixels centred on edge pixels.

    Holes are drawn without looking at one another, ``share / 5`` of them an edge pixel, so that on
    thin edges about that share of the pixels goes.

    Raises:
        ValueError: ``share`` is outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of gaps lies in 0..1, not {share}")
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(edges)
    broken = edges.copy()
    for i in rng.choice(len(rows), int(len(rows) * share / _HOLE), replace=False):
        top, left = max(0, rows[i] - _HOLE // 2), max(0, columns[i] - _HOLE // 2)
        broken[top : rows[i] + _HOLE // 2 + 1, left : columns[i] + _HOLE // 2 + 1] = 0
    return broken


def write_oracle(
    truth_json: Path, truth_dir: Path, output: Path, gaps: float = 0.0, progress: bool = True
) -> int:
    """Write semantic/, edges/ and categories.json of a panoptic data set; returns the images.

    Crowd regions and void are unknown (255) in the masks. Files are named after the images.

    Raises:
        ValueError, OSError: the truth is damaged or ``output`` cannot be written.
    """
    truth = load_panoptic_json(truth_json)
    for folder in ("semantic", "edges"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    annotations = truth.annotations.values()
    for annotation in tqdm(annotations, desc="oracle", unit="image", disable=not progress):
        ids = read_panoptic_png(truth_dir / annotation["file_name"])
        stem = Path(annotation["file_name"]).stem
        edges = punch_gaps(boundaries(ids), gaps, [0, zlib.crc32(stem.encode())])
        write_png(output / "semantic" / f"{stem}.png", _semantic(ids, annotation["segments_info"]))
        write_png(output / "edges" / f"{stem}.png", edges)
    write_json(output / "categories.json", category_entries(truth.categories), indent=1)
    return len(truth.annotations)


def _semantic(ids: np.ndarray, segments: list[dict[str, int]]) -> np.ndarray:
    values, inverse = np.unique(ids, return_inverse=True)
    category = {s["id"]: UNKNOWN if s["iscrowd"] else s["category_id"] for s in segments}
    table = np.array([category.get(int(v), UNKNOWN) for v in values], np.uint8)
    return table[inverse].reshape(ids.shape)
