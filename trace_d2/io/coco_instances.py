"""COCO instances, of truth, labels or predictions: every fault is named.

Faulty annotations are refused or, for who asks for that, left out and counted. ``coco_masks`` reads
masks of other people's tools, where more is forgiven and all is reported.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from .coco_panoptic import wanted_ids
from .coco_rows import Findings, Row, check_row, find_image
from .joining import ImageNames
from .json_files import (
    FieldError,
    checked,
    paused_collector,
    quoted,
    read_json,
    record_id,
    shown,
    side,
)  # fmt: skip
from .limits import check_size
from .mask_rle import SegmentationError, check_fit, encode_segmentation

logger = logging.getLogger(__name__)

_MASKS = "give all annotations one"
_AREA_SLACK = 16  # pixels by which the areas of small polygons and of their pixels may differ


@dataclass(frozen=True)
class InstanceFile:
    """Images and annotations of a COCO file.

    Attributes:
        name: the path, or what to call content that came without one.
        images: records by image id; those of a truth have integer ``height`` and ``width``.
        annotations: each with ``image_id``, ``segmentation`` and/or ``bbox`` (x, y, width, height),
            then ``iscrowd`` 0 or 1 and, where the file has it, ``area`` (truth), or ``score``
            (predictions).
    """

    name: str
    images: dict[Any, dict[str, Any]]
    annotations: list[dict[str, Any]]

    @property
    def image_names(self) -> ImageNames:
        """The file names of images, and ids of those that annotations alone name."""
        names = dict.fromkeys(row["image_id"] for row in self.annotations)
        names |= {key: image.get("file_name") for key, image in self.images.items()}
        return ImageNames(self.name, names)

    @property
    def has_masks(self) -> bool:
        """Whether all annotations have a mask."""
        return all("segmentation" in row for row in self.annotations)

    def only(self, image_ids: Collection[Any]) -> InstanceFile:
        """The same file of the images ``image_ids`` alone."""
        wanted = wanted_ids(image_ids, self.images, f"{self.name} lists no image")
        images = {key: image for key, image in self.images.items() if key in wanted}
        rows = [row for row in self.annotations if row["image_id"] in wanted]
        return InstanceFile(self.name, images, rows)

    def rle(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Compressed RLE of the mask of ``row``, an annotation of one of these images."""
        image = self.images[row["image_id"]]
        return encode_segmentation(row["segmentation"], image["height"], image["width"])

    def check_fit(self, row: Mapping[str, Any], where: str) -> None:
        """Refuse a mask of ``row``, which is at ``where``, that does not fit its image."""
        if "segmentation" not in row:
            return
        image = self.images[row["image_id"]]
        try:
            check_fit(row["segmentation"], image["height"], image["width"])
        except SegmentationError as error:
            raise ValueError(
                f"{where}: a mask of image {shown(row['image_id'])} "
                f"({shown(image.get('file_name') or '')}) does not fit the image in {self.name}: "
                f"{error}; make it again for that image"
            ) from error


@paused_collector()
def read_truth(
    source: str | Path | Mapping[str, Any],
    masks: bool | None,
    *,
    leave_out: bool = False,
    classes: bool = False,
    remedy: str = "correct the path",
    mask_remedy: str = _MASKS,
    name: str = "the truth",
) -> InstanceFile:
    """COCO instances.

    Where width and height of the images are swapped, as in files of MaskCut, they are swapped back.
    A bbox that is no box or far from its mask is that of the mask, and so is such an area. This and
    other peculiarities are counted in warnings. Categories are not looked at but for that.

    Args:
        source: the content or its path.
        masks: demand a segmentation of each annotation; None: if any has one; False: the box of
            what has none will do.
        leave_out: leave out what is faulty of the annotations, and masks and boxes without a pixel,
            with a warning that counts them.
        classes: keep ``category_id`` of annotations, an integer, where there is one.
        remedy: for the message that the file is not there.
        mask_remedy: for the message that an annotation has no mask.
        name: what messages call content that comes without a path.
    """
    name, content = _load(source, name, remedy)
    if not isinstance(content, Mapping) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise ValueError(
            f"{name} is no COCO instances file: give one with lists of images and annotations"
        )
    images, annotations = _sized_images(content["images"], name), content["annotations"]
    if masks is None:
        masks = any(isinstance(row, Mapping) and row.get("segmentation") for row in annotations)
    findings = Findings("" if leave_out else name)
    fields = ("iscrowd", "area", *(["category_id"] if classes else ()))
    sound = _sound_rows(annotations, fields, masks, findings, not leave_out, mask_remedy)
    rows = list(_usable(sound, lambda row: find_image(row.fields["image_id"], images), findings))
    _swap_back(images, rows, name)
    truth = InstanceFile(name, images, [])
    listed = _listed_categories(content)
    for row in _usable(rows, partial(_settle, images, leave_out), findings):
        category = row.given.get("category_id")
        if listed and category is not None and str(category) not in listed:
            row.notes.append("unlisted")
        row.fields.setdefault("iscrowd", 0)
        findings.accept(row)
        truth.annotations.append(row.fields)
    findings.check_normalised(name)
    if annotations and not truth.annotations:
        lines = "\n  ".join(findings.lines())
        raise ValueError(f"{name} has no annotation that can be used: make it again\n  {lines}")
    _tell(findings, name)
    return truth


@paused_collector()
def read_predictions(
    source: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    masks: bool,
    need_scores: bool = False,
    mask_remedy: str = _MASKS,
) -> InstanceFile:
    """A list of results, or a COCO dictionary; all get ``score`` 1 where none has one.

    Args:
        source: the content or its path.
        masks: demand a segmentation of each.
        need_scores: refuse predictions without scores.
        mask_remedy: for the message that one has no mask.
    """
    name, content = _load(source, "the predictions")
    listed: Any = []
    if isinstance(content, Mapping):
        if "annotations" not in content:
            raise ValueError(f"{name} holds no annotations: give COCO results")
        listed, content = content.get("images") or [], content["annotations"]
    if not all(isinstance(part, (list, tuple)) for part in (content, listed)):
        raise ValueError(
            f"{name} is neither a list of results nor a COCO dictionary with lists of images and "
            "annotations: give COCO results"
        )
    findings = Findings(name)
    rows = list(_sound_rows(content, ("iscrowd", "score"), masks, findings, True, mask_remedy))
    _keep_predicted_boxes(rows)
    for row in rows:
        row.fields.pop("iscrowd", None)
        findings.accept(row)
    findings.check_normalised(name)
    _tell(findings, name)
    found = InstanceFile(name, _images(listed, name), [row.fields for row in rows])
    scored = sum("score" in row for row in found.annotations)
    total = len(found.annotations)
    if scored < total and (scored or need_scores):
        raise ValueError(
            f"{name}: {total - scored} of {total} predictions have no score; "
            f"give all of them one{'' if need_scores else ', or none'}"
        )
    for fields in found.annotations:
        fields.setdefault("score", 1.0)
    return found


def sizes_are_swapped(
    images: Mapping[Any, Mapping[str, Any]], annotations: Iterable[Mapping[str, Any]]
) -> bool:
    """Whether width and height of ``images`` are swapped, as the RLE masks of the file show.

    RLE carries its own (height, width). Files of MaskCut have them swapped in all images or in
    none, so the majority of the masks tells; those of square images say nothing.
    """
    swapped = 0
    for row in annotations:
        mask, image = row.get("segmentation"), images[row["image_id"]]
        if isinstance(mask, dict) and image["height"] != image["width"]:
            swapped += mask["size"] == [image["width"], image["height"]]
            swapped -= mask["size"] == [image["height"], image["width"]]
    return swapped > 0


def _load(source: Any, name: str, remedy: str = "correct the path") -> tuple[str, Any]:
    if not isinstance(source, (str, Path)):
        return name, source
    return str(source), read_json(source, remedy=remedy)


def _images(listed: Iterable[Any], name: str) -> dict[Any, dict[str, Any]]:
    images: dict[Any, dict[str, Any]] = {}
    for place, image in enumerate(listed):
        if not isinstance(image, Mapping):
            raise ValueError(f"{name}: image no. {place} is {quoted(image)}: make it an object")
        try:
            key = record_id(image.get("id"))
        except FieldError as error:
            raise ValueError(f"{name}: the id of image no. {place} {error}: give it one") from error
        if key in images:
            raise ValueError(f"{name} lists image {shown(key)} twice: remove one")
        file_name = image.get("file_name")
        if file_name is not None and not isinstance(file_name, str):
            raise ValueError(
                f"{name}: the file_name of image {shown(key)} is {quoted(file_name)}: make it text"
            )
        images[key] = {**image, "id": key}
    names = Counter(image["file_name"] for image in images.values() if image.get("file_name"))
    nameless = [key for key, image in images.items() if not image.get("file_name")]
    if names and nameless:
        logger.warning(
            "%s: %d of %d images have no file_name; first: image %s",
            name, len(nameless), len(images), shown(nameless[0]),
        )  # fmt: skip
    twice = [file_name for file_name, count in names.items() if count > 1]
    if twice:
        logger.warning(
            "%s: %d file names are those of several images, and their annotations apart; first: %s",
            name, len(twice), shown(twice[0]),
        )  # fmt: skip
    return images


def _sized_images(listed: Iterable[Any], name: str) -> dict[Any, dict[str, Any]]:
    """Images by id, each with integer height and width in pixels."""
    images = _images(listed, name)
    for key, image in images.items():
        where = f"{name}: image {shown(key)}"
        if image.get("height") is None or image.get("width") is None:
            raise ValueError(f"{where} has no height and width in pixels: give it its size")
        for name_of_side in ("height", "width"):
            image[name_of_side] = checked(image, name_of_side, side, where)
        check_size(image["width"], image["height"], where)
    return images


def _sound_rows(
    annotations: Iterable[Any],
    fields: Sequence[str],
    masks: bool,
    findings: Findings,
    empty_boxes: bool,
    mask_remedy: str,
) -> Iterable[Row]:
    for number, given in enumerate(annotations):
        try:
            row = check_row(number, given, fields, empty_boxes)
            findings.see(row)
            if masks and row.mask is None:
                raise SegmentationError("missing", "it has no mask (segmentation)", mask_remedy)
        except SegmentationError as fault:
            findings.leave_out(number, given, fault)
        else:
            yield row


def _usable(
    rows: Iterable[Row], check: Callable[[Row], object], findings: Findings
) -> Iterator[Row]:
    """The rows for which ``check`` raises nothing; the others are left out, or refused."""
    for row in rows:
        try:
            check(row)
        except SegmentationError as fault:
            findings.leave_out(row.number, row.given, fault)
        else:
            yield row


def _swap_back(images: Mapping[Any, dict[str, Any]], rows: Sequence[Row], name: str) -> None:
    """Swap width and height of all ``images`` if the masks say that they are swapped."""
    if sizes_are_swapped(images, (row.fields for row in rows)):
        logger.warning("%s: width and height of its images are swapped; read the right way", name)
        for image in images.values():
            image["height"], image["width"] = image["width"], image["height"]


def _listed_categories(content: Mapping[str, Any]) -> set[str]:
    """Ids of the categories of a file as text, as they may be anything; empty if it has none."""
    listed = content.get("categories")
    entries = listed if isinstance(listed, list) else ()
    return {str(one.get("id")) for one in entries if isinstance(one, Mapping)}


def _keep_predicted_boxes(rows: Sequence[Row]) -> None:
    """Give predictions whose boxes are elsewhere than their masks these back, if they are few.

    Detectors predict both, and may be wrong in one. Where most boxes are elsewhere, they are
    something else than x, y, width and height.
    """
    far = [row for row in rows if "far box" in row.notes]
    if 2 * len(far) <= sum("bbox" in row.fields and row.mask is not None for row in rows):
        for row in far:
            row.fields["bbox"] = row.given["bbox"]
            row.notes.remove("far box")


def _settle(images: Mapping[Any, Mapping[str, Any]], leave_out: bool, row: Row) -> None:
    """Raise for a mask or box that its image has no place for; correct an area that is not its."""
    image = images[row.fields["image_id"]]
    height, width = image["height"], image["width"]
    if row.mask is None:
        x, y, wide, high = row.fields["bbox"]
        if leave_out and (x >= width or y >= height or x + wide <= 0 or y + high <= 0):
            raise SegmentationError("bbox", "its bbox lies outside its image")
        area, own = row.fields.get("area"), float(wide * high)
        if area is not None and own and (area < 1 <= own or area > own * 2 + _AREA_SLACK):
            row.fields["area"] = own
            row.notes.append("box area")
        return
    row.mask.check_fit(height, width)
    if not row.mask.has_pixels(height, width):
        if leave_out:
            raise SegmentationError("empty", "its mask has no pixel")
        row.notes.append("no pixels")
    area = row.fields.get("area")
    if area is None or _about(area, row.mask.area):
        return
    encoded = encode_segmentation(row.mask.segmentation, height, width)
    own = float(coco_mask.area(encoded))  # of polygons that cross themselves it is another
    if not _about(area, own):
        row.fields["area"] = own
        row.notes.append("far area")


def _about(area: float, own: float) -> bool:
    return own / 2 - _AREA_SLACK <= area <= own * 2 + _AREA_SLACK


def _tell(findings: Findings, name: str) -> None:
    for line in findings.lines():
        logger.warning("%s: %s", name, line)
