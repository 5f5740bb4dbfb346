"""Data sets known by name, at their usual places below ``DETECTRON2_DATASETS``.

Importing this module registers them, as importing ``detectron2.data`` registers Detectron2's own.
Nothing is read for that but the categories of label folders that exist; what is missing is said
when a data set is loaded. ``datasets/README.md`` shows the folders.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trace_d2.data.dataset_files import datasets_root
from trace_d2.data.label_folder import read_folder_categories
from trace_d2.data.registration import (
    Categories,
    is_registered_elsewhere,
    register_class_agnostic,
    register_panoptic_files,
    register_trace_semantic,
)
from trace_d2.jobs.store import open_job_folder

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
_LABELS = (
    "make the labels by `python tools/make_pseudo_panoptic.py --images {root}/%s --semantic "
    "{root}/tag_masks/%s --categories %s --output {root}/trace/%s`; " + _SEE
)
_TAGS = (
    f"put the semantic masks (of DHR, MARS, ...) into tag_masks/ and the edges into edges/; {_SEE}"
)


class BuiltIn(NamedTuple):
    """A row of the table.

    Attributes:
        register: registers the data set, given name, paths, categories (if any) and remedy.
        paths: of folders and files below the root, by argument.
        remedy: what to do without them; ``{root}`` is the root.
        categories: built-in name of the categories.
    """

    register: Callable[..., None]
    paths: dict[str, str]
    remedy: str
    categories: str | None = None


def _register_labels(
    name: str, output_dir: Path, image_root: Path, categories: Categories, remedy: str
) -> None:
    """A folder of labels, with its own categories if there is one whose can be read."""
    try:
        if open_job_folder(output_dir) is not None:
            categories = read_folder_categories(output_dir)
    except (OSError, ValueError) as error:  # no reason to fail where it is not asked for
        logger.warning("%s: its categories cannot be read (%s)", output_dir, error)
    register_panoptic_files(
        name,
        image_root,
        output_dir / "panoptic.json",
        output_dir / "panoptic",
        output_dir / "instances.json",
        categories,
        remedy=remedy,
    )


def _truth(images: str, panoptic: str, png: str, instances: str, remedy: str, of: str) -> BuiltIn:
    """Drawn panoptic annotations, to evaluate on."""
    paths = {
        "image_root": images,
        "panoptic_json": panoptic,
        "panoptic_root": png,
        "instances_json": instances,
    }
    return BuiltIn(register_panoptic_files, paths, remedy, of)


def _pseudo(name: str, images: str, categories: str) -> dict[str, BuiltIn]:
    """``trace_<name>``: labels in ``trace/<name>``. ``tag_<name>``: masks in ``tag_masks/<name>``
    and edges in ``edges/<name>``, which the mapper makes labels from."""
    made = {"output_dir": f"trace/{name}", "image_root": images}
    tags = {
        "image_root": images,
        "semantic_root": f"tag_masks/{name}",
        "edges_root": f"edges/{name}",
    }
    remedy = _LABELS % (images, name, categories, name)
    return {
        f"trace_{name}": BuiltIn(_register_labels, made, remedy, categories),
        f"tag_{name}": BuiltIn(register_trace_semantic, tags, _TAGS, categories),
    }


def _instances(images: str, json_file: str, remedy: str = _CUTLER) -> BuiltIn:
    """COCO instances, read as one class."""
    paths = {"json_file": json_file, "image_root": images}
    return BuiltIn(register_class_agnostic, paths, remedy)


_JPEGS, _COCO_FILES, _IMAGENET = "VOC2012/JPEGImages", "coco/annotations", "imagenet/annotations"

BUILTIN: dict[str, BuiltIn] = {
    # Detectron2 itself has coco_2017_{train,val}_panoptic.
    **{
        f"voc_2012_{split}_panoptic": _truth(
            _JPEGS,
            f"VOC2012/panoptic_{split}/panoptic.json",
            f"VOC2012/panoptic_{split}/panoptic",
            f"VOC2012/panoptic_{split}/instances.json",
            _VOC,
            "voc",
        )
        for split in ("train_aug", "val")
    },
    "trace_coco_2017_val": _truth(
        "coco/val2017",
        f"{_COCO_FILES}/panoptic_val2017.json",
        "coco/panoptic_val2017",
        f"{_COCO_FILES}/instances_val2017.json",
        _COCO,
        "coco-panoptic",
    ),
    # PNG files of both folders of COCO 2017, named with their folder.
    "trace_coco_2014_val": _truth(
        "coco/val2014",
        f"{_COCO_FILES}/panoptic_val2014.json",
        "coco",
        f"{_COCO_FILES}/instances_val2014.json",
        _COCO_2014,
        "coco-panoptic",
    ),
    **_pseudo("voc_2012_train_aug", _JPEGS, "voc"),
    **_pseudo("coco_2014_train", "coco/train2014", "coco-panoptic"),
    **_pseudo("coco_2017_train", "coco/train2017", "coco-panoptic"),
    # Names and places are CutLER's, so that its files serve as they are; VOC 2012 and SA-1B are
    # not among its own.
    "cls_agnostic_coco": _instances(
        "coco/val2017",
        f"{_COCO_FILES}/coco_cls_agnostic_instances_val2017.json",
        _COCO_ONE_CLASS,
    ),
    "cls_agnostic_coco20k": _instances(
        "coco/train2014", f"{_COCO_FILES}/coco20k_trainval_gt.json", _COCO_ONE_CLASS
    ),
    "cls_agnostic_lvis": _instances(
        "coco", f"{_COCO_FILES}/lvis1.0_cocofied_val_cls_agnostic.json", _COCO_ONE_CLASS
    ),
    "cls_agnostic_voc": _instances("voc", "voc/annotations/trainvaltest_2007_cls_agnostic.json"),
    **{
        f"cls_agnostic_voc_2012_{split}": _instances(
            _JPEGS, f"VOC2012/panoptic_{split}/class_agnostic.json", _VOC
        )
        for split in ("val", "train_aug")
    },
    **{
        f"cls_agnostic_{name}": _instances(name, f"{name}/annotations/traintest_cls_agnostic.json")
        for name in ("clipart", "watercolor", "comic")
    },
    "cls_agnostic_kitti": _instances("kitti", "kitti/annotations/trainval_cls_agnostic.json"),
    "cls_agnostic_objects365": _instances(
        "objects365/val", "objects365/annotations/zhiyuan_objv2_val_cls_agnostic.json"
    ),
    "cls_agnostic_openimages": _instances(
        "openImages/validation", "openImages/annotations/openimages_val_cls_agnostic.json"
    ),
    "cls_agnostic_uvo": _instances(
        "uvo/all_UVO_frames", "uvo/annotations/val_sparse_cleaned_cls_agnostic.json"
    ),
    "cls_agnostic_sa1b": _instances(
        "sa1b/images", "sa1b/annotations/sa1b_cls_agnostic.json", _SA1B
    ),
    "imagenet_train": _instances(
        "imagenet/train", f"{_IMAGENET}/imagenet_train_fixsize480_tau0.15_N3.json", _MASKCUT
    ),
    **{
        f"imagenet_train_r{number}": _instances(
            "imagenet/train", f"{_IMAGENET}/cutler_imagenet1k_train_r{number}.json", _ROUND
        )
        for number in (1, 2, 3)
    },
}
"""The table."""


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
    taken = [name for name in BUILTIN if is_registered_elsewhere(name)]
    if taken:
        logger.warning(
            "another project has registered %s before: left as they are", ", ".join(taken)
        )
    for name, row in BUILTIN.items():
        if name not in taken:
            paths = {key: root / path for key, path in row.paths.items()}
            more = {"categories": row.categories} if row.categories else {}
            row.register(name, **paths, **more, remedy=row.remedy.format(root=root))


register_builtin_datasets()
