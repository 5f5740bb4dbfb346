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

from trace_d2.io.atomic import read_json
from trace_d2.io.mask_findings import Findings, LeftOut
from trace_d2.io.mask_rle import SegmentationError, check_segmentation


@dataclass(frozen=True)
class GivenMask:
    """One annotation that can be used.

    Attributes:
        number: its place in the file, from 0.
        category_id: its category.
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
        path: where it was read.
        images: in the order of the file.
        categories: COCO ``categories`` as the file has them, or made from the ids in use.
        findings: what is peculiar about it.
    """

    path: Path
    images: tuple[MaskImage, ...]
    categories: tuple[dict[str, Any], ...]
    findings: Findings


def load_mask_json(path: str | Path, images_json: str | Path | None = None) -> MaskFile:
    """Read and check masks of images: a COCO file, or a bare list of results.

    Args:
        path: the file.
        images_json: COCO file (or bare list) that gives the images instead; for a list of results,
            which has none. Without it the image ids of such a list are taken as file names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no JSON, no annotations, or none that can be used; it says what to do.
    """
    path = Path(path)
    annotations, content = _parts(read_json(path), path)
    listing = read_json(images_json) if images_json is not None else content
    if isinstance(listing, list):
        listing = {"images": listing}
    if images_json is not None and (not isinstance(listing, dict) or "images" not in listing):
        raise ValueError(f'{images_json} has no list of images: give a COCO file with "images"')
    return _Reader(path, annotations, content, listing).read()


class _Reader:
    """Sorts annotations into images."""

    def __init__(
        self, path: Path, annotations: list[Any], content: Mapping[str, Any], listing: Any
    ) -> None:
        self.path = path
        self.annotations = annotations
        self.findings = Findings()
        self.ids: set[Any] = set()
        self.images: dict[Any, MaskImage] = {}
        self.ambiguous: set[Any] = set()
        self._read_images(listing)
        categories = content.get("categories") or listing.get("categories")
        self.categories = _categories(categories, annotations)
        self.known = {category["id"] for category in self.categories}
        self.scored = any(isinstance(a, dict) and a.get("score") is not None for a in annotations)

    def read(self) -> MaskFile:
        """The file, or a ValueError if nothing of it can be used."""
        sizes: dict[int, dict[int, tuple[int, int]]] = {}
        for number, annotation in enumerate(self.annotations):
            self._sort_in(number, annotation, sizes)
        distinct = {id(image): image for image in self.images.values()}
        for image in distinct.values():
            self._settle_size(image, sizes.get(image.image_id, {}))
        images = tuple(distinct.values())
        for image in images:
            if not image.masks:
                self.findings.note("no masks", image.file_name)
        if not any(image.masks for image in images):
            raise ValueError(
                f"{self.path} has no mask that can be used:\n  "
                + "\n  ".join(self.findings.lines())
            )
        return MaskFile(self.path, images, self.categories, self.findings)

    def _read_images(self, listing: Any) -> None:
        entries = listing.get("images")
        if entries is None:  # a list of results: the ids are the names
            ids = (a.get("image_id") for a in self.annotations if isinstance(a, dict))
            named = dict.fromkeys(i for i in ids if isinstance(i, (int, str)))
            entries = [{"id": image_id, "file_name": str(image_id)} for image_id in named]
        if not isinstance(entries, list):
            raise ValueError(f'{self.path}: "images" is no list: give a COCO file')
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

    def _sort_in(
        self, number: int, annotation: Any, sizes: dict[int, dict[int, tuple[int, int]]]
    ) -> None:
        """Give one annotation to its image, or leave it out with the reason."""
        if not isinstance(annotation, dict):
            self._leave_out("entry", number, {}, f"it is {str(annotation)[:40]!r}")
            return
        key = annotation.get("image_id")
        if not isinstance(key, (int, str)) or key not in self.images:
            ambiguous = isinstance(key, (int, str)) and key in self.ambiguous
            kind = "ambiguous" if ambiguous else "dangling"
            self._leave_out(kind, number, annotation, f"image_id {key!r}")
            return
        image = self.images[key]
        try:
            size, area = check_segmentation(annotation.get("segmentation"))
        except SegmentationError as error:
            self._leave_out(error.kind, number, annotation, str(error), image)
            return
        fault = self._fault(annotation, area)
        if fault:
            self._leave_out(fault[0], number, annotation, fault[1], image)
            return
        self._tell(number, annotation, size, area)
        if size is not None:
            sizes.setdefault(image.image_id, {})[number] = size
        score = annotation.get("score")
        if score is None and self.scored:
            self.findings.note("unscored", _name(number, annotation))
            score = 1.0
        image.masks.append(
            GivenMask(
                number,
                self._category(number, annotation),
                annotation["segmentation"],
                None if score is None else float(score),
            )
        )

    def _fault(self, annotation: dict[str, Any], area: int | None) -> tuple[str, str] | None:
        """Kind and reason of what forbids the use of a sound mask."""
        score, category = annotation.get("score"), annotation.get("category_id")
        if area == 0:
            return "empty", "its mask is empty"
        if annotation.get("iscrowd"):
            return "crowd", "it is a crowd region"
        if score is not None and (type(score) not in (int, float) or not math.isfinite(score)):
            return "score", f"its score is {score!r}"
        alone = category is None and len(self.known) == 1
        if not alone and (not isinstance(category, int) or category not in self.known):
            return "category", f"its category_id is {category!r}"
        return None

    def _tell(
        self,
        number: int,
        annotation: dict[str, Any],
        size: tuple[int, int] | None,
        area: int | None,
    ) -> None:
        """Note what is peculiar about an annotation that is used."""
        name = _name(number, annotation)
        segmentation = annotation["segmentation"]
        if size is None:
            self.findings.note("polygons", name)
        elif isinstance(segmentation["counts"], list):
            self.findings.note("uncompressed", name)
        if area == 1:
            self.findings.note("one pixel", name)
        if size is not None and area == size[0] * size[1]:
            self.findings.note("full", name)
        own = annotation.get("id")
        if not isinstance(own, (int, str)) or own in self.ids:
            if "id" in annotation or self.ids:  # a list of results has no ids at all
                self.findings.note("annotation ids", name)
        else:
            self.ids.add(own)

    def _category(self, number: int, annotation: dict[str, Any]) -> int:
        category = annotation.get("category_id")
        if category is not None:
            return int(category)
        self.findings.note("no category", _name(number, annotation))
        return int(self.categories[0]["id"])

    def _settle_size(self, image: MaskImage, sizes: dict[int, tuple[int, int]]) -> None:
        """Decide on the size of an image by what images[] and its RLEs say of it."""
        if not sizes:
            return
        counts = Counter(sizes.values())
        declared = image.size
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
        kept = []
        for mask in image.masks:
            size = sizes.get(mask.number, image.size)
            if size == image.size:
                kept.append(mask)
                continue
            annotation = self.annotations[mask.number]
            reason = f"its mask is {size[1]}x{size[0]}" if size else ""
            self._leave_out("size", mask.number, annotation, reason, image)
        image.masks = kept

    def _leave_out(
        self,
        kind: str,
        number: int,
        annotation: dict[str, Any],
        reason: str,
        image: MaskImage | None = None,
    ) -> None:
        self.findings.note(kind, f"{_name(number, annotation)}: {reason}")
        left = LeftOut(number, annotation.get("id"), annotation.get("image_id"), reason)
        self.findings.left_out.append(left)
        if image is not None:
            image.left_out.append(f"{_name(number, annotation)} is left out: {reason}")


def _parts(content: Any, path: Path) -> tuple[list[Any], dict[str, Any]]:
    """Annotations and the file around them."""
    if isinstance(content, list):
        content = {"annotations": content}
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise ValueError(f'{path} has no list "annotations": give COCO JSON with masks')
    if not annotations:
        raise ValueError(f"{path} has no annotations at all: make the masks first")
    return annotations, content


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


def _declared_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _name(number: int, annotation: Mapping[str, Any]) -> str:
    """How messages call an annotation."""
    return f"annotation {annotation['id']}" if annotation.get("id") else f"annotation no. {number}"
