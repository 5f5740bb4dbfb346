"""What the fields of a panoptic JSON may hold; ``coco_panoptic`` reads the file."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from .json_files import (
    checked,
    file_name,
    flag,
    number,
    quoted,
    record_id,
    shown,
    side,
    whole_number,
)
from .paths import relative_name

VOID = 0
"""The segment id of pixels that belong to no segment."""

MAX_SEGMENT_ID = 2**24 - 1
"""The largest id that three bytes hold."""

_MOST_PIXELS = 2**53  # that all numbers hold exactly
_FIELDS = itemgetter("id", "category_id", "iscrowd", "area")  # of a segment


def images_by_id(entries: Any, path: Path) -> dict[Any, dict[str, Any]]:
    """COCO ``images`` by id; sizes are positive integers, what is null is left out."""
    if entries is None:
        return {}
    if not isinstance(entries, list):
        raise ValueError(f'{path}: "images" is {quoted(entries)}: write a list of images')
    images: dict[Any, dict[str, Any]] = {}
    for rank, entry in enumerate(entries):
        where = f"{path}: image {rank} of the list"
        if not isinstance(entry, dict) or "id" not in entry:
            raise ValueError(f"{where} is {quoted(entry)}: write it as {{id, file_name}}")
        entry["id"] = checked(entry, "id", record_id, where)
        if entry["id"] in images:
            raise ValueError(
                f"{path} lists image {shown(entry['id'])} twice: give every image its own id"
            )
        images[entry["id"]] = entry
        for key, check in _IMAGE_FIELDS.items():
            if key not in entry:
                continue
            if entry[key] is None:
                del entry[key]
            else:
                entry[key] = checked(entry, key, check, where)
    return images


_IMAGE_FIELDS: dict[str, Callable[[Any], Any]] = {
    "file_name": file_name, "height": side, "width": side
}  # fmt: skip


def check_annotation(annotation: Any, rank: int, path: Path) -> None:
    """Raise ValueError unless ``annotation``, number ``rank`` of ``path``, is a panoptic one.

    Its fields are put into their types, see ``load_panoptic_json``.
    """
    where = f"{path}: annotation {rank}"
    keys = ("image_id", "file_name", "segments_info")
    if not isinstance(annotation, dict) or any(key not in annotation for key in keys):
        hint = ""
        if isinstance(annotation, dict) and "segmentation" in annotation:
            hint = "; this looks like COCO instances, give the panoptic JSON"
        raise ValueError(f"{where} lacks one of {', '.join(keys)}{hint or ': add it'}")
    image_id = annotation["image_id"] = checked(annotation, "image_id", record_id, where)
    where = f"{path}: image {shown(image_id)}"
    try:
        annotation["file_name"] = relative_name(annotation["file_name"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    segments = annotation["segments_info"]
    if not isinstance(segments, list):
        raise ValueError(f'{where}: "segments_info" is {quoted(segments)}: write a list')
    if not segments or _are_plain(segments):
        return
    seen: set[int] = set()
    for segment in segments:
        _check_segment(segment, where)
        if segment["id"] in seen:
            raise ValueError(f"{where}: segment id {segment['id']} appears twice: remove one")
        seen.add(segment["id"])


def _are_plain(segments: list[Any]) -> bool:
    """Whether segments are as COCO writes them; few are not, and millions are looked at."""
    try:
        ids, categories, crowds, areas = zip(*map(_FIELDS, segments), strict=True)
        return (
            {*map(type, chain(ids, categories, crowds, areas))} == {int}
            and len({*ids}) == len(ids)
            and VOID < min(ids) <= max(ids) <= MAX_SEGMENT_ID
            and {*crowds} <= {0, 1}
            and 0 <= min(areas) <= max(areas) <= _MOST_PIXELS
        )
    except (KeyError, TypeError, IndexError):
        return False


def _check_segment(segment: Any, where: str) -> None:
    """Raise ValueError unless ``segment`` is one; its fields are put into their types."""
    if not isinstance(segment, dict) or "id" not in segment or "category_id" not in segment:
        raise ValueError(f"{where}: a segment is {quoted(segment)}: give it id and category_id")
    segment["id"] = checked(segment, "id", whole_number, f"{where}: a segment")
    where = f"{where}: segment id {segment['id']}"
    if not VOID < segment["id"] <= MAX_SEGMENT_ID:
        raise ValueError(f"{where}; ids are 1..{MAX_SEGMENT_ID}, {VOID} is void: correct it")
    segment["category_id"] = checked(segment, "category_id", whole_number, where)
    segment.setdefault("iscrowd", 0)
    segment["iscrowd"] = checked(segment, "iscrowd", flag, where)
    if segment.get("area") is None:
        segment.pop("area", None)
    else:
        checked(segment, "area", number, where)
