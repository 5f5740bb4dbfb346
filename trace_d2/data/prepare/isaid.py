"""iSAID in patches: DOTA's images with a map of instances and one of classes each.

As in its devkit, patches of 800 x 800 pixels overlap by 200, the last ones of a row and a column
end at the border, and images of which a side is shorter stay whole. Of an instance at the border
of a patch, what the patch shows is the instance there.

An image is done when its record is written; records of unchanged files are taken as they are, so
that the same command continues. A PNG cannot be read in parts, so a process holds one whole image
at a time: up to 8 bytes a pixel.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trace_d2.complaints import tell_all
from trace_d2.data.dataset_files import folder_names
from trace_d2.data.prepare.image_sizes import size_fault
from trace_d2.data.prepare.making import make_each, tell_strangers
from trace_d2.data.prepare.one_class import SEE
from trace_d2.io.atomic import atomic_file, write_json, write_png
from trace_d2.io.categories import category_entries, load_categories
from trace_d2.io.coco_panoptic import (
    id2rgb,
    image_entry,
    instance_annotations,
    rgb2id,
    segments_info,
)
from trace_d2.io.coco_stream import CocoStream
from trace_d2.io.images import read_image
from trace_d2.io.json_files import read_json
from trace_d2.io.png import RGB, read_png
from trace_d2.io.regions import overlaps

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
"""Those with masks: the masks of test are withheld."""

PATCH, OVERLAP = 800, 200
SMALLEST = 11
"""Pixels of an instance in a patch; smaller ones are left out."""

_SKIPPED = ("P1527", "P1530")  # the devkit's: too large
_FORMAT = 1
_IMAGE = re.compile(r"(P[0-9]+)\.png")
_IDS, _COLOURS = "_instance_id_RGB.png", "_instance_color_RGB.png"
_UNKNOWN = 255
_TOLERATED = 0.01  # share of the drawn pixels of an image of which the two maps may disagree
_BAND = 1024  # rows
_AGAIN = "unpack the data set again"


@dataclass(frozen=True)
class Counts:
    """What a split comes to: original images, patches, and instances in them."""

    images: int
    patches: int
    instances: int


def prepare_isaid(
    source: str | Path, output: str | Path, workers: int = 1, progress: bool = True
) -> Counts:
    """Cut the images of a split and write ``images/``, ``records/`` and ``instances.json``.

    Args:
        source: folder with P0003.png, P0003_instance_id_RGB.png and P0003_instance_color_RGB.png.
        output: folder to write to.
        workers: processes.
        progress: show a progress bar.

    Raises:
        FileNotFoundError, ConfigError: files are missing or wrong; all images are tried, those that
            are done stay done, and ``instances.json`` is written once none is wrong.
    """
    source, output = Path(source), Path(output)
    stems = _stems(source)
    for name in ("images", "records"):
        (output / name).mkdir(parents=True, exist_ok=True)
    job = partial(_cut, source, output)
    make_each(job, stems, workers, output.name, progress)
    return _join(output, stems)


def patch_boxes(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Top, bottom, left and right in pixels of the patches of an image, by columns."""
    if min(height, width) <= PATCH:
        return [(0, height, 0, width)]
    return [
        (top, top + PATCH, left, left + PATCH) for left in _starts(width) for top in _starts(height)
    ]


def class_map(colours: np.ndarray) -> np.ndarray:
    """Category ids uint8 (H, W), 0 = none, of a map of classes uint8 (H, W, 3) BGR.

    Raises:
        ValueError: it has a colour that no class has.
    """
    classes = np.empty(colours.shape[:2], np.uint8)
    for start in range(0, len(colours), _BAND):
        codes = _codes(colours[start : start + _BAND])
        np.take(_table(), codes, out=classes[start : start + _BAND])
        strange = classes[start : start + _BAND] == _UNKNOWN
        if strange.any():
            red, green, blue = id2rgb(codes[strange][:1, None])[0, 0].tolist()
            raise ValueError(f"it has the colour {red}, {green}, {blue}, which no class has")
    return classes


def patch_instances(
    segment_ids: np.ndarray, classes: np.ndarray
) -> tuple[list[dict[str, Any]], int, int]:
    """The instances of a patch.

    Args:
        segment_ids: int32 (H, W), 0 = none.
        classes: uint8 (H, W), as ``class_map`` gives them.

    Returns:
        COCO annotations, with ids to come; how many pixels the maps draw; and at how many they
        disagree. An instance is of the class of most of its pixels; one without is left out.
    """
    best: dict[int, tuple[int, int]] = {}
    pairs = zip(*(column.tolist() for column in overlaps(segment_ids, classes)), strict=True)
    drawn = 0
    for segment, category, pixels in pairs:
        drawn += pixels if segment or category else 0
        if segment and category and pixels > best.get(segment, (0, 0))[1]:
            best[segment] = category, pixels
    agreed = sum(pixels for _, pixels in best.values())
    known = np.where(np.isin(segment_ids, list(best)), segment_ids, 0)
    segments = segments_info(known, {segment: category for segment, (category, _) in best.items()})
    segments = [one for one in segments if one["area"] >= SMALLEST]
    return instance_annotations(known, segments, load_categories("isaid"), 0), drawn, drawn - agreed


def _stems(source: Path) -> list[str]:
    """The images of a split, in order; raises where a map or an image of maps is missing."""
    names = folder_names(source, "iSAID's images", SEE)
    matches = (_IMAGE.fullmatch(name) for name in names)
    stems = sorted({match[1] for match in matches if match} - {*_SKIPPED})
    lacking = [
        f"{source / stem}.png has no {stem}{ending} beside it: {_AGAIN}"
        for stem in stems
        for ending in (_IDS, _COLOURS)
        if stem + ending not in names
    ]
    maps = {name.removesuffix(_IDS) for name in names if name.endswith(_IDS)}
    bare = sorted(maps - {*stems, *_SKIPPED})
    lacking += [f"{source / stem}{_IDS} has no image {stem}.png: put DOTA's there" for stem in bare]
    if not stems and not lacking:
        raise FileNotFoundError(f"no P<n>.png in {source}: put DOTA's images there")
    tell_all(lacking)
    return stems


def _cut(source: Path, output: Path, stem: str) -> None:
    """Write patches and record of one image, unless that has been done."""
    paths = [source / f"{stem}{ending}" for ending in (".png", _IDS, _COLOURS)]
    stamps = [[path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    record = output / "records" / f"{stem}.json"
    if _is_done(record, stamps, output):
        return
    patches, disagreeing = _read_patches(stem, *paths)
    pixels = read_image(paths[0], paths[1:]).pixels
    for patch in patches:
        top, bottom, left, right = patch.pop("box")
        path = output / "images" / patch["file_name"]
        write_png(path, pixels[top:bottom, left:right], fast=True)
        patch["bytes"] = path.stat().st_size
    facts = {"format": _FORMAT, "sources": stamps, "disagreeing": disagreeing, "patches": patches}
    write_json(record, facts)


def _is_done(record: Path, stamps: list[list[int]], output: Path) -> bool:
    try:
        found = json.loads(record.read_bytes())
        known = found["format"] == _FORMAT and found["sources"] == stamps
        if not (known and found["disagreeing"] >= 0):
            return False
        return all(
            isinstance(patch["annotations"], list)
            and patch["height"] > 0 < patch["width"]
            and (output / "images" / patch["file_name"]).stat().st_size == patch["bytes"]
            for patch in found["patches"]
        )
    except (OSError, ValueError, LookupError, TypeError):  # to be made anew, whatever it is
        return False


def _read_patches(
    stem: str, image: Path, ids: Path, colours: Path
) -> tuple[list[dict[str, Any]], int]:
    """What the record says of each patch, with its box; and at how many pixels maps disagree."""
    classes = _read_classes(colours)
    codes = _read_map(ids)
    if codes.shape[:2] != classes.shape:
        raise ValueError(f"{ids} and {colours} differ in size: {_AGAIN}")
    height, width = classes.shape
    fault, remedy = size_fault(image, width, height, _AGAIN)
    if fault:
        raise ValueError(f"{fault}: {remedy}")
    patches, drawn, disagreeing = list[dict[str, Any]](), 0, 0
    for box in patch_boxes(height, width):
        top, bottom, left, right = box
        part = np.s_[top:bottom, left:right]
        annotations, count, wrong = patch_instances(_codes(codes[part]), classes[part])
        whole = (bottom, right) == (height, width) and (top, left) == (0, 0)
        name = f"{stem}.png" if whole else f"{stem}_{top}_{bottom}_{left}_{right}.png"
        sides = {"height": bottom - top, "width": right - left}
        patches.append({"file_name": name, **sides, "annotations": annotations, "box": box})
        drawn, disagreeing = drawn + count, disagreeing + wrong
    if disagreeing > _TOLERATED * drawn:
        raise ValueError(
            f"{ids} and {colours} disagree at {disagreeing} of {drawn} pixels on what is drawn: "
            f"are they of one image? {_AGAIN}"
        )
    return patches, disagreeing


def _join(output: Path, stems: list[str]) -> Counts:
    """Write ``instances.json`` of all records, one after the other."""
    categories = category_entries(load_categories("isaid"))
    description = f"iSAID {output.name}, in patches, converted by trace_d2"
    disagreeing: dict[str, int] = {}
    patches, names = 0, set[str]()
    with (
        atomic_file(output / "instances.json") as file,
        CocoStream(file, categories, description) as stream,
    ):
        for stem, record in _records(output, stems):
            disagreeing |= {stem: record["disagreeing"]} if record["disagreeing"] else {}
            for patch in record["patches"]:
                patches += 1
                names.add(patch["file_name"])
                sides = patch["height"], patch["width"]
                stream.add_image(image_entry(patches, patch["file_name"], *sides))
                for one in patch["annotations"]:
                    stream.add({**one, "id": stream.count + 1, "image_id": patches})
        stream.end()
    tell_strangers(output / "images", names)
    if disagreeing:
        worst = max(disagreeing, key=disagreeing.__getitem__)
        logger.warning(
            "%s: maps of instances and of classes disagree in %d images, most in %s (%d pixels of "
            "its patches): instances are of the class of most of their pixels",
            output, len(disagreeing), worst, disagreeing[worst],
        )  # fmt: skip
    return Counts(len(stems), patches, stream.count)


def _records(output: Path, stems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for stem in stems:
        yield stem, read_json(output / "records" / f"{stem}.json", "record", "run it again")


def _starts(side: int) -> list[int]:
    """Where patches begin along a side longer than one, the last one ending with it."""
    return sorted({min(start, side - PATCH) for start in range(0, side, PATCH - OVERLAP)})


def _read_map(path: Path) -> np.ndarray:
    """A map uint8 (H, W, 3) BGR."""
    file = read_png(path, "map", _AGAIN)
    if (file.header.colour, file.header.bits) != (RGB, 8):
        raise ValueError(
            f"{path} has mode {file.header.mode}, iSAID's maps are 8-bit RGB: {_AGAIN}"
        )
    return file.decode()


def _read_classes(path: Path) -> np.ndarray:
    """As ``class_map``, of a file."""
    colours = _read_map(path)
    try:
        return class_map(colours)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {_AGAIN}") from error


def _codes(pixels: np.ndarray) -> np.ndarray:
    """R + 256 G + 65536 B, int32 (H, W), of uint8 (H, W, 3) BGR."""
    return rgb2id(np.ascontiguousarray(pixels[..., ::-1]))


@functools.cache
def _table() -> np.ndarray:
    """The class of each code of a colour; 0 of black, ``_UNKNOWN`` of colours that no class has."""
    table = np.full(2**24, _UNKNOWN, np.uint8)
    table[0] = 0
    for category in load_categories("isaid"):
        red, green, blue = category.color
        table[red + 256 * green + 65536 * blue] = category.id
    return table
