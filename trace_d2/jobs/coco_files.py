"""COCO files that join the results of single images, as their notes have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from pycocotools import mask as coco_mask

from trace_d2.io.categories import Category, parse_categories
from trace_d2.io.coco_panoptic import encode_mask, image_entry
from trace_d2.io.coco_stream import CocoStream
from trace_d2.io.json_files import (
    FieldError,
    box,
    flag,
    json_object,
    number,
    quoted,
    side,
    whole_number,
)
from trace_d2.io.mask_rle import SegmentationError, check_segmentation
from trace_d2.jobs.layout import NOTES
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.output import DamagedFileError
from trace_d2.jobs.store import JobStore

_FIELDS: dict[str, Callable[[Any], Any]] = {
    "id": whole_number,
    "category_id": whole_number,
    "area": number,
    "iscrowd": lambda value: flag(whole_number(value)),  # we never write null
    "score": number,
}


def write_instances(
    file: BinaryIO,
    outcome: Outcome,
    categories: Sequence[Mapping[str, Any]],
    description: str,
    **info: str,
) -> None:
    """Write the ``instances`` of all notes, their ids counted from 1, as one COCO file."""
    with CocoStream(file, categories, description, **info) as stream:
        for entry, record in outcome.noted():
            note = read_result(outcome.store, entry.stem, instances=record.facts["segments"])
            image_id = int(entry.image_id)  # type: ignore[arg-type]  # finished ones have one
            stream.add_image(image_entry(image_id, entry.file_name, note["height"], note["width"]))
            for annotation in note["instances"]:
                stream.add({"id": stream.count + 1, "image_id": image_id, **annotation})
        stream.end()


def read_result(store: JobStore, stem: str, **counts: int) -> dict[str, Any]:
    """The note of a finished image with its size and lists of annotations.

    Args:
        counts: the names of the lists, ``segments`` or ``instances``, and how many each holds.

    Raises:
        DamagedFileError: a field is none that we write there.
    """
    place = "it"
    try:
        note = json_object(store.read_note(stem))
        sides = [side(note[name]) for name in ("height", "width")]
        for name, count in counts.items():
            if not isinstance(note[name], list) or len(note[name]) != count:
                raise FieldError(f"has not the {count} {name} of the journal")
            for rank, annotation in enumerate(note[name]):
                place = f"{name}[{rank}]"
                _check_annotation(json_object(annotation))
                if name == "instances":
                    _check_mask(annotation["segmentation"], sides)
                else:
                    whole_number(annotation["id"])
    except (KeyError, FieldError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else error
        raise DamagedFileError(
            f"{store.address_of(store.path(NOTES, stem))} is damaged ({place} {what}): remove it, "
            "and run the same command again"
        ) from error
    return dict(note)


def _check_annotation(annotation: dict[str, Any]) -> None:
    """Raise a KeyError, TypeError or FieldError unless it has the fields that ours have."""
    for key, read in _FIELDS.items():
        if key in annotation or key in ("category_id", "area", "iscrowd"):
            read(annotation[key])
    box(annotation["bbox"])


def _check_mask(rle: dict[str, Any], sides: list[int]) -> None:
    try:
        sound = json_object(rle)["size"] == sides and isinstance(rle["counts"], str)
        sound = sound and check_segmentation(rle)
    except SegmentationError:
        sound = None
    if not sound:
        raise FieldError(f"has the mask {quoted(rle)}")


def mask_annotations(
    masks: np.ndarray, categories: Sequence[int], scores: Sequence[float] | None
) -> list[dict[str, Any]]:
    """COCO annotations of masks, without id and image_id: compressed RLE, as text.

    Args:
        masks: (N, H, W) bool.
        categories: (N,) category ids.
        scores: (N,) confidences; None if there are none.
    """
    encoded = [encode_mask(mask) for mask in masks]
    boxes = coco_mask.toBbox(encoded).tolist()
    annotations = []
    for rank, rle in enumerate(encoded):
        annotation = {
            "category_id": categories[rank],
            "bbox": boxes[rank],
            "area": int(coco_mask.area(rle)),  # of lists of more than 255 it knows none
            "iscrowd": 0,
            "segmentation": rle,
        }
        if scores is not None:
            annotation["score"] = scores[rank]
        annotations.append(annotation)
    return annotations


def stored_categories(outcome: Outcome) -> tuple[Category, ...]:
    """The categories of a folder of results, by its settings; their ids may be of any size."""
    origin = outcome.store.address_of(outcome.store.settings_path)
    return parse_categories(outcome.settings.get("categories"), origin, max_id=None)
