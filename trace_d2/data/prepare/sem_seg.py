"""Semantic truth of public data sets as Detectron2 reads it: 8-bit PNGs of contiguous ids.

A pixel is the place of its class in the list of categories (``io.categories``), from 0, or 255
where it is left out. Pascal Context comes as one JSON of RLE masks, SBD as .mat files; the others
are maps already, which count in other ways (``io/semantic_rules.yaml``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trace_d2.data.prepare.making import make_each, warn_of_strangers
from trace_d2.data.prepare.painting import masks_by_image, paint, paintings, read_lists
from trace_d2.data.prepare.voc import SPLITS as VOC_SPLITS
from trace_d2.data.prepare.voc import list_sources, read_segments
from trace_d2.evaluation.semantic import check_values
from trace_d2.evaluation.semantic_files import truth_files
from trace_d2.io.atomic import atomic_folder, write_png, write_text
from trace_d2.io.categories import UNKNOWN, load_categories
from trace_d2.io.images import read_semantic
from trace_d2.io.json_files import checked, flag, number, shown
from trace_d2.io.listing import IMAGE_SUFFIXES
from trace_d2.io.semantic_rules import NO_CLASS, STRANGE, SemanticRule, load_rule
from trace_d2.io.subfolders import files_by_stem

logger = logging.getLogger(__name__)

CONTEXT_IDS = (
    *(0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105),
    *(113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308),
    *(324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454),
    458,
)  # fmt: skip
"""The ids of the 60 classes of Pascal Context in its JSON, in our order; 0: of none, background."""

_THINGS = 80  # of COCO


@dataclass(frozen=True)
class MapSet:
    """A data set whose truth is published as maps.

    Attributes:
        rule: how they are written.
        source, target, images: folders below the root of the data sets, ``{}`` for the split's.
        splits: their folders by name.
        end: of the stems to be read; None: the first of the rule that is there.
        new_end: what it becomes.
        objects: classes are the 80 objects of COCO, and background, out of COCO-Stuff's.
    """

    rule: str
    source: str
    target: str
    images: str
    splits: Mapping[str, str]
    end: str | None = None
    new_end: str = ""
    objects: bool = False


_COCO = {"train": "train2017", "val": "val2017"}
MAP_SETS = {
    "coco_stuff": MapSet("stuff171", "coco/stuffthingmaps/{}", "coco/stuffthingmaps_detectron2/{}",
                         "coco/{}", _COCO),
    "coco_object": MapSet("stuff171", "coco/stuffthingmaps/{}", "coco/objects_detectron2/{}",
                          "coco/{}", _COCO, objects=True),
    "ade20k": MapSet("ade150", "ADEChallengeData2016/annotations/{}",
                     "ADEChallengeData2016/annotations_detectron2/{}",
                     "ADEChallengeData2016/images/{}",
                     {"train": "training", "val": "validation"}),
    "cityscapes": MapSet("city19", "cityscapes/gtFine/{}", "cityscapes/gtFine/{}",
                          "cityscapes/leftImg8bit/{}",
                         {"train": "train", "val": "val"}, "_gtFine_labelIds",
                         "_gtFine_labelTrainIds"),
}  # fmt: skip
"""By the names of ``datasets/prepare_sem_seg.py``."""

SPLITS: dict[str, tuple[str, ...]] = {
    "voc": VOC_SPLITS,
    "context": ("train", "val"),
    **{name: tuple(one.splits) for name, one in MAP_SETS.items()},
}
"""Of each data set."""


def prepare_maps(
    root: Path, name: str, split: str, workers: int = 1, progress: bool = True
) -> tuple[list[str], Path]:
    """Write the split of one of ``MAP_SETS``; returns the names of the maps, and their folder.

    Raises:
        OSError, ValueError: its files are missing or damaged; the message names some, and no map
            is written.
    """
    maps = MAP_SETS[name]
    folder = maps.splits[split]
    source, target = root / maps.source.format(folder), root / maps.target.format(folder)
    rule = load_rule(maps.rule)
    if maps.end is not None:  # of several ways that lie side by side
        ways = tuple(way for way in rule.truth if way.end == maps.end)
        rule = SemanticRule(rule.name, rule.classes, ways)
    way, truth = truth_files(source, rule)
    table = _objects(way.ranks()) if maps.objects else way.ranks()
    tasks = [(path, f"{stem}{maps.new_end}.png") for stem, path in truth.items()]
    write = partial(_convert, table)
    return _write_all(write, tasks, target, workers, split, progress, end=maps.new_end), target


def unannotated(root: Path, name: str, split: str, written: Collection[str]) -> list[str]:
    """Stems of the images of the split of one of ``MAP_SETS`` of which no map was ``written``.

    None are where the folder of images is not there.
    """
    maps = MAP_SETS[name]
    folder = maps.splits[split]
    images = root / maps.images.format(folder)
    if not images.is_dir():
        return []
    end = load_rule(maps.rule).image_end
    stems = {stem.removesuffix(end) for stem in files_by_stem(images, IMAGE_SUFFIXES)}
    return sorted(stems - {name.removesuffix(f"{maps.new_end}.png") for name in written})


def prepare_voc_sem_seg(
    root: Path, split: str, sbd: Path | None = None, workers: int = 1, progress: bool = True
) -> tuple[list[str], Path]:
    """Write ``VOC2012/sem_seg_<split>``, "train_aug" with SBD or "val", as ``prepare_maps``."""
    voc = root / "VOC2012"
    target = voc / f"sem_seg_{split}"
    tasks = [
        (path if path.suffix == ".mat" else voc / "SegmentationClass" / path.name, f"{stem}.png")
        for stem, path in list_sources(voc, sbd or root / "sbd", split).items()
    ]  # fmt: skip
    return _write_all(_convert_voc, tasks, target, workers, split, progress), target


def prepare_context(
    root: Path,
    splits: Sequence[str],
    annotations: Path | None = None,
    workers: int = 1,
    progress: bool = True,
) -> dict[str, int]:
    """Write ``SegmentationClassContext/`` and the lists of the splits in ``VOC2010``.

    As in the detail API, an annotation covers those before it in the file. Of that API's own
    results these differ in the images whose first annotations it loses, as it takes those of other
    splits out of the list that it walks along; its lists are a few images shorter, too.

    Args:
        annotations: None: ``VOC2010/trainval_merged.json``, which is read at once (590 MB).

    Returns:
        how many images, by split.

    Raises:
        OSError, ValueError: the file is missing, or not as it was published.
    """
    voc = root / "VOC2010"
    path = annotations or voc / "trainval_merged.json"
    images, rows = read_lists(path, "Pascal Context", "images", "annos_segmentation")
    ranks = {identity: rank for rank, identity in enumerate(CONTEXT_IDS)}
    masks = masks_by_image(path, rows, ranks)
    painted = paintings(path, images, "image_id", masks)
    if strays := masks.keys() - {one.key for one in painted}:
        logger.warning("%s has masks of %d images that it does not list", path, len(strays))
    target, lists = voc / "SegmentationClassContext", voc / "ImageSets/SegmentationContext"
    lists.mkdir(parents=True, exist_ok=True)
    counts, others = {}, {f"{one.stem}.png" for one in painted}
    for split in splits:
        tasks = [
            (one, f"{one.stem}.png")
            for one, row in zip(painted, images, strict=True)
            if row.get("phase") == split
        ]
        bare = next((one.where for one, _ in tasks if not one.masks), None)
        if bare or not tasks:
            raise ValueError(
                f"{bare or path} has no {'annotation' if bare else split}: download it again"
            )
        _write_all(paint, tasks, target, workers, split, progress, others)
        stems = sorted(name.removesuffix(".png") for _, name in tasks)
        write_text(lists / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
        counts[split] = len(tasks)
    return counts


def prepare_instances(
    root: Path, split: str, workers: int = 1, progress: bool = True
) -> tuple[list[str], Path]:
    """Write ``coco_object`` from ``instances_<split>2017.json`` instead, as ``prepare_maps``.

    What is larger lies below, crowds below all else.
    """
    folder = _COCO[split]
    path = root / f"coco/annotations/instances_{folder}.json"
    images, annotations = read_lists(path, "COCO instances", "images", "annotations")
    things = [c.id for c in load_categories("coco-panoptic") if c.isthing]
    ranks = {identity: rank for rank, identity in enumerate(things, start=1)}
    masks = masks_by_image(path, sorted(annotations, key=partial(_height, path)), ranks)
    painted = paintings(path, images, "id", masks)
    strays = sorted(masks.keys() - {one.key for one in painted}, key=str)
    if strays:
        raise ValueError(
            f"{path} has masks of {len(strays)} images that it does not list, such as image "
            f"{shown(strays[0])}: download it again"
        )
    target = root / "coco/objects_detectron2" / folder
    tasks = [(one, f"{one.stem}.png") for one in painted]
    return _write_all(paint, tasks, target, workers, split, progress), target


def _height(path: Path, row: Mapping[str, Any]) -> tuple[bool, float]:
    """By what annotations are put over one another, the lowest first."""
    where, fields = f"{path}: annotation {shown(row.get('id'))}", {"iscrowd": None, "area": None}
    fields.update(row)
    crowd = checked(fields, "iscrowd", flag, where)
    return not crowd, -checked(fields, "area", number, where)


def _write_all(
    write: Callable[[tuple[Any, Path]], None],
    tasks: Sequence[tuple[Any, str]],
    target: Path,
    workers: int,
    split: str,
    progress: bool,
    others: Collection[str] = (),
    end: str = "",
) -> list[str]:
    """Write what each of ``tasks`` holds to the file below ``target`` that it names, or none.

    Of other maps of that ``end`` of names it is told, as of an earlier run, but for ``others``,
    which belong there. Returns the names that were written.
    """
    with atomic_folder(target) as scratch:
        for folder in {(scratch / name).parent for _, name in tasks}:
            folder.mkdir(parents=True, exist_ok=True)
        jobs = [(content, scratch / name) for content, name in tasks]
        make_each(write, jobs, workers, split, progress)
    names = [name for _, name in tasks]
    there = {f"{stem}.png" for stem in files_by_stem(target, (".png",)) if stem.endswith(end)}
    warn_of_strangers(target, sorted(there - {*names, *others}))
    return names


def _objects(ranks: np.ndarray) -> np.ndarray:
    """Of ranks of COCO-Stuff's classes: objects from 1, all else background, as GroupViT has it."""
    objects = np.where((ranks >= 0) & (ranks < _THINGS), ranks + 1, 0)
    return np.where(ranks == STRANGE, STRANGE, objects)


def _convert(table: np.ndarray, task: tuple[Path, Path]) -> None:
    source, target = task
    values = read_semantic(source)
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    check_values(table, present, source, "the data set has: unpack it again")
    write_png(target, np.where(table == NO_CLASS, UNKNOWN, table).astype(np.uint8)[values])


def _convert_voc(task: tuple[Path, Path]) -> None:
    """A map of SegmentationClass, or the objects of SBD; the background is last, as in ``voc``."""
    source, target = task
    ids = [category.id for category in load_categories("voc")]
    if source.suffix != ".mat":
        table = np.full(256, STRANGE, np.int16)
        table[UNKNOWN] = NO_CLASS
        table[ids] = np.arange(len(ids))
        _convert(table, task)
        return
    segment_ids, category_of = read_segments(source)
    classes = np.full(int(segment_ids.max()) + 1, UNKNOWN, np.uint8)
    for segment, category in category_of.items():
        classes[segment] = ids.index(category)
    write_png(target, classes[segment_ids])
