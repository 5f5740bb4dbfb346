"""COCO instances, of truth, labels or predictions: every fault is named.

Faulty annotations are refused or, for who asks for that, left out and counted. ``coco_masks`` reads
masks of other people's tools, where more is forgiven and all is reported.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .coco_panoptic import wanted_ids
from .json_files import read_json
from .mask_rle import SegmentationError, check_fit, check_segmentation, encode_segmentation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InstanceFile:
    """Images and annotations of a COCO file.

    Attributes:
        name: the path, or what to call content that came without one.
        images: records by image id; those of a truth have integer ``height`` and ``width``.
        annotations: each with ``image_id``, ``segmentation`` and/or ``bbox``, then ``iscrowd``
            (truth) or ``score`` (predictions); empty keys are left out.
    """

    name: str
    images: dict[Any, dict[str, Any]]
    annotations: list[dict[str, Any]]

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
                f"{where}: a mask of image {row['image_id']} ({image.get('file_name', '')}) does "
                f"not fit the image in {self.name}: {error}; make it again for that image"
            ) from error


def read_truth(
    source: str | Path | Mapping[str, Any],
    masks: bool | None,
    *,
    leave_out: bool = False,
    remedy: str = "correct the path",
) -> InstanceFile:
    """COCO instances.

    Where width and height of the images are swapped, as in files of MaskCut, they are swapped back.

    Args:
        source: the content or its path.
        masks: demand a segmentation of each annotation; None: if any has one.
        leave_out: leave out what is faulty of the annotations, with a warning that counts it.
        remedy: for the message that the file is not there.
    """
    name, content = _load(source, "the truth", remedy)
    images, annotations = _sized_images(content, name)
    truth = InstanceFile(name, images, [])
    if masks is None:
        masks = any(isinstance(row, Mapping) and row.get("segmentation") for row in annotations)
    faults = []
    for number, row in enumerate(annotations):
        try:
            truth.annotations.append(_true_row(row, number, truth, masks))
        except ValueError as error:
            if not leave_out:
                raise ValueError(f"{name}: {error}") from error
            faults.append(str(error))
    if faults:
        share = f"{len(faults)} of {len(annotations)} annotations"
        message = f"{name}: {share} cannot be used; first: {faults[0]}"
        if not truth.annotations:
            raise ValueError(f"{message}: make the file again")
        logger.warning("%s: they are left out", message)
    return truth


def read_predictions(
    source: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    masks: bool,
    need_scores: bool = False,
) -> InstanceFile:
    """A list of results, or a COCO dictionary; all get ``score`` 1 where none has one.

    Args:
        source: the content or its path.
        masks: demand a segmentation of each.
        need_scores: refuse predictions without scores.
    """
    name, content = _load(source, "the predictions")
    listed: Iterable[Any] = []
    if isinstance(content, Mapping):
        if "annotations" not in content:
            raise ValueError(f"{name} holds no annotations: is it a COCO file?")
        listed, content = content.get("images", []), content["annotations"]
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise ValueError(f"{name} is neither a list of results nor a COCO dictionary")
    rows = [
        _checked_row(row, f"{name}: annotation {number}", masks)
        for number, row in enumerate(content)
    ]
    scored = sum("score" in row for row in rows)
    if scored < len(rows) and (scored or need_scores):
        raise ValueError(
            f"{name}: {len(rows) - scored} of {len(rows)} predictions have no score; "
            f"give all of them one{'' if need_scores else ', or none'}"
        )
    rows = [{"score": 1.0} | row for row in rows]
    for number, row in enumerate(rows):
        if not _is_number(row["score"]):
            raise ValueError(f"{name}: annotation {number} has score {row['score']!r}")
    return InstanceFile(name, _images(listed, name), rows)


def sizes_are_swapped(images: Mapping[Any, Mapping[str, Any]], annotations: Iterable[Any]) -> bool:
    """Whether width and height of ``images`` are swapped, as the RLE masks of the file show.

    RLE carries its own (height, width). Files of MaskCut have them swapped in all images or in
    none, so the majority of the masks tells; those of square images say nothing. Annotations may
    be faulty.
    """
    swapped = 0
    for row in annotations:
        mask = row.get("segmentation") if isinstance(row, Mapping) else None
        size = mask.get("size") if isinstance(mask, Mapping) else None
        image = images.get(row["image_id"]) if size and "image_id" in row else None
        if image is not None and image["height"] != image["width"]:
            swapped += size == [image["width"], image["height"]]
            swapped -= size == [image["height"], image["width"]]
    return swapped > 0


def _load(source: Any, name: str, remedy: str = "correct the path") -> tuple[str, Any]:
    if not isinstance(source, (str, Path)):
        return name, source
    return str(source), read_json(source, remedy=remedy)


def _sized_images(content: Any, name: str) -> tuple[dict[Any, dict[str, Any]], list[Any]]:
    """Images by id, their sizes the right way round, and annotations, which are not checked."""
    if not isinstance(content, Mapping) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise ValueError(f"{name} is no COCO instances file: it needs images and annotations")
    images, annotations = _images(content["images"], name), content["annotations"]
    for key, image in images.items():
        sides = (image.get("height"), image.get("width"))
        if not all(isinstance(side, int) and side > 0 for side in sides):
            raise ValueError(f"{name}: image {key} has no height and width in pixels")
    if sizes_are_swapped(images, annotations):
        logger.warning("%s: width and height of its images are swapped; read the right way", name)
        for image in images.values():
            image["height"], image["width"] = image["width"], image["height"]
    return images, annotations


def _images(listed: Iterable[Any], name: str) -> dict[Any, dict[str, Any]]:
    images: dict[Any, dict[str, Any]] = {}
    for image in listed:
        if not isinstance(image, Mapping) or "id" not in image:
            raise ValueError(f"{name}: an image without id: {str(image)[:80]}")
        if image["id"] in images:
            raise ValueError(f"{name} lists image {image['id']} twice")
        images[image["id"]] = dict(image)
    return images


def _true_row(row: Any, number: int, truth: InstanceFile, masks: bool) -> dict[str, Any]:
    """An annotation of one of the truth's images."""
    row = _checked_row(row, f"annotation {number}", masks)
    where = f"annotation {number} (image {row['image_id']})"
    if row["image_id"] not in truth.images:
        raise ValueError(f"{where} is of an image that the file does not list")
    truth.check_fit(row, where)
    row.pop("score", None)
    row["iscrowd"] = int(row.get("iscrowd", 0))
    return row


def _checked_row(row: Any, where: str, masks: bool) -> dict[str, Any]:
    """A copy without the empty keys of an annotation that has what is needed, sound."""
    if not isinstance(row, Mapping) or "image_id" not in row:
        raise ValueError(f"{where} has no image_id")
    where += f" (image {row['image_id']})"
    row = {key: value for key, value in row.items() if value is not None and value != []}
    if not {"segmentation", "bbox"} & set(row):
        raise ValueError(f"{where} has neither segmentation nor bbox")
    if masks and "segmentation" not in row:
        raise ValueError(
            f"{where} has no mask (segmentation): give all annotations one, or score boxes alone "
            "(--iou bbox)"
        )
    if "segmentation" in row:
        try:
            check_segmentation(row["segmentation"])
        except SegmentationError as error:
            raise ValueError(f"{where}: {error}") from error
    box = row.get("bbox", [0, 0, 0, 0])
    if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{where} has bbox {box!r}; it must be x, y, width and height")
    return row


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
