"""Registers data sets with Detectron2's catalogues: a ``DatasetSpec`` each.

Files are read when the data set is first loaded (``DatasetCatalog.get``), which is before training
starts; only the categories are read at once, since models are built from them. Contiguous ids
count things and stuff in one range, in the order of the categories, as Mask2Former does.

Another kind of data set is a loader and a function here that registers it; its entries in the
config are a line of ``known.ENTRIES``, its usual place a row of ``builtin_datasets``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from fvcore.common.config import CfgNode

from trace_d2.data.categories import forget_classes
from trace_d2.data.coco_dicts import (
    check_same_categories,
    load_class_agnostic_dicts,
    load_instance_dicts,
    load_panoptic_dicts,
)
from trace_d2.data.dataset_files import datasets_root
from trace_d2.data.known import category_metadata, entries, instance_metadata, rooted
from trace_d2.data.label_folder import read_folder_categories
from trace_d2.data.stem_dicts import (
    edges_folder,
    load_edge_dicts,
    load_sem_seg_dicts,
    load_semantic_dicts,
)
from trace_d2.io.categories import Category, load_categories

Categories = str | Path | Sequence[Category]
"""Categories as a built-in name, a file or a list."""


@dataclass(frozen=True)
class DatasetSpec:
    """What a data set is made of.

    Attributes:
        load: gives the dataset dicts; ``files``, ``options`` and ``remedy`` are its arguments.
        files: paths by argument of ``load``; those that are not None are in the metadata, too.
        remedy: what the user is to do if something is missing.
        categories: those that the metadata tells of; empty: none.
        options: other arguments of ``load``.
        metadata: other attributes of ``MetadataCatalog.get(name)``.
    """

    load: Callable[..., list[dict[str, Any]]]
    files: Mapping[str, str | Path | None]
    remedy: str
    categories: tuple[Category, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> list[dict[str, Any]]:
        """The dataset dicts."""
        return self.load(**self.files, **self.options, remedy=self.remedy)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells it from others, whatever remedies and spellings of paths are."""
        files = {key: path and os.path.abspath(path) for key, path in self.files.items()}
        return self.load, files, self.categories, self.options


def register(name: str, spec: DatasetSpec) -> None:
    """Register ``spec`` as ``name`` in the catalogues, unless that has been done before.

    Raises:
        ValueError: the name is empty, or belongs to another data set.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a data set is a non-empty text, not {name!r}")
    if name in DatasetCatalog:
        ours = _REGISTERED.get(name)
        if ours is not None and ours.identity == spec.identity:
            return
        owner = "by somebody else" if ours is None else "with other arguments"
        raise ValueError(f"a data set {name!r} is registered already, {owner}: choose another name")
    if name in _REGISTERED:  # removed from the catalogue since
        MetadataCatalog.pop(name, None)
    forget_classes(name)
    files = {key: str(path) for key, path in spec.files.items() if path is not None}
    known = category_metadata(spec.categories) if spec.categories else {}
    MetadataCatalog.get(name).set(**files, **known, **spec.metadata)
    DatasetCatalog.register(name, spec)
    _REGISTERED[name] = spec


_REGISTERED: dict[str, DatasetSpec] = {}


def is_registered_elsewhere(name: str) -> bool:
    """Whether somebody else has registered ``name``."""
    return name in DatasetCatalog and name not in _REGISTERED


def register_trace_panoptic(
    name: str,
    output_dir: str | Path,
    image_root: str | Path,
    *,
    check: bool = True,
    categories: Categories | None = None,
) -> None:
    """Register a folder with ``panoptic.json`` and ``panoptic/`` as a panoptic data set.

    That is what ``tools/make_pseudo_panoptic.py`` and ``tools/make_scenes.py`` write.

    Args:
        name: name in the catalogues.
        output_dir: the folder.
        image_root: folder of its images.
        check: when the data set is loaded, look whether the label maker is through with the folder
            and whether all files are there.
        categories: what the folder's categories must be (as ``load_categories`` takes them, or a
            list); with these the folder may be made later. None: those of the folder.

    Raises:
        FileNotFoundError: the folder has no ``panoptic.json``, and ``categories`` is None.
        ValueError: another data set has this name, or the folder's categories are not
            ``categories``. Loading raises as ``load_panoptic_dicts`` does.
    """
    folder = Path(output_dir)
    if categories is None:
        categories = read_folder_categories(folder)
    elif folder.is_dir():
        categories = _as_categories(categories)
        check_same_categories(read_folder_categories(folder), categories, str(folder))
    remedy = "correct the folders given to register_trace_panoptic, or make the labels again"
    json_file = folder / "panoptic.json"
    register_panoptic_files(name, image_root, json_file, categories, remedy=remedy, check=check)


def register_panoptic_files(
    name: str,
    image_root: str | Path,
    panoptic_json: str | Path,
    categories: Categories,
    *,
    panoptic_root: str | Path | None = None,
    instances_json: str | Path | None = None,
    remedy: str,
    check: bool = True,
) -> None:
    """``register_trace_panoptic`` for files in any place, see ``load_panoptic_dicts``.

    Unless said, ``panoptic/`` and ``instances.json`` lie beside ``panoptic_json``.
    """
    known, folder = _as_categories(categories), Path(panoptic_json).parent
    spec = DatasetSpec(
        load_panoptic_dicts,
        {
            "image_root": image_root,
            "panoptic_json": panoptic_json,
            "panoptic_root": panoptic_root or folder / "panoptic",
        },
        remedy,
        known,
        options={"categories": known, "check": check},
        metadata={
            "json_file": str(instances_json or folder / "instances.json"),
            "evaluator_type": "coco_panoptic_seg",
        },
    )
    register(name, spec)


def register_trace_semantic(
    name: str,
    image_root: str | Path,
    semantic_root: str | Path,
    categories: Categories,
    edges_root: str | Path | None = None,
    *,
    remedy: str = "correct the folders given to register_trace_semantic",
) -> None:
    """Register images with semantic masks, whose labels the mapper makes ("online").

    Args:
        image_root: folder of the images; those without a mask are left out.
        semantic_root: folder of 8-bit ``<stem>.png``, pixel = category id, 255 = unknown.
        categories: as ``load_categories`` takes them, or a list.
        edges_root: folder of ``<stem>.png`` or ``<stem>.npy``; None: the data set has no edges.
        remedy: what to do if something is missing, for the message.

    Raises:
        FileNotFoundError: there is no such file of categories.
        as ``register``, and loading as ``load_semantic_dicts``.
    """
    files = {"image_root": image_root, "semantic_root": semantic_root, "edges_root": edges_root}
    spec = DatasetSpec(load_semantic_dicts, files, remedy, _as_categories(categories))
    register(name, spec)


def register_sem_seg(
    name: str,
    image_root: str | Path,
    sem_seg_root: str | Path,
    categories: Categories,
    list_file: str | Path | None = None,
    *,
    remedy: str = "correct the folders given to register_sem_seg",
) -> None:
    """Register images with drawn semantic maps, to evaluate ``sem_seg`` of models on.

    Args:
        image_root: folder of the images.
        sem_seg_root: folder of 8-bit ``<stem>.png``, pixel = place of its class in ``categories``,
            from 0, 255 = ignored: what Detectron2 calls contiguous ids.
        categories: as ``load_categories`` takes them, or a list.
        list_file: text of the images that count, a name a line; None: those that have a map.
        remedy: what to do if something is missing, for the message.

    Raises:
        FileNotFoundError: there is no such file of categories.
        as ``register``, and loading as ``load_sem_seg_dicts``.
    """
    files = {"image_root": image_root, "sem_seg_root": sem_seg_root, "list_file": list_file}
    metadata = {"evaluator_type": "sem_seg"}
    known = _as_categories(categories)
    register(name, DatasetSpec(load_sem_seg_dicts, files, remedy, known, metadata=metadata))


def register_trace_edges(name: str, image_root: str | Path, edges_root: str | Path) -> None:
    """Register images with pseudo edges, which an edge predictor is trained on.

    Args:
        image_root: folder of the images; those without a map of edges are left out.
        edges_root: output folder of ``tools/make_pseudo_edges.py``, or a folder of 8-bit
            ``<stem>.png``: 0 no edge, 255 edge, 128 ignored. It may be made later.

    Raises:
        as ``register``, and loading as ``load_edge_dicts``.
    """
    spec = DatasetSpec(
        load_edge_dicts,
        {"image_root": image_root, "edges_root": edges_root},
        "correct the folders given to register_trace_edges, or make the pseudo edges again",
        metadata={"pseudo_edges_root": str(edges_folder(edges_root))},
    )
    register(name, spec)


def register_class_agnostic(
    name: str,
    json_file: str | Path,
    image_root: str | Path,
    *,
    max_detections: int | None = None,
    remedy: str = "correct the paths given to register_class_agnostic",
) -> None:
    """Register a COCO instances file as a data set of the one class "object".

    Args:
        json_file: COCO instances, of masks or of boxes alone; its categories are not looked at.
        image_root: folder that the file's ``file_name`` are relative to.
        max_detections: how many predictions of an image the evaluation counts; None: 100, as COCO.
        remedy: what to do if something is missing, for the message.

    Raises:
        as ``register``, and loading as ``load_class_agnostic_dicts``.
    """
    spec = DatasetSpec(
        load_class_agnostic_dicts,
        {"json_file": json_file, "image_root": image_root},
        remedy,
        metadata={
            "thing_classes": ["object"],
            "evaluator_type": "class_agnostic",
            **({"max_detections": max_detections} if max_detections else {}),
        },
    )
    register(name, spec)


def register_instances(
    name: str,
    json_file: str | Path,
    image_root: str | Path,
    categories: Categories | None = None,
    *,
    max_detections: int | None = None,
    remedy: str = "correct the paths given to register_instances",
) -> None:
    """Register a COCO instances file with its classes, for Detectron2's ``COCOEvaluator``.

    Args:
        json_file: COCO instances.
        image_root: folder that the file's ``file_name`` are relative to.
        categories: those of the file, as ``load_categories`` takes them, or a list; their ranks are
            the classes of models. None: one class, see ``register_class_agnostic``.
        max_detections: of one class, as there.
        remedy: what to do if something is missing, for the message.

    Raises:
        as ``register``, and loading as ``load_instance_dicts``.
    """
    if categories is None:
        register_class_agnostic(
            name, json_file, image_root, max_detections=max_detections, remedy=remedy
        )
        return
    known = _as_categories(categories)
    spec = DatasetSpec(
        load_instance_dicts,
        {"json_file": json_file, "image_root": image_root},
        remedy,
        options={"categories": known},
        metadata=instance_metadata(known),
    )
    register(name, spec)


_REGISTER: dict[str, Callable[..., None]] = {
    "PANOPTIC": register_trace_panoptic,
    "SEMANTIC": register_trace_semantic,
    "SEM_SEG": register_sem_seg,
    "INSTANCES": register_instances,
    "EDGES": register_trace_edges,
}
"""What registers an entry of each node of ``DATASETS.TRACE``, see ``known.ENTRIES``."""


def register_from_config(cfg: CfgNode, names: Collection[str] | None = None) -> None:
    """Register the data sets of ``DATASETS.TRACE``; relative paths start at ``datasets_root()``.

    Args:
        cfg: a Detectron2 config.
        names: register these only; None: all.

    Raises:
        ValueError: an entry has too few or too many parts, or its name is taken.
        FileNotFoundError: a folder of labels does not exist.
    """
    for key, register_entry in _REGISTER.items():
        for name, row in entries(cfg, key):
            if names is None or name in names:
                register_entry(name, **rooted(row, datasets_root()))


def _as_categories(source: Categories) -> tuple[Category, ...]:
    return load_categories(source) if isinstance(source, (str, Path)) else tuple(source)
