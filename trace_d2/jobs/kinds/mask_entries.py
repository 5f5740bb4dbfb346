"""The images of a file of masks, for a job that refines them, and what their masks hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import quote

import numpy as np

from trace_d2.io.coco_masks import GivenMask, MaskFile, MaskImage
from trace_d2.io.images import Photograph, fit_to_photograph
from trace_d2.io.listing import locate_images
from trace_d2.io.mask_rle import SegmentationError, decode_segmentation
from trace_d2.io.remote import InputFolder
from trace_d2.jobs.journal import ImageEntry, check_name

_MOST_GIB = 4  # of the masks of one image, decoded
_MOST_REMARKS = 20  # of one image in the journal; the list of what is left out has them all


@dataclass(frozen=True)
class MaskEntry(ImageEntry):
    """One image of a job that refines masks, with all that its worker needs of the file.

    ``stem`` is the path of the image below the folder of images, without its ending;
    ``file_name`` is that path with it.

    Attributes:
        masks: its annotations.
        size: (H, W) that the masks are of; None: that of the photograph.
        skipped: why there is nothing to refine; empty if there is.
        remarks: for the journal.
        edge_stems: names that its edge file may have, the first that exists counts.
    """

    masks: tuple[GivenMask, ...] = ()
    size: tuple[int, int] | None = None
    skipped: str = ""
    remarks: tuple[str, ...] = ()
    edge_stems: tuple[str, ...] = ()


def mask_entries(file: MaskFile, images: str | InputFolder) -> list[MaskEntry]:
    """The images of ``file``, in sorted order of stems, with where they lie below ``images``.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: none of the images with masks is there.
    """
    names = {image.image_id: image.file_name for image in file.images}
    paths, absent = locate_images(names, images)
    if not any(image.masks and image.image_id in paths for image in file.images):
        first = next(image.file_name for image in file.images if image.masks)
        raise ValueError(
            f"none of the {len(file.images)} images of {file.path} is in {images} (the first is "
            f"{first}): correct --images"
        )
    present = [path for key, path in paths.items() if key not in absent]
    stems = Counter(map(_stem, present))
    basenames = Counter(PurePosixPath(path).stem for path in present)
    entries = []
    for image in file.images:
        key, name = image.image_id, image.file_name
        if key in absent:
            listed = _listed_name(name)
            entries.append(MaskEntry(listed, listed, key, skipped=absent[key]))
            continue
        path = paths[key]
        # Without ending, unless another image has that stem too.
        entry = MaskEntry(_stem(path) if stems[_stem(path)] == 1 else path, path, key)
        basename = PurePosixPath(path).stem
        edge_stems = dict.fromkeys([_stem(path), *([basename] if basenames[basename] == 1 else [])])
        entries.append(_with_masks(entry, image, tuple(edge_stems)))
    return sorted(entries, key=lambda entry: entry.stem)


def _with_masks(entry: MaskEntry, image: MaskImage, edge_stems: tuple[str, ...]) -> MaskEntry:
    remarks = tuple(image.left_out[:_MOST_REMARKS])
    more = len(image.left_out) - len(remarks)
    if more:
        remarks += (f"and {more} more are left out",)
    return replace(
        entry,
        masks=tuple(image.masks),
        size=image.size,
        skipped="" if image.masks else "\n".join(("no mask to refine", *remarks)),
        remarks=remarks,
        edge_stems=edge_stems,
    )


def _listed_name(name: str) -> str:
    """``name`` of an image that is not there, for the journal; quoted if it leads elsewhere."""
    try:
        return check_name(name)
    except ValueError:
        return quote(name, safe="")


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def decode_masks(
    entry: MaskEntry, photograph: Photograph, origin: str
) -> tuple[list[GivenMask], np.ndarray, tuple[str, ...]]:
    """The annotations that have pixels, their masks (K, H, W) bool, and remarks.

    Args:
        entry: the image.
        photograph: its pixels, which masks are fitted to.
        origin: file of the masks, for messages.

    Raises:
        ValueError: the masks do not fit the photograph, are too many, or none has a pixel.
    """
    height, width = photograph.pixels.shape[:2]
    name = f"{origin}: a mask of {entry.file_name}"
    kept: list[GivenMask] = []
    notes: list[str] = []
    if entry.size is not None and not all(_is_polygons(mask) for mask in entry.masks):
        # Before masks of another size are decoded.
        fit_to_photograph(np.broadcast_to(np.False_, entry.size), photograph, name)
    needed = len(entry.masks) * height * width / 2**30
    if needed > _MOST_GIB:
        raise ValueError(
            f"{len(entry.masks)} masks of {entry.file_name} at {width}x{height} pixels need "
            f"{needed:.1f} GiB at once, more than {_MOST_GIB}: give fewer masks of it, or a "
            "smaller image"
        )
    masks = np.empty((len(entry.masks), height, width), bool)
    for given in entry.masks:
        size = entry.size
        if size is None or _is_polygons(given):
            size = (height, width)
        try:
            mask = decode_segmentation(given.segmentation, *size)
        except SegmentationError as error:
            notes.append(f"annotation no. {given.number} is left out: {error}")
            continue
        mask, remarks = fit_to_photograph(mask, photograph, name)
        if not mask.any():
            notes.append(f"annotation no. {given.number} is left out: its mask is empty")
            continue
        notes += [remark for remark in remarks if remark not in notes]
        masks[len(kept)] = mask
        kept.append(given)
    if not kept:
        raise ValueError(f"no mask of {entry.file_name} has a pixel in it: {notes[0]}")
    return kept, masks[: len(kept)], tuple(notes)


def _is_polygons(mask: GivenMask) -> bool:
    return isinstance(mask.segmentation, list)
