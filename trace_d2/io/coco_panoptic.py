"""COCO panoptic and COCO instances: what panopticapi, pycocotools and Detectron2 read.

A panoptic PNG holds the segment id R + 256 G + 65536 B in every pixel; 0 is void. The JSON beside
it lists each segment of each image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from .atomic import write_png
from .categories import Category, category_entries, parse_categories
from .json_files import read_json
from .mask_rle import text_rle
from .png import RGB, read_png
from .regions import check_map, region_statistics

VOID = 0
"""The segment id of pixels that belong to no segment."""

MAX_SEGMENT_ID = 2**24 - 1
"""The largest id that three bytes hold."""


@dataclass(frozen=True)
class PanopticSet:
    """A validated panoptic JSON.

    Attributes:
        images: COCO ``images`` entries; empty where the file has none.
        annotations: annotation of each image id: ``{image_id, file_name, segments_info}``.
        categories: in the order of the file; empty where the file has none.
    """

    path: Path
    images: tuple[dict[str, Any], ...]
    annotations: dict[Any, dict[str, Any]]
    categories: tuple[Category, ...]

    def only(self, image_ids: Collection[Any]) -> PanopticSet:
        """The same set of the images ``image_ids`` alone, in the order of the file."""
        wanted = wanted_ids(image_ids, self.annotations, f"{self.path} has no annotation of image")
        return replace(
            self,
            images=tuple(image for image in self.images if image["id"] in wanted),
            annotations={key: one for key, one in self.annotations.items() if key in wanted},
        )


def wanted_ids(
    image_ids: Collection[Any], known: Collection[Any], complaint: str
) -> frozenset[Any]:
    """``image_ids``; raises a ValueError that begins with ``complaint`` if some are not known."""
    wanted = frozenset(image_ids)
    unknown = sorted(map(str, wanted.difference(known)))
    if unknown:
        raise ValueError(f"{complaint} {', '.join(unknown[:5])}: choose of its image ids")
    return wanted


def rgb2id(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to segment ids (H, W) int32: R + 256 G + 65536 B."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected (H, W, 3) uint8, got {rgb.dtype} of shape {rgb.shape}")
    return _ids(np.ascontiguousarray(rgb), cv2.COLOR_RGB2RGBA)


def _ids(colours: np.ndarray, to_rgba: int) -> np.ndarray:
    # The bytes R, G, B, 0 are a little-endian integer already.
    padded = cv2.cvtColor(colours, to_rgba)
    padded[..., 3] = 0
    return padded.view("<i4")[..., 0].astype(np.int32, copy=False)


def id2rgb(segment_ids: np.ndarray) -> np.ndarray:
    """Segment ids (H, W), integers in 0..2^24-1, to (H, W, 3) uint8; undoes ``rgb2id``."""
    check_map(segment_ids, "segment ids are (H, W) integers")
    if segment_ids.size and not 0 <= segment_ids.min() <= segment_ids.max() <= MAX_SEGMENT_ID:
        raise ValueError(
            f"segment ids must be in 0..{MAX_SEGMENT_ID}, "
            f"found {segment_ids.min()}..{segment_ids.max()}"
        )
    little_endian = np.ascontiguousarray(segment_ids, dtype="<i4")
    channels = little_endian.view(np.uint8).reshape(*segment_ids.shape, 4)
    return cv2.cvtColor(channels, cv2.COLOR_RGBA2RGB)


def read_panoptic_png(path: str | Path) -> np.ndarray:
    """Segment ids (H, W) int32 of a panoptic PNG."""
    file = read_png(path, "panoptic PNG", "make it again or correct the folder")
    if (file.header.colour, file.header.bits) != (RGB, 8):
        raise ValueError(
            f"{path} has mode {file.header.mode}; a panoptic PNG is 8-bit RGB, "
            "id = R + 256 G + 65536 B"
        )
    return _ids(file.decode(), cv2.COLOR_BGR2RGBA)


def write_panoptic_png(path: str | Path, segment_ids: np.ndarray) -> None:
    """Write segment ids (H, W), integers in 0..2^24-1, as a panoptic PNG, whole or not at all."""
    write_png(path, id2rgb(segment_ids))


def segments_info(
    segment_ids: np.ndarray, category_ids: Mapping[int, int], crowd: Collection[int] = ()
) -> list[dict[str, Any]]:
    """COCO ``segments_info`` of one image: id, category_id, area, bbox and iscrowd, by id.

    Args:
        segment_ids: (H, W) integers, 0 = void.
        category_ids: ``category_id`` of every segment of the map, and of no other.
        crowd: segments that are crowd regions.
    """
    regions = [column.tolist() for column in region_statistics(segment_ids)]
    present = set(regions[0]) - {VOID}
    if present != set(category_ids):
        raise ValueError(
            f"segments without a category: {sorted(present - set(category_ids))}; "
            f"categories without a pixel: {sorted(set(category_ids) - present)}"
        )
    return [
        {
            "id": label,
            "category_id": int(category_ids[label]),
            "area": area,
            "bbox": box,
            "iscrowd": int(label in crowd),
        }
        for label, area, box in zip(*regions, strict=True)
        if label != VOID
    ]


def image_entry(image_id: int, file_name: str, height: int, width: int) -> dict[str, Any]:
    """One entry of COCO ``images``; sizes in pixels."""
    return {"id": image_id, "file_name": file_name, "height": height, "width": width}


def panoptic_annotation(
    image_id: int, file_name: str, segments: list[dict[str, Any]]
) -> dict[str, Any]:
    """One entry of panoptic ``annotations``; ``file_name`` is the PNG's, without folder."""
    return {"image_id": image_id, "file_name": file_name, "segments_info": segments}


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool to COCO's compressed RLE, ``{size: [H, W], counts: str}``."""
    return text_rle(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def instance_annotations(
    segment_ids: np.ndarray,
    segments: Iterable[Mapping[str, Any]],
    categories: Sequence[Category],
    image_id: int,
    first_id: int = 1,
) -> list[dict[str, Any]]:
    """COCO instances annotations of the thing segments of one image.

    Args:
        segment_ids: (H, W) integers, 0 = void.
        segments: as ``segments_info`` returns them.
        categories: those the segments refer to; segments of stuff are left out.
        first_id: annotation id of the first segment; the rest count up from it.
    """
    things = {category.id: category.isthing for category in categories}
    annotations: list[dict[str, Any]] = []
    for segment in segments:
        if segment["category_id"] not in things:
            raise ValueError(f"segment {segment['id']} has unknown {segment['category_id']=}")
        if not things[segment["category_id"]]:
            continue
        annotations.append(
            {
                "id": first_id + len(annotations),
                "image_id": image_id,
                "category_id": segment["category_id"],
                "segmentation": encode_mask(segment_ids == segment["id"]),
                "area": segment["area"],
                "bbox": segment["bbox"],
                "iscrowd": segment["iscrowd"],
            }
        )
    return annotations


def coco_dataset(
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    categories: Sequence[Category],
    description: str = "",
) -> dict[str, Any]:
    """A whole COCO file, panoptic or instances, ready for ``write_json``."""
    return {
        "info": {"description": description},
        "licenses": [],
        "images": list(images),
        "annotations": list(annotations),
        "categories": category_entries(tuple(categories)),
    }


def load_panoptic_json(path: str | Path) -> PanopticSet:
    """Read and check a panoptic JSON, of truth or of predictions."""
    path = Path(path)
    content = read_json(path, "panoptic JSON")
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise ValueError(f'{path} has no list "annotations"; give a COCO panoptic JSON')
    annotations: dict[Any, dict[str, Any]] = {}
    for annotation in content["annotations"]:
        _check_annotation(annotation, path)
        if annotation["image_id"] in annotations:
            raise ValueError(f"{path} has two annotations of image {annotation['image_id']}")
        annotations[annotation["image_id"]] = annotation
    categories: tuple[Category, ...] = ()
    if content.get("categories"):
        categories = parse_categories(content["categories"], str(path), max_id=None)
    return PanopticSet(path, tuple(content.get("images", ())), annotations, categories)


def _check_annotation(annotation: Any, path: Path) -> None:
    """Raise ValueError unless ``annotation`` is a panoptic one with proper segments."""
    keys = ("image_id", "file_name", "segments_info")
    if not isinstance(annotation, dict) or any(key not in annotation for key in keys):
        hint = ""
        if isinstance(annotation, dict) and "segmentation" in annotation:
            hint = "; this looks like COCO instances, give the panoptic JSON"
        raise ValueError(f"{path}: an annotation lacks one of {', '.join(keys)}{hint}")
    seen = set()
    for segment in annotation["segments_info"]:
        where = f"{path}: image {annotation['image_id']}"
        if not isinstance(segment, dict) or "id" not in segment or "category_id" not in segment:
            raise ValueError(f"{where}: a segment lacks id or category_id: {segment}")
        if segment["id"] in seen:
            raise ValueError(f"{where}: segment id {segment['id']} appears twice")
        if type(segment["id"]) is not int or not VOID < segment["id"] <= MAX_SEGMENT_ID:
            raise ValueError(
                f"{where}: segment id {segment['id']!r}; "
                f"ids are 1..{MAX_SEGMENT_ID}, {VOID} is void"
            )
        seen.add(segment["id"])
