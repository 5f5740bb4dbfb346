"""Masks in COCO JSON, as MaskCut, TokenCut, UnSAM, CutLER and Detectron2 write them.

Read leniently, told plainly: what can be used is used, and `Findings` counts every peculiarity
with an example, names every annotation that had to be left out, and says why.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .json_files import read_json
from .mask_rle import SegmentationError, check_segmentation

# Annotations that cannot be used, by reason.
_LEFT_OUT = {
    "entry": "annotations are no JSON objects",
    "dangling": "annotations point to an image_id that images[] lacks",
    "ambiguous": "annotations point to an image_id that two images have",
    "missing": "annotations have no mask",
    "broken RLE": "annotations have a broken RLE",
    "broken polygon": "annotations have a broken polygon",
    "size": "annotations have a mask of another size than their image",
    "empty": "annotations have an empty mask",
    "crowd": "annotations are crowd regions",
    "score": "annotations have a score that is no finite number",
    "category": "annotations have a category_id that categories lack",
}
# What is used, but worth knowing.
_NOTED = {
    "swapped": "images have width and height swapped in images[]: swapped back",
    "resized": "images have another size in images[] than their masks: the masks' is taken",
    "unsized": "images have no size in images[]: their masks' is taken",
    "bad image": "entries of images[] have no id or file_name: left out",
    "same image": "images are listed twice: joined",
    "image ids": "image ids are not integers: numbered anew",
    "folders": "file names have folders",
    "basenames": "file names differ from another one in their folder only",
    "no masks": "images have no mask",
    "annotation ids": "annotation ids are missing or occur twice: numbered anew",
    "uncompressed": "masks are uncompressed RLE",
    "polygons": "masks are polygons",
    "one pixel": "masks are one pixel",
    "full": "masks cover the whole image",
    "unscored": "annotations have no score where others have one: 1 is taken",
    "no category": "annotations have no category_id: the only category is taken",
}


class Findings:
    """What is peculiar about a file of masks.

    Attributes:
        counts: how often each kind occurs.
        left_out: every annotation that cannot be used: its number in the file from 0,
            annotation_id and image_id as the file has them, and the reason.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.left_out: list[dict[str, Any]] = []
        self._examples: dict[str, str] = {}

    def note(self, kind: str, example: str) -> None:
        """Count one occurrence of ``kind``."""
        self.counts[kind] += 1
        self._examples.setdefault(kind, example)

    def lines(self) -> list[str]:
        """One line for every kind that occurs, with its first example; what is left out first."""
        return [
            f"{self.counts[kind]} {text}{' (left out)' if table is _LEFT_OUT else ''}; "
            f"first: {self._examples[kind]}"
            for table in (_LEFT_OUT, _NOTED)
            for kind, text in table.items()
            if self.counts[kind]
        ]


@dataclass(frozen=True)
class GivenMask:
    """One annotation that can be used.

    Attributes:
        number: its place in the file, from 0.
        segmentation: as the file has it.
        score: its confidence; None if the file has no scores.
    """

    number: int
    category_id: int
    segmentation: Any
    score: float | None


@dataclass
class MaskImage:
    """One image of a file of masks.

    Attributes:
        image_id: its id; numbered from 1 in the order of the file where ids are no integers.
        file_name: as the file has it; for a list without images the image id as text.
        size: (H, W) of its masks; None where all of them are polygons and images[] has none.
        masks: its usable annotations.
        left_out: what was left out, for the journal.
    """

    image_id: int
    file_name: str
    size: tuple[int, int] | None
    masks: list[GivenMask] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MaskFile:
    """A checked file of masks.

    Attributes:
        images: in the order of the file.
        categories: COCO ``categories`` as the file has them, or made from the ids in use.
    """

    path: Path
    images: tuple[MaskImage, ...]
    categories: tuple[dict[str, Any], ...]
    findings: Findings


def load_mask_json(path: str | Path, images_json: str | Path | None = None) -> MaskFile:
    """Read and check masks of images: a COCO file, or a bare list of results.

    Args:
        images_json: COCO file (or bare list) that gives the images instead; for a list of results,
            which has none. Without it the image ids of such a list are taken as file names.
    """
    path = Path(path)
    content = read_json(path)
    if isinstance(content, list):
        content = {"annotations": content}
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise ValueError(f'{path} has no list "annotations": give COCO JSON with masks')
    if not annotations:
        raise ValueError(f"{path} has no annotations at all: make the masks first")
    listing = content if images_json is None else read_json(images_json)
    if isinstance(listing, list):
        listing = {"images": listing}
    if images_json is not None and (not isinstance(listing, dict) or "images" not in listing):
        raise ValueError(f'{images_json} has no list of images: give a COCO file with "images"')
    categories = _categories(content.get("categories") or listing.get("categories"), annotations)
    reader = _Reader(annotations, categories)
    reader.list_images(_image_entries(listing, annotations, path))
    for number, annotation in enumerate(annotations):
        reader.sort_in(number, annotation)
    images = tuple({id(image): image for image in reader.images.values()}.values())
    for image in images:
        reader.settle_size(image)
        if not image.masks:
            reader.findings.note("no masks", image.file_name)
    if not any(image.masks for image in images):
        lines = "\n  ".join(reader.findings.lines())
        raise ValueError(f"{path} has no mask that can be used:\n  {lines}")
    return MaskFile(path, images, categories, reader.findings)


def _image_entries(listing: Mapping[str, Any], annotations: list[Any], path: Path) -> list[Any]:
    """The entries of images[]; of a list of results, whose ids are the names, one for each."""
    entries = listing.get("images")
    if entries is None:
        ids = (a.get("image_id") for a in annotations if isinstance(a, dict))
        named = dict.fromkeys(i for i in ids if isinstance(i, (int, str)))
        return [{"id": image_id, "file_name": str(image_id)} for image_id in named]
    if not isinstance(entries, list):
        raise ValueError(f'{path}: "images" is no list: give a COCO file')
    return entries


def _categories(categories: Any, annotations: list[Any]) -> tuple[dict[str, Any], ...]:
    """The given categories, or one for every id in use."""
    if isinstance(categories, list):
        sound = [c for c in categories if isinstance(c, dict) and type(c.get("id")) is int]
        if sound:
            return tuple(sound)
    used = (a.get("category_id") for a in annotations if isinstance(a, dict))
    ids = sorted({i for i in used if type(i) is int}) or [1]
    if len(ids) == 1:
        return ({"id": ids[0], "name": "object"},)
    return tuple({"id": i, "name": f"category {i}"} for i in ids)


class _Reader:
    """Sorts annotations into images."""

    def __init__(self, annotations: list[Any], categories: tuple[dict[str, Any], ...]) -> None:
        self.annotations = annotations
        self.categories = [category["id"] for category in categories]
        self.findings = Findings()
        self.images: dict[Any, MaskImage] = {}
        self.ambiguous: set[Any] = set()
        self.ids: set[Any] = set()  # of annotations, so far
        self.scored = any(isinstance(a, dict) and a.get("score") is not None for a in annotations)

    def list_images(self, entries: list[Any]) -> None:
        """Take up the entries of images[]."""
        integers = all(isinstance(e, dict) and type(e.get("id")) is int for e in entries)
        by_name: dict[str, MaskImage] = {}
        basenames: set[str] = set()
        for rank, entry in enumerate(entries, start=1):
            name = entry.get("file_name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not isinstance(entry.get("id"), (int, str)):
                self.findings.note("bad image", str(entry)[:80])
                continue
            key = entry["id"]
            if not integers:
                self.findings.note("image ids", f"{key!r} is {rank}")
            if name in by_name:
                self.findings.note("same image", f"{name} (ids {by_name[name].image_id}, {key})")
                self.images.setdefault(key, by_name[name])
                continue
            if key in self.images:
                self.ambiguous.add(key)
            image = MaskImage(key if integers else rank, name, _declared_size(entry))
            by_name[name] = self.images[key] = image
            basename = name.rsplit("/", 1)[-1]
            if basename != name:
                self.findings.note("folders", name)
            if basename in basenames:
                self.findings.note("basenames", name)
            basenames.add(basename)
        for key in self.ambiguous:  # neither of the two is known to own the annotations
            self.images.pop(key)

    def sort_in(self, number: int, annotation: Any) -> None:
        """Give one annotation to its image, or leave it out with the reason."""
        image = None
        try:
            if not isinstance(annotation, dict):
                raise SegmentationError("entry", f"it is {str(annotation)[:40]!r}")
            image = self._image_of(annotation.get("image_id"))
            area = check_segmentation(annotation.get("segmentation"))
            self._check(annotation, area)
        except SegmentationError as fault:
            self._leave_out(number, fault, image)
            return
        name = _name(number, annotation)
        self._tell(name, annotation, area)
        category, score = annotation.get("category_id"), annotation.get("score")
        if category is None:
            self.findings.note("no category", name)
            category = self.categories[0]
        if score is None and self.scored:
            self.findings.note("unscored", name)
            score = 1.0
        score = None if score is None else float(score)
        image.masks.append(GivenMask(number, int(category), annotation["segmentation"], score))

    def settle_size(self, image: MaskImage) -> None:
        """Decide on the size of an image by what images[] and its RLEs say of it."""
        sizes = {
            mask.number: tuple(mask.segmentation["size"])
            for mask in image.masks
            if isinstance(mask.segmentation, dict)
        }
        if not sizes:
            return
        counts, declared = Counter(sizes.values()), image.size
        if declared not in counts:
            height, width = counts.most_common(1)[0][0]
            if declared is None:
                self.findings.note("unsized", image.file_name)
            else:
                kind = "swapped" if declared == (width, height) else "resized"
                said, real = f"{declared[1]}x{declared[0]}", f"{width}x{height}"
                example = f"{image.file_name} is said to be {said}, its masks are {real}"
                self.findings.note(kind, example)
            image.size = (height, width)
        given, image.masks = image.masks, []
        for mask in given:
            size = sizes.get(mask.number)
            if size is None or size == image.size:
                image.masks.append(mask)
                continue
            fault = SegmentationError("size", f"its mask is {size[1]}x{size[0]}")
            self._leave_out(mask.number, fault, image)

    def _image_of(self, key: Any) -> MaskImage:
        if isinstance(key, (int, str)) and key in self.images:
            return self.images[key]
        ambiguous = isinstance(key, (int, str)) and key in self.ambiguous
        raise SegmentationError("ambiguous" if ambiguous else "dangling", f"image_id {key!r}")

    def _check(self, annotation: dict[str, Any], area: int | None) -> None:
        """Raise for what forbids the use of a sound mask."""
        score, category = annotation.get("score"), annotation.get("category_id")
        if area == 0:
            raise SegmentationError("empty", "its mask is empty")
        if annotation.get("iscrowd"):
            raise SegmentationError("crowd", "it is a crowd region")
        if score is not None and (type(score) not in (int, float) or not math.isfinite(score)):
            raise SegmentationError("score", f"its score is {score!r}")
        alone = category is None and len(set(self.categories)) == 1
        if not alone and (not isinstance(category, int) or category not in self.categories):
            raise SegmentationError("category", f"its category_id is {category!r}")

    def _tell(self, name: str, annotation: dict[str, Any], area: int | None) -> None:
        """Note what is peculiar about an annotation that is used."""
        segmentation = annotation["segmentation"]
        if area is None:
            self.findings.note("polygons", name)
        elif isinstance(segmentation["counts"], list):
            self.findings.note("uncompressed", name)
        if area == 1:
            self.findings.note("one pixel", name)
        if area is not None and area == math.prod(segmentation["size"]):
            self.findings.note("full", name)
        own = annotation.get("id")
        if isinstance(own, (int, str)) and own not in self.ids:
            self.ids.add(own)
        elif "id" in annotation or self.ids:  # a list of results has no ids at all
            self.findings.note("annotation ids", name)

    def _leave_out(self, number: int, fault: SegmentationError, image: MaskImage | None) -> None:
        annotation = self.annotations[number]
        if not isinstance(annotation, dict):
            annotation = {}
        name = _name(number, annotation)
        self.findings.note(fault.kind, f"{name}: {fault}")
        ids = {"annotation_id": annotation.get("id"), "image_id": annotation.get("image_id")}
        self.findings.left_out.append({"number": number, **ids, "reason": str(fault)})
        if image is not None:
            image.left_out.append(f"{name} is left out: {fault}")


def _declared_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _name(number: int, annotation: Mapping[str, Any]) -> str:
    """How messages call an annotation."""
    return f"annotation {annotation['id']}" if annotation.get("id") else f"annotation no. {number}"
