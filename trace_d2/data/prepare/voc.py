"""PASCAL VOC 2012 and SBD as COCO panoptic: 20 things, and background as the one stuff class.

VOC draws class and object of every pixel as palette PNG, with 255 on the borders; SBD keeps both
in .mat files, without borders. As in the field, "train_aug" is all of VOC's train and SBD but VOC's
val: 10,582 images. Those of VOC's train keep VOC's own, finer annotations.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trace_d2.data.dataset_files import folder_names
from trace_d2.data.prepare.image_sizes import size_fault, tolerate_faults
from trace_d2.data.prepare.making import ImageEntries, make_each, tell_strangers, write_json_files
from trace_d2.data.prepare.one_class import SEE
from trace_d2.io.categories import load_categories
from trace_d2.io.coco_panoptic import (
    image_entry,
    instance_annotations,
    panoptic_annotation,
    segments_info,
    write_panoptic_png,
)
from trace_d2.io.images import read_semantic
from trace_d2.io.json_files import shown
from trace_d2.io.listing import read_names
from trace_d2.io.mat_files import read_structure

SPLITS = ("train_aug", "val")
_VOID = 255
_BACKGROUND = 0  # its category id, and its value in VOC's and SBD's masks
_THINGS = range(1, 21)


def prepare_voc(
    voc: str | Path,
    sbd: str | Path | None,
    split: str,
    output: str | Path,
    workers: int = 1,
    progress: bool = True,
) -> int:
    """Write ``panoptic.json``, ``panoptic/``, ``instances.json`` and ``class_agnostic.json``.

    Image ids are the digits of the stems, as 2007000027 of 2007_000027. Files that were there are
    written anew; each is whole or not there at all. Returns how many images were written.

    Args:
        voc: VOC2012, with ImageSets/, SegmentationClass/, SegmentationObject/ and JPEGImages/.
        sbd: SBD's folder, with inst/ and train.txt (or dataset/ of its archive above them); only
            for ``"train_aug"``.
        split: ``"train_aug"`` or ``"val"``.
        output: folder to write to.
        workers: processes.
        progress: show a progress bar.

    Raises:
        FileNotFoundError, ValueError: files are missing or damaged, or 1 % of the photographs or
            more are of another size than their masks; all images are tried first.
    """
    voc, output = Path(voc), Path(output)
    sources = list_sources(voc, sbd, split)
    if len({image_number(stem) for stem in sources}) < len(sources):
        raise ValueError(f"two images of {split} have one number: put VOC's lists there again")
    jpegs = folder_names(voc / "JPEGImages", "images", f"put VOC2012 at {voc}")
    absent = [stem for stem in sources if f"{stem}.jpg" not in jpegs]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} images of {split} are not in {voc / 'JPEGImages'}, such as "
            f"{absent[0]}.jpg: unpack VOCtrainval_11-May-2012.tar there"
        )
    (output / "panoptic").mkdir(parents=True, exist_ok=True)
    write = partial(_write_image, voc / "JPEGImages", output)
    made = make_each(write, list(sources.items()), workers, split, progress)
    tolerate_faults([fault for _, fault in made if any(fault)], len(sources))
    written = [entries for entries, _ in made if entries is not None]
    names = {annotation["file_name"] for _, annotation, _ in written}
    tell_strangers(output / "panoptic", names)
    description = f"PASCAL VOC 2012 {split}, converted by trace_d2"
    write_json_files(output, description, load_categories("voc"), written)
    return len(written)


def list_sources(voc: Path, sbd: str | Path | None, split: str) -> dict[str, Path]:
    """Stem to annotation, a PNG of SegmentationObject/ or an SBD .mat, of every image of a split.

    Arguments as of ``prepare_voc``; in order of stems.
    """
    own = _listed(voc / "ImageSets/Segmentation" / f"{split.removesuffix('_aug')}.txt")
    sources = {stem: voc / "SegmentationObject" / f"{stem}.png" for stem in own}
    if split == "val":
        return dict(sorted(sources.items()))
    if sbd is None:
        raise ValueError("train_aug takes in SBD: give its folder")
    folder = _sbd_folder(Path(sbd))
    held_out = set(_listed(voc / "ImageSets/Segmentation/val.txt"))
    for name in ("train.txt", "val.txt"):
        for stem in _listed(folder / name):
            if stem not in held_out:
                sources.setdefault(stem, folder / "inst" / f"{stem}.mat")
    return dict(sorted(sources.items()))


def _listed(path: Path) -> list[str]:
    """The stems of a list."""
    stems = read_names(path, SEE)
    try:
        for stem in stems:
            image_number(stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return stems


def image_number(stem: str) -> int:
    """The digits of the stem of an image, as 2007000027 of 2007_000027."""
    digits = stem.replace("_", "")
    if not (digits.isascii() and digits.isdecimal()):
        raise ValueError(
            f"the list names the image {shown(stem)}, but VOC's are called as 2007_000027: put "
            "the list there again"
        )
    return int(digits)


def voc_segments(classes: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """Segments of VOC's masks, uint8 (H, W): 0 = background, class or object, 255 = border.

    Returns:
        segment ids (H, W) int32, 0 = void (borders, and things without object), and the category
        id of every segment; objects count from 1 and have the class of most of their pixels,
        background is last.
    """
    if classes.shape != objects.shape:
        raise ValueError(f"class and object masks differ in shape: {classes.shape, objects.shape}")
    strange = np.setdiff1d(classes, [*range(_THINGS.stop), _VOID])
    if strange.size:
        raise ValueError(f"the class mask holds {strange.tolist()[:5]}, not 0..20 and 255")
    labels = [label for label in np.unique(objects).tolist() if label not in (0, _VOID)]
    categories = []
    for label in labels:
        counts = np.bincount(classes[objects == label], minlength=256)[: _THINGS.stop]
        counts[_BACKGROUND] = 0
        if not counts.any():
            raise ValueError(f"object {label} has no pixel of a class in 1..20")
        categories.append(int(counts.argmax()))
    border = (classes == _VOID) | (objects == _VOID)
    background = (classes == _BACKGROUND) & (objects == 0)
    return _segments(np.where(border, 0, objects), labels, categories, background)


def sbd_segments(
    instances: np.ndarray, categories: np.ndarray
) -> tuple[np.ndarray, dict[int, int]]:
    """Segments, as ``voc_segments`` gives them, of SBD's ``GTinst``.

    Args:
        instances: (H, W) integers, 0 = background, k = object k.
        categories: class 1..20 of objects 1, 2, ...
    """
    labels = [label for label in np.unique(instances).tolist() if label != 0]
    classes = [int(categories[k - 1]) if k <= len(categories) else None for k in labels]
    if any(value not in _THINGS for value in classes):
        raise ValueError(f"objects {labels} have the classes {classes}: they must be in 1..20")
    return _segments(instances, labels, classes, instances == 0)


def read_segments(path: Path) -> tuple[np.ndarray, dict[int, int]]:
    """Segments of an annotation file as ``list_sources`` names it."""
    files = [path]
    if path.suffix == ".png":
        files.insert(0, path.parent.parent / "SegmentationClass" / path.name)
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no annotation at {file}: unpack the data set again")
    if path.suffix == ".png":
        height, width = (objects := read_semantic(path)).shape
        classes = read_semantic(files[0], (height, width))
    try:
        if path.suffix == ".png":
            return voc_segments(classes, objects)
        return sbd_segments(*_read_sbd(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; unpack the data set again") from error


def _read_sbd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The objects (H, W) int64 of an SBD file, and their classes (N,)."""
    truth = read_structure(path, "GTinst")
    objects, classes = truth.get("Segmentation"), truth.get("Categories")
    if objects is None or classes is None or objects.ndim != 2:
        raise ValueError("its GTinst holds no map of objects and their classes")
    return objects.astype(np.int64), classes.ravel()


def _segments(
    objects: np.ndarray, labels: list[int], categories: list[Any], background: np.ndarray
) -> tuple[np.ndarray, dict[int, int]]:
    """The objects ``labels`` of a map in their order, and the background, if any, as the last."""
    last = len(labels) + 1
    table = np.zeros(max(labels, default=0) + 1, np.int32)
    table[labels] = np.arange(1, last)
    segment_ids = np.where(background, last, table[objects]).astype(np.int32)
    category_of = {**dict(enumerate(categories, start=1)), last: _BACKGROUND}
    # An object that lies in the border only has no pixel.
    present = set(np.unique(segment_ids).tolist())
    return segment_ids, {k: c for k, c in category_of.items() if k in present}


def _sbd_folder(sbd: Path) -> Path:
    """The folder of SBD that holds inst/ and the lists, also within its archive's folders."""
    choices = (sbd, sbd / "dataset", sbd / "benchmark_RELEASE/dataset")
    for folder in choices:
        if (folder / "inst").is_dir():
            return folder
    raise FileNotFoundError(f"no inst/ in {sbd}: unpack SBD's benchmark.tgz there")


def _write_image(
    jpegs: Path, output: Path, source: tuple[str, Path]
) -> tuple[ImageEntries | None, tuple[str, str]]:
    """Write the PNG of one image; its entries of the JSON files, or what ``size_fault`` says."""
    stem, path = source
    segment_ids, category_of = read_segments(path)
    height, width = segment_ids.shape
    fault = size_fault(jpegs / f"{stem}.jpg", width, height, "unpack the data set again")
    if any(fault):
        return None, fault
    write_panoptic_png(output / "panoptic" / f"{stem}.png", segment_ids)
    image_id = image_number(stem)
    segments = segments_info(segment_ids, category_of)
    entries = (
        image_entry(image_id, f"{stem}.jpg", height, width),
        panoptic_annotation(image_id, f"{stem}.png", segments),
        instance_annotations(segment_ids, segments, load_categories("voc"), image_id),
    )
    return entries, fault
