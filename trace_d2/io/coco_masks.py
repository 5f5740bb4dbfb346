"""Masks in COCO JSON, as MaskCut, TokenCut, UnSAM, CutLER and Detectron2 write them.

Read leniently, told plainly: what can be used is used, and `Findings` counts every peculiarity
with an example, names every annotation that had to be left out, and says why.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .coco_rows import Findings, Row, annotation_name, check_row, find_image
from .joining import ImageNames, join_images
from .json_files import (
    FieldError,
    paused_collector,
    quoted,
    read_json,
    record_id,
    shown,
    side,
    whole_number,
)  # fmt: skip
from .limits import max_pixels
from .mask_rle import SegmentationError, SoundMask
from .remote import InputFile, input_file


@dataclass(frozen=True)
class GivenMask:
    """One annotation that can be used.

    Attributes:
        number: its place in the file, from 0.
        segmentation: as the file has it, without polygons of fewer than three points.
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
        method: of ``tools/discover_masks.py``, where its ``info`` names one; else empty.
    """

    path: InputFile
    images: tuple[MaskImage, ...]
    categories: tuple[dict[str, Any], ...]
    findings: Findings
    method: str = ""


@paused_collector()
def load_mask_json(path: str | InputFile, images_json: str | InputFile | None = None) -> MaskFile:
    """Read and check masks of images: a COCO file, or a bare list of results.

    Args:
        images_json: COCO file (or bare list) that gives the images instead; for a list of results,
            which has none. Without it the image ids of such a list are taken as file names.
    """
    path, findings = input_file(path), Findings()
    content = _annotated(path)
    annotations: list[Any] = content["annotations"]
    listing = content if images_json is None else _listing(images_json)
    given = content.get("categories") or listing.get("categories")
    categories = _categories(given, annotations, findings)
    reader = _Reader(annotations, categories, findings)
    if images_json is None:
        reader.list_images(_own_entries(content, annotations, path))
    else:
        reader.list_images(listing["images"])
        reader.join(_own_names(content, annotations, path), str(images_json))
    for number, annotation in enumerate(annotations):
        reader.sort_in(number, annotation)
    findings.check_normalised(path)
    for image in reader.listed:
        reader.settle_size(image)
        if not image.masks:
            findings.note("no masks", shown(image.file_name))
    if not any(image.masks for image in reader.listed):
        lines = "\n  ".join(findings.lines())
        raise ValueError(f"{path} has no mask that can be used: make them again\n  {lines}")
    return MaskFile(path, tuple(reader.listed), categories, findings, _method(content))


def _annotated(path: InputFile) -> dict[str, Any]:
    """A COCO dictionary with annotations, a list of results being one without images."""
    content = read_json(path)
    if isinstance(content, list):
        content = {"annotations": content}
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise ValueError(f'{path} has no list "annotations": give COCO JSON with masks')
    if not content["annotations"]:
        raise ValueError(f"{path} has no annotations at all: make the masks first")
    return content


def _listing(path: str | InputFile) -> dict[str, Any]:
    """A COCO dictionary with images, a bare list of them being one without categories."""
    content = read_json(path)
    if isinstance(content, list):
        content = {"images": content}
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f'{path} has no list of images: give a COCO file with "images"')
    return content


def _method(content: Mapping[str, Any]) -> str:
    """How the masks were found, where the file tells; else empty."""
    info = content.get("info")
    method = info.get("method") if isinstance(info, dict) else None
    return method if isinstance(method, str) else ""


def _own_entries(content: Mapping[str, Any], annotations: list[Any], path: InputFile) -> list[Any]:
    """The entries of images[]; of a list of results, whose ids are the names, one for each."""
    entries = content.get("images")
    if entries is None:
        named = _ids_of(annotations, "image_id", record_id)
        return [{"id": image_id, "file_name": str(image_id)} for image_id in named]
    if not isinstance(entries, list):
        raise ValueError(f'{path}: "images" is no list: give a COCO file')
    return entries


def _own_names(content: Mapping[str, Any], annotations: list[Any], path: InputFile) -> ImageNames:
    """What a file that is read with a list of images says of the names of its own."""
    names: dict[Any, str | None] = dict.fromkeys(_ids_of(annotations, "image_id", record_id))
    entries = content.get("images")
    for entry in entries if isinstance(entries, list) else ():
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if isinstance(name, str):
            names |= dict.fromkeys(_ids_of([entry], "id", record_id), name)
    return ImageNames(str(path), names)


def _ids_of(entries: list[Any], key: str, parse: Callable[[Any], Any]) -> dict[Any, None]:
    """The ids under ``key`` of those entries that have one, each once, in their order."""
    found: dict[Any, None] = {}
    for entry in entries:
        if isinstance(entry, dict):
            with contextlib.suppress(FieldError):
                found[parse(entry.get(key))] = None
    return found


def _categories(
    given: Any, annotations: list[Any], findings: Findings
) -> tuple[dict[str, Any], ...]:
    """The given categories, or one for every id in use."""
    sound: dict[int, dict[str, Any]] = {}
    for entry in given if isinstance(given, list) else ():
        ids = _ids_of([entry], "id", whole_number)
        if not ids or ids.keys() & sound.keys():
            findings.note("bad category", quoted(entry))
            continue
        # The rest, as "supercategory" and "color", is passed on where JSON can hold it.
        rest = {name: value for name, value in entry.items() if _is_json(value)}
        sound |= {key: {**rest, "id": key} for key in ids}
    if sound:
        return tuple(sound.values())
    used = sorted(_ids_of(annotations, "category_id", whole_number)) or [1]
    if len(used) == 1:
        return ({"id": used[0], "name": "object"},)
    return tuple({"id": key, "name": f"category {key}"} for key in used)


def _is_json(value: Any) -> bool:
    """Whether ``value``, which Python read, is JSON as others read it: no NaN and no infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


class _Reader:
    """Sorts annotations into images.

    Attributes:
        listed: the images, in the order of the file.
        images: by the ids that annotations have.
    """

    def __init__(
        self,
        annotations: list[Any],
        categories: tuple[dict[str, Any], ...],
        findings: Findings,
    ) -> None:
        self.annotations = annotations
        self.categories = [category["id"] for category in categories]
        self.findings = findings
        self.listed: list[MaskImage] = []
        self.images: dict[Any, MaskImage] = {}
        self.ambiguous: set[Any] = set()
        self.polygons: dict[int, SoundMask] = {}  # by the numbers of annotations
        self.scored = any(isinstance(a, dict) and a.get("score") is not None for a in annotations)

    def list_images(self, entries: list[Any]) -> None:
        """Take up the entries of images[]."""
        keys: list[Any] = [next(iter(_ids_of([entry], "id", record_id)), None) for entry in entries]
        integers = all(isinstance(key, int) for key in keys)
        by_name: dict[str, MaskImage] = {}
        basenames: set[str] = set()
        for rank, (key, entry) in enumerate(zip(keys, entries, strict=True), start=1):
            name = None if key is None else entry.get("file_name")
            if not isinstance(name, str) or not name:
                self.findings.note("bad image", quoted(entry))
                continue
            if not integers:
                self.findings.note("image ids", f"{quoted(key)} is {rank}")
            if name in by_name:
                ids = f"(ids {shown(by_name[name].image_id)}, {shown(key)})"
                self.findings.note("same image", f"{shown(name)} {ids}")
                self.images.setdefault(key, by_name[name])
                continue
            if key in self.images:
                self.ambiguous.add(key)
            image = MaskImage(key if integers else rank, name, _declared_size(entry))
            by_name[name] = self.images[key] = image
            self.listed.append(image)
            basename = name.rsplit("/", 1)[-1]
            if basename != name:
                self.findings.note("folders", shown(name))
            if basename in basenames:
                self.findings.note("basenames", shown(name))
            basenames.add(basename)
        for key in self.ambiguous:  # neither of the two is known to own the annotations
            self.images.pop(key)
        owned = set(map(id, self.images.values()))
        self.listed = [image for image in self.listed if id(image) in owned]

    def join(self, own: ImageNames, origin: str) -> None:
        """Take the images of the list at ``origin`` as those that annotations name by ``own``."""
        names = {key: image.file_name for key, image in self.images.items()}
        joined = join_images(ImageNames(origin, names), own)
        self.images = {key: self.images[listed] for key, listed in joined.items()}

    def sort_in(self, number: int, annotation: Any) -> None:
        """Give one annotation to its image, or leave it out with the reason."""
        try:
            row = check_row(number, annotation, ("iscrowd", "score", "category_id"))
            self.findings.see(row)
            image = find_image(row.fields["image_id"], self.images, self.ambiguous)
            self._check(row)
        except SegmentationError as fault:
            self._leave_out(number, fault)
            return
        self._note(row)
        category = row.fields.get("category_id", self.categories[0])
        score = row.fields.get("score", 1.0 if self.scored else None)
        self.findings.accept(row)
        if row.mask and row.mask.extent:
            self.polygons[number] = row.mask
        image.masks.append(GivenMask(number, category, row.fields["segmentation"], score))

    def settle_size(self, image: MaskImage) -> None:
        """Decide on the size of an image by what images[] and its RLEs say of it."""
        sizes = {
            mask.number: tuple(mask.segmentation["size"])
            for mask in image.masks
            if isinstance(mask.segmentation, dict)
        }
        if not sizes:
            self._note_outside(image)
            return
        counts, declared = Counter(sizes.values()), image.size
        if declared not in counts:
            height, width = counts.most_common(1)[0][0]
            if declared is None:
                self.findings.note("unsized", shown(image.file_name))
            else:
                kind = "swapped" if declared == (width, height) else "resized"
                said, real = f"{declared[1]}x{declared[0]}", f"{width}x{height}"
                example = f"{shown(image.file_name)} is said to be {said}, its masks are {real}"
                self.findings.note(kind, example)
            image.size = (height, width)
        given, image.masks = image.masks, []
        for mask in given:
            size = sizes.get(mask.number)
            if size is None or size == image.size:
                image.masks.append(mask)
                continue
            fault = SegmentationError("size", f"its mask is {size[1]}x{size[0]}")
            self._leave_out(mask.number, fault)
        self._note_outside(image)

    def _note_outside(self, image: MaskImage) -> None:
        """Note polygons beside their image, which are left out once its real size is known."""
        for mask in image.masks:
            sound = self.polygons.pop(mask.number, None)
            if sound is None or image.size is None:
                continue
            with contextlib.suppress(SegmentationError):  # far outside
                if sound.has_pixels(*image.size):
                    continue
            name = annotation_name(mask.number, self.annotations[mask.number])
            self.findings.note("outside", name)

    def _check(self, row: Row) -> None:
        """Raise for what forbids the use of a sound annotation."""
        if row.mask is None:
            raise SegmentationError("missing", "it has no mask (segmentation)")
        if not row.mask.has_pixels():
            raise SegmentationError("empty", "its mask is empty")
        if row.fields.get("iscrowd"):
            raise SegmentationError("crowd", "it is a crowd region")
        category = row.fields.get("category_id")
        if len(self.categories) > 1 if category is None else category not in self.categories:
            raise SegmentationError("category", f"its category_id is {category}")

    def _note(self, row: Row) -> None:
        """Note what is peculiar about an annotation that is used."""
        assert row.mask is not None
        segmentation = row.mask.segmentation
        if isinstance(segmentation, list):
            row.notes.append("polygons")
        else:
            if isinstance(segmentation["counts"], list):
                row.notes.append("uncompressed")
            if row.mask.area == 1:
                row.notes.append("one pixel")
            if row.mask.area == math.prod(segmentation["size"]):
                row.notes.append("full")
        if "category_id" not in row.fields:
            row.notes.append("no category")
        if self.scored and "score" not in row.fields:
            row.notes.append("unscored")

    def _leave_out(self, number: int, fault: SegmentationError) -> None:
        annotation = self.annotations[number]
        self.findings.leave_out(number, annotation, fault)
        for key in _ids_of([annotation], "image_id", record_id):
            if key in self.images:
                name = annotation_name(number, annotation)
                self.images[key].left_out.append(f"{name} is left out: {fault}")


def _declared_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """(H, W) as images[] has it; None where that is no size."""
    try:
        height, width = side(entry.get("height")), side(entry.get("width"))
    except FieldError:
        return None
    return (height, width) if height * width <= max_pixels() else None
