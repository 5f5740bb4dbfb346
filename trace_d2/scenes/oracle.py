"""What models would say of a panoptic data set, made from its truth.

Perfect semantic masks and instance edges bound what labels can reach; edges with gaps show how a
method bears missing pixels; masks in which everything that touches is one, as unsupervised
segmentation tends to give them, show how far edges alone can part instances.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from trace_d2.io.agreement import check_segments, warn_of_disagreements
from trace_d2.io.atomic import write_json, write_png
from trace_d2.io.categories import UNKNOWN, Category, category_entries
from trace_d2.io.coco_panoptic import (
    PanopticSet,
    instance_annotations,
    load_panoptic_json,
    read_panoptic_png,
    segments_info,
)
from trace_d2.io.json_files import shown
from trace_d2.io.paths import file_below

_HOLE = 5  # side of a hole in pixels
_OBJECT = Category(1, "object", True, (255, 255, 255))


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
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of gaps lies in 0..1, not {share}")
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(edges)
    broken = edges.copy()
    for i in rng.choice(len(rows), int(len(rows) * share / _HOLE), replace=False):
        broken[hole_at(rows[i], columns[i], _HOLE)] = 0
    return broken


def hole_at(row: int, column: int, side: int) -> tuple[slice, slice]:
    """The square of ``side`` (odd) pixels around a pixel, as far as the image goes."""
    reach = side // 2
    rows = slice(max(0, row - reach), row + reach + 1)
    return rows, slice(max(0, column - reach), column + reach + 1)


def write_oracle(
    truth_json: Path, truth_dir: Path, output: Path, gaps: float = 0.0, progress: bool = True
) -> int:
    """Write semantic/, edges/ and categories.json of a panoptic data set; returns the images.

    Crowd regions and void are unknown (255) in the masks. Files are named after the images, in
    sub-folders as theirs.
    """
    truth = load_panoptic_json(truth_json)
    wide = [category.id for category in truth.categories if category.id >= UNKNOWN]
    if wide:
        raise ValueError(
            f"{truth.path}: a mask of 8 bits cannot hold category {wide[0]}, as {UNKNOWN} means "
            f"unknown: number the categories 0..{UNKNOWN - 1}"
        )
    stems = {image_id: stem for stem, image_id in truth.by_stem().items()}
    for image_id, ids, annotation in _images(truth, truth_dir, "oracle", progress):
        semantic, edges = (
            file_below(output / folder, f"{stems[image_id]}.png")
            for folder in ("semantic", "edges")
        )
        for path in (semantic, edges):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_png(semantic, _semantic(ids, annotation["segments_info"]))
        seed = [0, zlib.crc32(edges.stem.encode())]  # of the name alone
        write_png(edges, punch_gaps(boundaries(ids), gaps, seed))
    write_json(output / "categories.json", category_entries(truth.categories), indent=1)
    return len(truth.annotations)


def write_merged_masks(
    truth_json: Path,
    truth_dir: Path,
    output: Path,
    progress: bool = True,
    *,
    per_class: bool = False,
) -> int:
    """Write the merged masks of a panoptic data set as COCO instances.

    The masks of an image are the 4-connected components of the union of its things, of one category
    "object", or, ``per_class``, those of the things of each category, which they keep. Crowd
    regions belong to none. Returns the number of masks.
    """
    truth = load_panoptic_json(truth_json)
    things = tuple(category for category in truth.categories if category.isthing)
    categories = things if per_class else (_OBJECT,)
    annotations: list[dict[str, Any]] = []
    for image_id, ids, annotation in _images(truth, truth_dir, "merged masks", progress):
        for category in categories:
            chosen = {category.id} if per_class else {thing.id for thing in things}
            wanted = [
                segment["id"]
                for segment in annotation["segments_info"]
                if segment["category_id"] in chosen and not segment["iscrowd"]
            ]
            labels, count = ndimage.label(np.isin(ids, wanted))
            masks = segments_info(labels, dict.fromkeys(range(1, count + 1), category.id))
            annotations += instance_annotations(
                labels, masks, [category], image_id, first_id=len(annotations) + 1
            )
    _write(output, truth, annotations, categories)
    return len(annotations)


def write_instances(truth_json: Path, truth_dir: Path, output: Path, progress: bool = True) -> int:
    """Write the things of a panoptic data set, crowd regions too, as COCO instances.

    Returns the number of masks.
    """
    truth = load_panoptic_json(truth_json)
    annotations: list[dict[str, Any]] = []
    for image_id, ids, annotation in _images(truth, truth_dir, "instances", progress):
        segments = annotation["segments_info"]
        crowd = [s["id"] for s in segments if s["iscrowd"]]
        try:
            found = segments_info(ids, {s["id"]: s["category_id"] for s in segments}, crowd)
        except ValueError as error:
            raise ValueError(f"{truth.path}: image {image_id}: {error}") from error
        annotations += instance_annotations(
            ids, found, truth.categories, image_id, first_id=len(annotations) + 1
        )
    _write(output, truth, annotations, truth.categories)
    return len(annotations)


def _images(
    truth: PanopticSet, truth_dir: Path, what: str, progress: bool
) -> Iterator[tuple[Any, np.ndarray, dict[str, Any]]]:
    """Image id, segment ids (H, W) and annotation of each image."""
    bar = tqdm(truth.annotations.items(), desc=what, unit="image", disable=not progress)
    known = {category.id for category in truth.categories}
    disagreements = {}
    for image_id, annotation in bar:
        segments, where = annotation["segments_info"], f"{truth.path}: image {shown(image_id)}"
        strange = {segment["category_id"] for segment in segments} - known
        if strange:
            raise ValueError(f'{where}: "categories" lacks {sorted(strange)[:5]}: add them there')
        path = file_below(truth_dir, annotation["file_name"])
        ids = read_panoptic_png(path, truth.sizes.get(image_id), f"{truth.path}")
        try:
            disagreements[image_id] = check_segments(ids, segments)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        yield image_id, ids, annotation
    consequence = "; what is not listed is unknown"
    warn_of_disagreements(str(truth.path), disagreements, consequence)


def _semantic(ids: np.ndarray, segments: list[dict[str, int]]) -> np.ndarray:
    values, inverse = np.unique(ids, return_inverse=True)
    category = {s["id"]: UNKNOWN if s["iscrowd"] else s["category_id"] for s in segments}
    table = np.array([category.get(int(v), UNKNOWN) for v in values], np.uint8)
    return table[inverse].reshape(ids.shape)


def _write(
    output: Path,
    truth: PanopticSet,
    annotations: list[dict[str, Any]],
    categories: Iterable[Category],
) -> None:
    named = [{"id": category.id, "name": category.name} for category in categories]
    content = {"images": list(truth.images), "annotations": annotations, "categories": named}
    write_json(output, content)
