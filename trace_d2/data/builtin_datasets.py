"""Data sets known by name, at their usual places below ``DETECTRON2_DATASETS``.

Importing this module registers them, as importing ``detectron2.data`` registers Detectron2's own.
Nothing is read for that but the categories of label folders that exist; what is missing is said
when a data set is loaded. ``datasets/README.md`` shows the folders.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from trace_d2.data.dataset_files import datasets_root
from trace_d2.data.label_folder import is_label_folder, read_folder_categories
from trace_d2.data.panoptic_dicts import PanopticFiles, load_panoptic_dicts
from trace_d2.data.registration import (
    is_registered_elsewhere,
    panoptic_file_metadata,
    panoptic_metadata,
    register_class_agnostic_files,
    register_once,
)
from trace_d2.data.semantic_dicts import load_semantic_dicts
from trace_d2.io.categories import Category, load_categories

logger = logging.getLogger(__name__)

_SEE = "datasets/README.md shows what belongs where below DETECTRON2_DATASETS"
_VOC = f"put VOC2012/ and sbd/ there and run `python datasets/prepare_voc_panoptic.py`; {_SEE}"
_COCO = f"put the images and panoptic annotations of COCO there; {_SEE}"
_COCO_2014 = f"run `python datasets/prepare_coco_2014_panoptic.py`; {_SEE}"
_COCO_ONE_CLASS = f"run `python datasets/prepare_coco_class_agnostic.py`; {_SEE}"
_SA1B = f"run `python datasets/prepare_sa1b_class_agnostic.py`; {_SEE}"
_MASKCUT = f"make it with MaskCut, or download CutLER's file; {_SEE}"
_ROUND = f"make it by `python tools/make_self_training.py`; {_SEE}"
_CUTLER = (
    "make it from the data set's own annotations, of any number of classes, by "
    f"`python datasets/prepare_coco_class_agnostic.py --instances`; {_SEE}"
)


class PanopticTruth(NamedTuple):
    """Drawn panoptic annotations; paths are relative to the root of the data sets."""

    images: str
    panoptic_json: str
    panoptic_root: str
    instances_json: str
    categories: str
    remedy: str


class PseudoLabels(NamedTuple):
    """Images that labels are made for, and the categories while there are no labels yet."""

    images: str
    categories: str


class Instances(NamedTuple):
    """COCO instances, read as one class."""

    images: str
    json_file: str
    remedy: str


PANOPTIC_TRUTH = {
    **{
        f"voc_2012_{split}_panoptic": PanopticTruth(
            "VOC2012/JPEGImages",
            f"VOC2012/panoptic_{split}/panoptic.json",
            f"VOC2012/panoptic_{split}/panoptic",
            f"VOC2012/panoptic_{split}/instances.json",
            "voc",
            _VOC,
        )
        for split in ("train_aug", "val")
    },
    "trace_coco_2017_val": PanopticTruth(
        "coco/val2017",
        "coco/annotations/panoptic_val2017.json",
        "coco/panoptic_val2017",
        "coco/annotations/instances_val2017.json",
        "coco-panoptic",
        _COCO,
    ),
    # PNG files of both folders of COCO 2017, named with their folder.
    "trace_coco_2014_val": PanopticTruth(
        "coco/val2014",
        "coco/annotations/panoptic_val2014.json",
        "coco",
        "coco/annotations/instances_val2014.json",
        "coco-panoptic",
        _COCO_2014,
    ),
}
"""Truth to evaluate on. Detectron2 itself has coco_2017_{train,val}_panoptic."""

PSEUDO_LABELS = {
    "voc_2012_train_aug": PseudoLabels("VOC2012/JPEGImages", "voc"),
    "coco_2014_train": PseudoLabels("coco/train2014", "coco-panoptic"),
    "coco_2017_train": PseudoLabels("coco/train2017", "coco-panoptic"),
}
"""``trace_<name>``: labels in ``trace/<name>``. ``tag_<name>``: masks in ``tag_masks/<name>`` and
edges in ``edges/<name>``, which the mapper makes labels from."""

_IMAGENET = "imagenet/annotations"
CLASS_AGNOSTIC = {
    "cls_agnostic_coco": Instances(
        "coco/val2017",
        "coco/annotations/coco_cls_agnostic_instances_val2017.json",
        _COCO_ONE_CLASS,
    ),
    "cls_agnostic_coco20k": Instances(
        "coco/train2014", "coco/annotations/coco20k_trainval_gt.json", _COCO_ONE_CLASS
    ),
    "cls_agnostic_lvis": Instances(
        "coco", "coco/annotations/lvis1.0_cocofied_val_cls_agnostic.json", _COCO_ONE_CLASS
    ),
    "cls_agnostic_voc": Instances(
        "voc", "voc/annotations/trainvaltest_2007_cls_agnostic.json", _CUTLER
    ),
    "cls_agnostic_voc_2012_val": Instances(
        "VOC2012/JPEGImages", "VOC2012/panoptic_val/class_agnostic.json", _VOC
    ),
    "cls_agnostic_voc_2012_train_aug": Instances(
        "VOC2012/JPEGImages", "VOC2012/panoptic_train_aug/class_agnostic.json", _VOC
    ),
    **{
        f"cls_agnostic_{name}": Instances(
            name, f"{name}/annotations/traintest_cls_agnostic.json", _CUTLER
        )
        for name in ("clipart", "watercolor", "comic")
    },
    "cls_agnostic_kitti": Instances(
        "kitti", "kitti/annotations/trainval_cls_agnostic.json", _CUTLER
    ),
    "cls_agnostic_objects365": Instances(
        "objects365/val",
        "objects365/annotations/zhiyuan_objv2_val_cls_agnostic.json",
        _CUTLER,
    ),
    "cls_agnostic_openimages": Instances(
        "openImages/validation",
        "openImages/annotations/openimages_val_cls_agnostic.json",
        _CUTLER,
    ),
    "cls_agnostic_uvo": Instances(
        "uvo/all_UVO_frames",
        "uvo/annotations/val_sparse_cleaned_cls_agnostic.json",
        _CUTLER,
    ),
    "cls_agnostic_sa1b": Instances("sa1b/images", "sa1b/annotations/sa1b_cls_agnostic.json", _SA1B),
    "imagenet_train": Instances(
        "imagenet/train", f"{_IMAGENET}/imagenet_train_fixsize480_tau0.15_N3.json", _MASKCUT
    ),
    **{
        f"imagenet_train_r{number}": Instances(
            "imagenet/train", f"{_IMAGENET}/cutler_imagenet1k_train_r{number}.json", _ROUND
        )
        for number in (1, 2, 3)
    },
}
"""Names and places are CutLER's, so that its files serve as they are; VOC 2012 and SA-1B are not
among its own."""


def register_builtin_datasets(root: str | Path | None = None) -> None:
    """Register all of the above; a second call with the same root changes nothing.

    Names that somebody else has registered before, as CutLER does with the class-agnostic ones,
    are left as they are, with a line in the log.

    Args:
        root: the folder of data sets; None: ``datasets_root()``.

    Raises:
        ValueError: called before with another root.
    """
    root = datasets_root() if root is None else Path(root)
    jobs: dict[str, Callable[[], None]] = {}
    for name, truth in PANOPTIC_TRUTH.items():
        jobs[name] = partial(_register_truth, name, truth, root)
    for name, labels in PSEUDO_LABELS.items():
        jobs[f"trace_{name}"] = partial(_register_labels, name, labels, root)
        jobs[f"tag_{name}"] = partial(_register_online, name, labels, root)
    for name, instances in CLASS_AGNOSTIC.items():
        jobs[name] = partial(_register_instances, name, instances, root)
    taken = [name for name in jobs if is_registered_elsewhere(name)]
    if taken:
        logger.warning(
            "another project has registered %s before: left as they are", ", ".join(taken)
        )
    for name, register in jobs.items():
        if name not in taken:
            register()


def _register_truth(name: str, truth: PanopticTruth, root: Path) -> None:
    categories = load_categories(truth.categories)
    files = PanopticFiles(
        image_root=root / truth.images,
        panoptic_json=root / truth.panoptic_json,
        panoptic_root=root / truth.panoptic_root,
        semantic_root=None,
        label_folder=None,
        remedy=truth.remedy,
    )
    metadata = panoptic_file_metadata(categories, files, root / truth.instances_json)
    register_once(name, (files,), partial(load_panoptic_dicts, files, categories), metadata)


def _register_labels(name: str, labels: PseudoLabels, root: Path) -> None:
    folder = root / "trace" / name
    images = root / labels.images
    remedy = (
        f"make the labels by `python tools/make_pseudo_panoptic.py --images {images} "
        f"--semantic {root}/tag_masks/{name} --categories {labels.categories} "
        f"--output {folder}`; {_SEE}"
    )
    categories = _folder_categories(folder, labels.categories)

    def load() -> list[dict[str, Any]]:
        return load_panoptic_dicts(PanopticFiles.of_folder(folder, images, remedy), categories)

    files = PanopticFiles.of_folder(folder, images, remedy)
    metadata = panoptic_file_metadata(categories, files, folder / "instances.json")
    register_once(f"trace_{name}", ("labels", folder, images), load, metadata)


def _folder_categories(folder: Path, fallback: str) -> tuple[Category, ...]:
    """Those of the label folder if there is one that can be read, else the built-in list."""
    if is_label_folder(folder):
        try:
            return read_folder_categories(folder)
        except (OSError, ValueError) as error:  # no reason to fail where it is not asked for
            logger.warning("%s: its categories cannot be read (%s)", folder, error)
    return load_categories(fallback)


def _register_online(name: str, labels: PseudoLabels, root: Path) -> None:
    images, masks = root / labels.images, root / "tag_masks" / name
    edges = root / "edges" / name
    remedy = (
        "put the semantic masks (of DHR, MARS, ...) into tag_masks/ and the edges into edges/; "
        + _SEE
    )
    metadata = {
        **panoptic_metadata(load_categories(labels.categories)),
        "image_root": str(images),
        "semantic_root": str(masks),
    }
    load = partial(load_semantic_dicts, images, masks, edges, remedy)
    register_once(f"tag_{name}", ("tags", images, masks, edges), load, metadata)


def _register_instances(name: str, instances: Instances, root: Path) -> None:
    json_file, images = root / instances.json_file, root / instances.images
    register_class_agnostic_files(name, json_file, images, instances.remedy)


register_builtin_datasets()
