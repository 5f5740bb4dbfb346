"""COCO panoptic and COCO instances: what panopticapi, pycocotools and Detectron2 read.

A panoptic PNG holds the segment id R + 256 G + 65536 B in every pixel; 0 is void. The JSON beside
it lists each segment of each image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from .atomic import write_png
from .categories import Category, category_entries, parse_categories
from .joining import ImageNames, same_image
from .json_files import paused_collector, read_json, shown
from .mask_rle import text_rle
from .panoptic_fields import MAX_SEGMENT_ID as MAX_SEGMENT_ID
from .panoptic_fields import VOID as VOID
from .panoptic_fields import check_annotation, images_by_id
from .paths import image_stem
from .png import RGB, read_png
from .regions import check_map, region_statistics


@dataclass(frozen=True)
class PanopticSet:
    """A validated panoptic JSON.

    Attributes:
        images: COCO ``images`` entries, each with an id; empty where the file has none.
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

    @cached_property
    def sizes(self) -> dict[Any, tuple[int, int]]:
        """(H, W) in pixels of the images whose size the file tells."""
        return {
            image["id"]: (image["height"], image["width"])
            for image in self.images
            if "height" in image and "width" in image
        }

    def by_stem(self) -> dict[str, Any]:
        """Annotated image ids by ``image_stem``, after which other files are named."""
        ids: dict[str, Any] = {}
        names = self.names.names
        for image_id, name in names.items():
            stem = image_stem(str(name))
            if stem in ids:
                raise ValueError(
                    f"{self.path}: {shown(names[ids[stem]])} and {shown(name)} share a stem, so "
                    "files named after them cannot be told apart: rename one"
                )
            ids[stem] = image_id
        return ids

    @cached_property
    def names(self) -> ImageNames:
        """File names of the annotated images; of their PNGs where the file lists no images."""
        listed = {image["id"]: image.get("file_name") for image in self.images}
        names = {key: listed.get(key) for key in self.annotations}
        indirect = not all(names.values())
        if indirect:
            names = {key: one["file_name"] for key, one in self.annotations.items()}
        return ImageNames(str(self.path), names, indirect)


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


def read_panoptic_png(
    path: str | Path, size: tuple[int, int] | None = None, origin: str = ""
) -> np.ndarray:
    """Segment ids (H, W) int32 of a panoptic PNG.

    Args:
        size: (H, W) that it has by ``origin``; compared before anything is decoded.
    """
    file = read_png(path, "panoptic PNG", "make it again or correct the folder")
    if size is not None and file.header.size != size[::-1]:
        width, height = file.header.size
        raise ValueError(
            f"{path} is {width}x{height} pixels, by {origin} it should be {size[1]}x{size[0]}: "
            "correct the one that is wrong"
        )
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


def image_entry(image_id: int | str, file_name: str, height: int, width: int) -> dict[str, Any]:
    """One entry of COCO ``images``; sizes in pixels."""
    return {"id": image_id, "file_name": file_name, "height": height, "width": width}


def panoptic_annotation(
    image_id: int, file_name: str, segments: list[dict[str, Any]]
) -> dict[str, Any]:
    """One entry of panoptic ``annotations``; ``file_name`` is the PNG's below its folder."""
    return {"image_id": image_id, "file_name": file_name, "segments_info": segments}


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool to COCO's compressed RLE, ``{size: [H, W], counts: str}``."""
    return text_rle(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def encode_part(mask: np.ndarray, corner: tuple[int, int], size: tuple[int, ...]) -> dict[str, Any]:
    """``encode_mask`` of a mask of which only a part is given: no larger map is made.

    Args:
        mask: (h, w) bool, all that is in it.
        corner: row and column of its first pixel.
        size: (H, W) of the whole.
    """
    (top, left), (height, width) = corner, size
    columns = np.zeros((mask.shape[1], height), np.uint8)
    columns[:, top : top + mask.shape[0]] = mask.T
    outside = np.zeros(1, np.uint8)
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=outside, append=outside))
    ends = np.append(changes + left * height, height * width)  # of runs: COCO counts by columns
    counts = np.diff(ends, prepend=0)
    if not counts[-1]:
        counts = counts[:-1]
    return text_rle(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, *size))


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
        left, top, width, height = segment["bbox"]
        part = segment_ids[top : top + height, left : left + width] == segment["id"]
        annotations.append(
            {
                "id": first_id + len(annotations),
                "image_id": image_id,
                "category_id": segment["category_id"],
                "segmentation": encode_part(part, (top, left), segment_ids.shape),
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


@paused_collector()
def load_panoptic_json(path: str | Path) -> PanopticSet:
    """Read and check a panoptic JSON, of truth or of predictions.

    Ids, flags and areas of segments are integers and numbers afterwards, ``iscrowd`` is always
    there, what is null is not, and names of PNGs have ``/`` between their parts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no panoptic JSON, a field holds what it cannot, or the PNG of an image is
            named after another one.
    """
    path = Path(path)
    content = read_json(path, "panoptic JSON")
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise ValueError(f'{path} has no list "annotations"; give a COCO panoptic JSON')
    images = images_by_id(content.get("images"), path)
    annotations: dict[Any, dict[str, Any]] = {}
    for rank, annotation in enumerate(content["annotations"]):
        check_annotation(annotation, rank, path)
        image_id = annotation["image_id"]
        if image_id in annotations:
            raise ValueError(
                f"{path} has two annotations of image {shown(image_id)}: remove one of them"
            )
        annotations[image_id] = annotation
    categories: tuple[Category, ...] = ()
    if content.get("categories") not in (None, []):
        categories = parse_categories(content["categories"], str(path), max_id=None)
    loaded = PanopticSet(path, tuple(images.values()), annotations, categories)
    _check_names(loaded, images)
    return loaded


def _check_names(content: PanopticSet, images: Mapping[Any, Mapping[str, Any]]) -> None:
    """Raise where two images have one PNG, or a PNG has the name of another image."""
    pngs = {key: annotation["file_name"] for key, annotation in content.annotations.items()}
    if len(set(pngs.values())) < len(pngs):
        twice = next(name for name, count in Counter(pngs.values()).items() if count > 1)
        owners = [shown(key) for key, name in pngs.items() if name == twice]
        raise ValueError(
            f"{content.path}: the images {owners[0]} and {owners[1]} both have the PNG "
            f"{shown(twice)}: give each its own"
        )
    listed = {key: image.get("file_name") for key, image in images.items()}
    ours = ImageNames(str(content.path), listed)
    theirs = ImageNames(ours.origin, pngs, indirect=True)
    for image_id, png in pngs.items():
        name = listed.get(image_id)
        if not name or name.rpartition(".")[0] == png.rpartition(".")[0]:
            continue  # as nearly always
        if not same_image(ours, theirs, image_id):
            raise ValueError(
                f"{content.path}: image {shown(image_id)} is {shown(name)}, but its annotation "
                f"names {shown(png)}, which is the PNG of another image: are the ids of "
                '"images" those of "annotations"? Make the file again'
            )
