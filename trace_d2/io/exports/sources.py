"""What is exported: panoptic labels with their PNGs, or a COCO file of instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trace_d2.complaints import Complaints
from trace_d2.io.agreement import check_segments
from trace_d2.io.categories import Category, check_names, load_categories, parse_categories
from trace_d2.io.coco_masks import GivenMask, load_mask_json
from trace_d2.io.coco_panoptic import load_panoptic_json, read_panoptic_png
from trace_d2.io.exports.shapes import Shape, panoptic_shapes, shape_of
from trace_d2.io.hints import did_you_mean
from trace_d2.io.images import fit_to_photograph
from trace_d2.io.json_files import quoted, read_json, shown
from trace_d2.io.mask_rle import SegmentationError, decode_segmentation
from trace_d2.io.paths import file_below
from trace_d2.io.photographs import Photograph

IN_FOLDERS = ("panoptic.json", "predictions.json", "instances.json")
"""The files of a folder that hold labels; the first that is there counts."""


@dataclass(frozen=True)
class LabelledImage:
    """One image and what its labels say, not decoded yet.

    Attributes:
        image_id: its id, or its rank from 1 where ids are no integers.
        file_name: as the labels have it.
        size: (H, W) by the labels; None: they do not tell.
        png: the file of a panoptic label; None of instances.
        segments: of a panoptic label.
        masks: of instances.
        remarks: on what was left out, for the journal.
    """

    image_id: int
    file_name: str
    size: tuple[int, int] | None
    png: Path | None = None
    segments: tuple[dict[str, Any], ...] = ()
    masks: tuple[GivenMask, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelSource:
    """Labels that can be exported.

    Attributes:
        path: the file that lists them.
        remarks: lines on what is peculiar about it.
    """

    path: Path
    images: tuple[LabelledImage, ...]
    categories: tuple[Category, ...]
    remarks: tuple[str, ...] = field(default=())


def label_file(labels: str | Path) -> Path:
    """The file of ``labels``, which is a file, or a folder that holds one."""
    path = Path(labels)
    if not path.is_dir():
        return path
    found = [path / name for name in IN_FOLDERS if (path / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"no {', '.join(IN_FOLDERS[:-1])} or {IN_FOLDERS[-1]} in {path}: give a folder of "
            "make_pseudo_panoptic.py or predict.py, or a COCO file"
        )
    return found[0]


def read_labels(labels: str | Path, images_json: str | Path | None = None) -> LabelSource:
    """Read and check the list of what is exported.

    Args:
        labels: a folder of labels or predictions, a panoptic JSON whose PNGs lie in a folder of its
            name without ending, or COCO instances.
        images_json: COCO file that gives the images and categories of a bare list of results.
    """
    path = label_file(labels)
    content = None if images_json else read_json(path, "labels", "give a folder or a file of them")
    annotations = content.get("annotations") if isinstance(content, dict) else None
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if isinstance(first, dict) and "segments_info" in first:
        return _panoptic(path)
    return _instances(path, images_json)


def chosen_categories(categories: Sequence[Category], names: Sequence[str]) -> tuple[Category, ...]:
    """The categories of these names, in their order; all if there are no names.

    Raises:
        ValueError: a name is none of theirs, or two of them have one name.
    """
    known = {c.name: c for c in check_names(tuple(categories), "what is to be exported")}
    wrong = Complaints()
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            wrong.say(f"no category is called {shown(name)}{hint}: they are {quoted([*known])}")
    wrong.end()
    return tuple(known[name] for name in dict.fromkeys(names)) if names else tuple(categories)


def decode_labels(
    image: LabelledImage, photograph: Photograph | None
) -> tuple[list[Shape], tuple[int, int], list[str]]:
    """The shapes of an image, its size (H, W), and remarks.

    Args:
        photograph: the image, in whose frame, as people see it, the shapes are to be; without it
            they are in that of the labels.
    """
    if image.png is not None:
        ids = read_panoptic_png(image.png, image.size, "the panoptic JSON")
        differing = check_segments(ids, image.segments)
        remarks = [f"PNG and JSON disagree: {differing}"] if differing else []
        if photograph is not None:
            ids, turned = fit_to_photograph(ids, photograph, image.png)
            remarks += turned
        return panoptic_shapes(ids, image.segments), ids.shape, remarks
    size = image.size
    if size is None and photograph is not None:
        size = photograph.pixels.shape[:2]
    if size is None:
        raise ValueError(
            f"the labels do not tell the size of {shown(image.file_name)}: name the folder of the "
            "images by --images"
        )
    return _decode_masks(image, size, photograph)


def _decode_masks(
    image: LabelledImage, size: tuple[int, int], photograph: Photograph | None
) -> tuple[list[Shape], tuple[int, int], list[str]]:
    name = f"a mask of {shown(image.file_name)}"
    shapes, remarks = [], list(image.remarks)
    if photograph is not None:  # before anything of another size is decoded
        empty, _ = fit_to_photograph(np.broadcast_to(np.False_, size), photograph, name)
        full = empty.shape
    else:
        full = size
    for given in image.masks:
        try:
            mask = decode_segmentation(given.segmentation, *size)
        except SegmentationError as error:
            remarks.append(f"annotation no. {given.number} is left out: {error}")
            continue
        if photograph is not None:
            mask, turned = fit_to_photograph(mask, photograph, name)
            remarks += [remark for remark in turned if remark not in remarks]
        shape = shape_of(mask, given.category_id, given.score)
        if shape is None:
            remarks.append(f"annotation no. {given.number} is left out: its mask is empty")
        else:
            shapes.append(shape)
    return shapes, (full[0], full[1]), remarks


def _panoptic(path: Path) -> LabelSource:
    content = load_panoptic_json(path)
    folder = path.with_suffix("")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of PNGs at {folder}, beside {path}: put it there")
    categories = content.categories or _beside(path)
    if not categories:
        raise ValueError(f'{path} has no "categories": add them to the file')
    known = {category.id for category in categories}
    names = content.names.names
    numbered = all(isinstance(key, int) for key in content.annotations)
    images = []
    for rank, (key, annotation) in enumerate(content.annotations.items(), start=1):
        segments = tuple(annotation["segments_info"])
        strange = {segment["category_id"] for segment in segments} - known
        if strange:
            raise ValueError(
                f"{path}: image {shown(key)} has segments of categories {sorted(strange)}, which "
                '"categories" lacks: add them there'
            )
        png = file_below(folder, annotation["file_name"])
        size = content.sizes.get(key)
        name = str(names[key])
        images.append(LabelledImage(key if numbered else rank, name, size, png, segments))
    remarks: tuple[str, ...] = ()
    if content.names.indirect and images:
        remarks = (f"{path} does not name its images: they are taken to be named as the PNGs",)
    return LabelSource(path, tuple(images), categories, remarks)


def _beside(path: Path) -> tuple[Category, ...]:
    """The categories of a file beside, as ``predict.py`` writes it."""
    file = path.with_name("categories.json")
    return load_categories(file) if file.is_file() else ()


def _instances(path: Path, images_json: str | Path | None) -> LabelSource:
    masks = load_mask_json(path, images_json)
    images = tuple(
        LabelledImage(
            one.image_id,
            one.file_name,
            one.size,
            masks=tuple(one.masks),
            remarks=tuple(one.left_out),
        )
        for one in masks.images
    )
    categories = _completed(masks.categories, path)
    return LabelSource(path, images, categories, tuple(masks.findings.lines()))


def _completed(entries: Sequence[dict[str, Any]], path: Path) -> tuple[Category, ...]:
    """COCO categories, which may lack names; without ``isthing`` they are things."""
    listed = [
        {
            **entry,
            "name": str(entry.get("name") or f"category {entry['id']}"),
            "isthing": 1 if entry.get("isthing") is None else entry["isthing"],
            "color": entry.get("color") if isinstance(entry.get("color"), list) else None,
        }
        for entry in entries
    ]
    return parse_categories(listed, str(path), max_id=None)
