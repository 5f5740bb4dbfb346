"""Nuclei of stained tissue as COCO panoptic: one thing, nucleus, on the stuff background.

MoNuSeg draws outlines, as XML of ImageScope, which overlap; TNBC paints nuclei, as PNG, and those
that touch are told apart by gaps. Instances are nuclei as they were drawn; in the panoptic PNG a
pixel that several cover is of the one drawn first, as in MoNuSeg's own conversion.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from trace_d2.complaints import tell_all
from trace_d2.data.prepare.making import ImageEntries, make_each, tell_strangers, write_json_files
from trace_d2.io.atomic import write_bytes
from trace_d2.io.categories import load_categories
from trace_d2.io.coco_panoptic import (
    encode_mask,
    image_entry,
    panoptic_annotation,
    rgb2id,
    segments_info,
    write_panoptic_png,
)
from trace_d2.io.images import read_image
from trace_d2.io.imagescope import read_regions
from trace_d2.io.listing import IMAGE_SUFFIXES
from trace_d2.io.mask_rle import (
    SegmentationError,
    check_segmentation,
    decode_segmentation,
    encode_segmentation,
    text_rle,
)
from trace_d2.io.png import GREY, PALETTE, read_png
from trace_d2.io.subfolders import walk_folder

logger = logging.getLogger(__name__)

MONUSEG_FOLDERS = {"train": "MoNuSeg 2018 Training Data", "test": "MoNuSegTestData"}
"""The folders of MoNuSeg's archives, by split."""

_BACKGROUND, _NUCLEUS = 0, 1
_TINY = 4  # pixels; nuclei have hundreds, the grey levels of a smoothed border one or two each
_AGAIN = "unpack the data set again"
_SLIDE = re.compile(r"(Slide|GT)_([0-9]+)")


@dataclass(frozen=True)
class Source:
    """An image and its annotation.

    Attributes:
        image_id: its rank, from 1.
        file_name: the image as the JSON names it.
    """

    image_id: int
    file_name: str
    image: Path
    annotation: Path


@dataclass(frozen=True)
class Nuclei:
    """The nuclei of one image.

    Attributes:
        masks: COCO's compressed RLE of each, as it was drawn.
        notes: what was left out, and why.
    """

    masks: list[dict[str, Any]]
    notes: tuple[str, ...] = ()


def prepare_monuseg(
    root: str | Path, split: str, output: str | Path, workers: int = 1, progress: bool = True
) -> tuple[int, int]:
    """Write ``panoptic.json``, ``panoptic/``, ``instances.json`` of a split; see ``prepare``.

    Args:
        root: folder that holds those of ``MONUSEG_FOLDERS``, with ``.tif`` and ``.xml`` of one name
            in any folders; names in the JSON are relative to it.
        split: ``"train"`` (37 tiles) or ``"test"`` (14).
    """
    root = Path(root)
    folder = root / MONUSEG_FOLDERS[split]
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: unpack MoNuSeg's archive in {root}")
    images = _by_stem(folder, IMAGE_SUFFIXES)
    annotations = _by_stem(folder, (".xml",))
    _check_pairs(images, annotations, folder)
    sources = [
        Source(rank, images[stem].relative_to(root).as_posix(), images[stem], annotations[stem])
        for rank, stem in enumerate(sorted(images), start=1)
    ]
    description = f"MoNuSeg {split}, converted by trace_d2"
    return _prepare(Path(output), sources, read_outlines, description, workers, progress)


def prepare_tnbc(
    folder: str | Path, output: str | Path, workers: int = 1, progress: bool = True
) -> tuple[int, int]:
    """Write ``images/``, ``panoptic.json``, ``panoptic/``, ``instances.json``; see ``prepare``.

    Args:
        folder: TNBC_NucleiSegmentation, with ``Slide_<n>/`` and ``GT_<n>/`` of PNGs of one name.
            The slides are copied to ``images/``, apart from what is no photograph.
    """
    folder, output = Path(folder), Path(output)
    folder = folder / folder.name if (folder / folder.name).is_dir() else folder
    found: dict[str, dict[str, Path]] = {"Slide": {}, "GT": {}}
    for path in sorted(folder.glob("*_*/*.*")):
        kind = _SLIDE.fullmatch(path.parent.name)
        if kind and path.suffix.lower() == ".png" and path.name[0] != ".":
            other = found[kind[1]].setdefault(path.stem, path)
            if other != path:
                raise ValueError(f"{other} and {path} have one name: {_AGAIN}")
    _check_pairs(found["Slide"], found["GT"], folder)
    (output / "images").mkdir(parents=True, exist_ok=True)
    sources = []
    for rank, (stem, path) in enumerate(sorted(found["Slide"].items()), start=1):
        write_bytes(output / "images" / path.name, path.read_bytes())
        sources.append(Source(rank, path.name, path, found["GT"][stem]))
    tell_strangers(output / "images", {source.file_name for source in sources})
    return _prepare(output, sources, read_painted, "TNBC, converted by trace_d2", workers, progress)


def read_outlines(path: Path, height: int, width: int) -> Nuclei:
    """Nuclei of an XML of outlines, of an image of that size in pixels.

    Outlines without a pixel in the image, of fewer than three points or beyond its borders, are
    left out and told, with their lines.
    """
    masks, empty = [], []
    for region in read_regions(path):
        polygon = [[place for point in region.points for place in point]]
        try:
            sound = check_segmentation(polygon)
            mask = encode_segmentation(sound.segmentation, height, width)
        except SegmentationError:
            mask = None
        if mask is None or not coco_mask.area(mask):
            empty.append(region.line)
        else:
            masks.append(mask)
    if not empty:
        return Nuclei(masks)
    lines = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
    note = f"{len(empty)} outlines without a pixel are left out (line {lines})"
    return Nuclei(masks, (note,))


def read_painted(path: Path, height: int, width: int) -> Nuclei:
    """Nuclei of a PNG, of an image of that size in pixels: what is connected and of one value.

    0 is background; corners connect. Revisions with a value a nucleus are read as well.
    """
    file = read_png(path, "mask of nuclei", _AGAIN)
    if file.header.size != (width, height):
        wide, high = file.header.size
        raise ValueError(f"{path} is {wide}x{high} pixels, its image {width}x{height}: {_AGAIN}")
    if file.header.colour in (GREY, PALETTE):
        values = file.indices() if file.header.bits <= 8 else file.decode()
    else:
        values = rgb2id(np.ascontiguousarray(_colours(file.decode())[..., ::-1]))
    masks = []
    for value in np.unique(values[values != _BACKGROUND]).tolist():
        count, parts = cv2.connectedComponents((values == value).astype(np.uint8), connectivity=8)
        masks += [encode_mask(parts == part) for part in range(1, count)]
    tiny = sum(coco_mask.area(mask) < _TINY for mask in masks)
    if 2 * tiny <= len(masks):
        return Nuclei(masks)
    note = f"{tiny} of {len(masks)} nuclei have fewer than {_TINY} pixels: was the mask smoothed?"
    return Nuclei(masks, (note,))


def painted(masks: Sequence[dict[str, Any]], height: int, width: int) -> tuple[np.ndarray, int]:
    """Segment ids int32 (H, W) of RLE masks, from 1, 0 where there is none; and how many there are.

    A pixel is of the first mask that covers it, so that covered ones have no segment.
    """
    segment_ids, count = np.zeros((height, width), np.int32), 0
    for mask in masks:
        x, y, wide, high = (int(side) for side in coco_mask.toBbox(mask))
        box = np.s_[y : y + high, x : x + wide]
        free = decode_segmentation(mask, height, width)[box] & (segment_ids[box] == 0)
        if free.any():
            count += 1
            segment_ids[box][free] = count
    return segment_ids, count


def _prepare(
    output: Path,
    sources: Sequence[Source],
    read: Callable[[Path, int, int], Nuclei],
    description: str,
    workers: int,
    progress: bool,
) -> tuple[int, int]:
    """Write all files; how many images and nuclei there are.

    Files that were there are written anew; each is whole or not there at all. All images are
    looked at before what is wrong with some is told.
    """
    if not sources:
        raise FileNotFoundError(f"no images for {output}: {_AGAIN}")
    (output / "panoptic").mkdir(parents=True, exist_ok=True)
    job = partial(_write_image, output, read)
    results = make_each(job, sources, workers, output.name, progress)
    for (image, _, _), notes in results:
        for note in notes:
            logger.warning("%s: %s", image["file_name"], note)
    written = [entries for entries, _ in results]
    tell_strangers(output / "panoptic", {annotation["file_name"] for _, annotation, _ in written})
    write_json_files(output, description, load_categories("nuclei"), written)
    return len(written), sum(len(nuclei) for _, _, nuclei in written)


def _write_image(
    output: Path, read: Callable[[Path, int, int], Nuclei], source: Source
) -> tuple[ImageEntries, tuple[str, ...]]:
    """Write the PNG of one image; its entries of the JSON files, and notes."""
    height, width = read_image(source.image).pixels.shape[:2]
    found = read(source.annotation, height, width)
    segment_ids, count = painted(found.masks, height, width)
    notes = [*found.notes, *([] if found.masks else ["there is no nucleus in it"])]
    if covered := len(found.masks) - count:
        notes.append(f"{covered} nuclei lie under others: they are instances, but no segments")
    background = count + 1
    segment_ids[segment_ids == 0] = background
    categories = dict.fromkeys(range(1, background), _NUCLEUS)
    if (segment_ids == background).any():
        categories[background] = _BACKGROUND
    name = f"{Path(source.file_name).stem}.png"
    write_panoptic_png(output / "panoptic" / name, segment_ids)
    segments = segments_info(segment_ids, categories)
    entries = (
        image_entry(source.image_id, source.file_name, height, width),
        panoptic_annotation(source.image_id, name, segments),
        [_instance(mask, source.image_id) for mask in found.masks],
    )
    return entries, tuple(notes)


def _instance(mask: dict[str, Any], image_id: int) -> dict[str, Any]:
    rle = text_rle(mask)
    return {
        "id": 0,  # until they are numbered
        "image_id": image_id,
        "category_id": _NUCLEUS,
        "segmentation": rle,
        "area": int(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "iscrowd": 0,
    }


def _colours(decoded: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) BGR of what OpenCV decodes with colours or transparency."""
    if decoded.dtype != np.uint8:
        raise ValueError(f"a mask of nuclei has 8 bits a channel, not 16: {_AGAIN}")
    return decoded[..., :3]


def _by_stem(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """Files below ``folder`` by stem, whatever folders they lie in."""
    found: dict[str, Path] = {}
    for inner, names in walk_folder(folder):
        for path in (folder / inner / name for name in names):
            if path.suffix.lower() in endings:
                other = found.setdefault(path.stem, path)
                if other != path:
                    raise ValueError(f"{other} and {path} have one name: remove one")
    return found


def _check_pairs(images: dict[str, Path], annotations: dict[str, Path], folder: Path) -> None:
    """Raise unless every image has an annotation, and the other way round."""
    if not images and not annotations:
        raise FileNotFoundError(f"no images and annotations in {folder}: {_AGAIN}")
    bare = [
        f"no annotation of {images[k]}: {_AGAIN}" for k in sorted(set(images) - set(annotations))
    ]
    rest = sorted(set(annotations) - set(images))
    tell_all([*bare, *(f"no image for {annotations[k]}: {_AGAIN}" for k in rest)])
