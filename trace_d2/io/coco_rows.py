"""One annotation of a COCO file: the checks that all readers share, and what they find.

A reader either refuses a file for the first annotation that cannot be used, or leaves such
annotations out. In both cases `Findings` counts what is peculiar.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .json_files import FieldError, flag, number, quoted, record_id, shown, whole_number
from .mask_rle import SegmentationError, SoundMask, check_segmentation

ImageT = TypeVar("ImageT")

# Annotations that cannot be used, by reason.
_LEFT_OUT = {
    "entry": "annotations are no JSON objects",
    "image_id": "annotations have an image_id that is no id",
    "dangling": "annotations point to an image_id that images[] lacks",
    "ambiguous": "annotations point to an image_id that two images have",
    "missing": "annotations have no mask",
    "form": "annotations have a segmentation that is neither RLE nor a list of polygons",
    "broken RLE": "annotations have a broken RLE",
    "broken polygon": "annotations have a broken polygon",
    "size": "annotations have a mask of another size than their image",
    "empty": "annotations have an empty mask",
    "bbox": "annotations have no mask, and a bbox that is no box",
    "crowd": "annotations are crowd regions",
    "iscrowd": "annotations have an iscrowd that is neither 0 nor 1",
    "score": "annotations have a score that is no finite number",
    "area": "annotations have an area that is no finite number",
    "category_id": "annotations have a category_id that is no whole number",
    "category": "annotations have a category_id that categories lack",
}
# What is used, but worth knowing.
_NOTED = {
    "swapped": "images have width and height swapped in images[]: swapped back",
    "resized": "images have another size in images[] than their masks: the masks' is taken",
    "unsized": "images have no size in images[]: their masks' is taken",
    "bad image": "entries of images[] have no id or file_name: left out",
    "bad category": "entries of categories have no id of their own: left out",
    "same image": "images are listed twice: joined",
    "image ids": "image ids are not integers: numbered anew",
    "folders": "file names have folders",
    "basenames": "file names differ from another one in their folder only",
    "no masks": "images have no mask",
    "empty box": "boxes without masks have no area: nothing can match them",
    "no pixels": "masks have no pixel: nothing can match them",
    "outside": "masks lie outside their image as images[] has it",
    "normalised": "masks are polygons within 0..1, as if shares of the image: write pixels",
    "short": "masks have polygons of fewer than three points: those are left out",
    "box": "masks have a bbox that is no box: the mask's own counts",
    "far box": "masks are not where their bbox is: the mask's own counts",
    "far area": "masks are not of their area: the mask's own counts",
    "box area": "boxes have an area that nothing in them has: the box's own counts",
    "annotation ids": "annotation ids are missing or occur twice: numbered anew",
    "unlisted": "annotations have a category_id that categories lack: all count as one category",
    "uncompressed": "masks are uncompressed RLE",
    "polygons": "masks are polygons",
    "one pixel": "masks are one pixel",
    "full": "masks cover the whole image",
    "unscored": "annotations have no score where others have one: 1 is taken",
    "no category": "annotations have no category_id: the only category is taken",
}


@dataclass(slots=True)
class Row:
    """An annotation whose fields are sound.

    Attributes:
        number: its place in the file, from 0.
        given: as the file has it.
        fields: those that are used and not null: ``image_id``, ``segmentation``, ``bbox`` (x, y,
            width, height, both above 0 unless it asks for empty ones), and what the reader asks for
            besides.
        mask: what ``segmentation`` is; None where there is none.
        notes: kinds of what is peculiar about it.
    """

    number: int
    given: Mapping[str, Any]
    fields: dict[str, Any]
    mask: SoundMask | None
    notes: list[str] = field(default_factory=list)


class Findings:
    """What is peculiar about the annotations of a file, and about its images.

    Args:
        refuse_in: the name of the file, where annotations that cannot be used are errors.

    Attributes:
        counts: how often each kind occurs.
        left_out: every annotation that cannot be used: its number in the file from 0,
            annotation_id and image_id as the file has them, and the reason.
    """

    def __init__(self, refuse_in: str = "") -> None:
        self.counts: Counter[str] = Counter()
        self.left_out: list[dict[str, Any]] = []
        self._refuse_in = refuse_in
        self._examples: dict[str, str] = {}
        self._ids: set[Any] = set()  # of annotations, so far
        self._polygons = self._normalised = 0  # annotations that have them

    def note(self, kind: str, example: str) -> None:
        """Count one occurrence of ``kind``."""
        self.counts[kind] += 1
        self._examples.setdefault(kind, example)

    def see(self, row: Row) -> None:
        """Count an annotation, used or not, whose polygons may be shares of the image."""
        if row.mask is not None and row.mask.extent is not None:
            self._polygons += 1
            self._normalised += "normalised" in row.notes

    def accept(self, row: Row) -> None:
        """Note what is peculiar about an annotation that is used."""
        own = row.given.get("id")
        if isinstance(own, (int, str)) and own not in self._ids:
            self._ids.add(own)
        elif "id" in row.given or self._ids:  # a list of results has no ids at all
            row.notes.append("annotation ids")
        for kind in row.notes:
            self.counts[kind] += 1
            if kind not in self._examples:
                self._examples[kind] = annotation_name(row.number, row.given)

    def leave_out(self, number: int, given: Any, fault: SegmentationError) -> None:
        """Leave out an annotation, or refuse the file for it.

        Raises:
            ValueError: the file is refused.
        """
        name = annotation_name(number, given)
        known = given if isinstance(given, Mapping) else {}
        own, image = known.get("id"), known.get("image_id")
        if self._refuse_in:
            where = name if image is None else f"{name} (image {shown(image)})"
            raise ValueError(f"{self._refuse_in}: {where}: {fault}: {fault.remedy}") from fault
        self.note(fault.kind, f"{name}: {fault}")
        ids = {"annotation_id": _plain(own), "image_id": _plain(image)}
        self.left_out.append({"number": number, **ids, "reason": str(fault)})

    def check_normalised(self, path: object) -> None:
        """Raise a ValueError if all polygons of the file lie within 0..1."""
        if self._polygons and self._normalised == self._polygons:
            raise ValueError(
                f"{path}: all polygons lie within 0..1 and look normalised; multiply x by the "
                "width of the image and y by its height, as COCO has pixels"
            )

    def lines(self) -> list[str]:
        """One line for every kind that occurs, with its first example; what is left out first."""
        return [
            f"{self.counts[kind]} {text}{' (left out)' if table is _LEFT_OUT else ''}; "
            f"first: {self._examples[kind]}"
            for table in (_LEFT_OUT, _NOTED)
            for kind, text in table.items()
            if self.counts[kind]
        ]


def _area(value: Any) -> float:
    area = number(value)
    if area < 0:
        raise FieldError(f"is {quoted(value)}, less than 0")
    return area


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "category_id": whole_number,
    "iscrowd": flag,
    "score": number,
    "area": _area,
}


def check_row(number: int, given: Any, fields: Sequence[str], empty_boxes: bool = False) -> Row:
    """The annotation ``given``, with its image_id, mask and box, and those of ``fields``.

    The box of a mask takes the place of one that is no box, or is elsewhere.

    Args:
        empty_boxes: a box alone may have sides of 0.

    Raises:
        SegmentationError: it cannot be used.
    """
    if type(given) is not dict and not isinstance(given, Mapping):  # the former is quick
        raise SegmentationError("entry", f"it is {quoted(given)}, no JSON object")
    name, sound = "image_id", dict[str, Any]()
    try:
        sound[name] = record_id(given.get(name))
        for name in fields:
            value = given.get(name)
            if value is not None:
                sound[name] = _FIELDS[name](value)
    except FieldError as error:
        raise SegmentationError(name, f"its {name} {error}") from error
    segmentation, box = given.get("segmentation"), given.get("bbox")
    row = Row(number, given, sound, None)
    if segmentation or not _absent(segmentation):
        mask = row.mask = check_segmentation(segmentation)
        sound["segmentation"] = mask.segmentation
        if mask.short:
            row.notes.append("short")
        if mask.normalised():
            row.notes.append("normalised")
    if box or not _absent(box):
        sound["bbox"], fault = settled_box(box, row.mask, empty_boxes)
        if fault:
            row.notes.append(fault)
    elif row.mask is None:
        raise SegmentationError("missing", "it has neither mask (segmentation) nor bbox")
    return row


def settled_box(
    box: Any, mask: SoundMask | None, empty: bool = False
) -> tuple[Sequence[float], str]:
    """A given bbox (x, y, width, height), or that of the mask if it is none, or elsewhere.

    Elsewhere is where less than half of what both cover is common, and more than a pixel differs.

    Args:
        empty: where there is no mask, sides may be 0.

    Returns:
        the box, and what is wrong with the given one: ``"box"``, ``"far box"``, ``"empty box"``, or
        nothing.

    Raises:
        SegmentationError: it is none, and there is no mask.
    """
    own = [] if mask is None else mask.box()
    if box == own and own[2] > 0 < own[3]:
        return own, ""  # the quick way
    side = _smaller_side(box)
    if mask is None:
        if side > 0 or (empty and side == 0):
            return box, "" if side else "empty box"
        form = f"[x, y, width, height] with sides {'of 0 or more' if empty else 'above 0'}"
        raise SegmentationError("bbox", f"its bbox is {quoted(box)}, not {form}")
    if side <= 0:
        return own, "box"
    if _agree(box, own) or not mask.has_pixels():
        return box, ""
    return own, "far box"


def find_image(
    image_id: Any, images: Mapping[Any, ImageT], ambiguous: Collection[Any] = ()
) -> ImageT:
    """The image of that id.

    Raises:
        SegmentationError: there is none, or more than one.
    """
    image = images.get(image_id)
    if image is not None:
        return image
    if image_id in ambiguous:
        raise SegmentationError("ambiguous", f"image_id {quoted(image_id)}")
    other: Any = str(image_id)
    if isinstance(image_id, str):
        other = int(image_id) if image_id.isascii() and image_id.isdecimal() else image_id
    hint = ""
    if other in images:
        hint = f", which has {quoted(other)}; write both as numbers, or both as text"
    raise SegmentationError("dangling", f"image_id {quoted(image_id)} is not in images[]{hint}")


def annotation_name(number: int, given: Any) -> str:
    """How messages call an annotation."""
    own = given.get("id") if isinstance(given, Mapping) else None
    named = own and isinstance(own, (int, str))
    return f"annotation {shown(own)}" if named else f"annotation no. {number}"


def _plain(value: Any) -> Any:
    """``value`` if it is an integer, a text or null, else how it is shown."""
    return value if value is None or type(value) in (int, str) else shown(value)


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, list) and not value)


def _smaller_side(box: Any) -> float:
    """Of width and height of a bbox; -1 if it is not four finite numbers."""
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return -1
    try:
        return min([number(part) for part in box][2:])
    except FieldError:
        return -1


def _agree(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two boxes are about the same."""
    (x, y, width, height), (left, top, wide, high) = first, second
    right, bottom, end, below = x + width, y + height, left + wide, top + high
    if max(abs(x - left), abs(y - top), abs(right - end), abs(bottom - below)) <= 1:
        return True
    across, down = min(right, end) - max(x, left), min(bottom, below) - max(y, top)
    common = max(across, 0.0) * max(down, 0.0)
    return 2 * common >= width * height + wide * high - common
