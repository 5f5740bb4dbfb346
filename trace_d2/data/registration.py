"""Registers data sets with Detectron2's catalogues.

Files are read when the data set is first loaded (``DatasetCatalog.get``), which is before training
starts; only the categories are read at once, since models are built from them. Contiguous ids
count things and stuff in one range, in the order of the categories, as Mask2Former does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from fvcore.common.config import CfgNode

from trace_d2.data.class_agnostic_dicts import load_class_agnostic_dicts
from trace_d2.data.dataset_files import datasets_root
from trace_d2.data.edge_dicts import edges_folder, load_edge_dicts
from trace_d2.data.label_folder import read_folder_categories
from trace_d2.data.panoptic_dicts import (
    PanopticFiles,
    check_same_categories,
    load_panoptic_dicts,
)
from trace_d2.data.semantic_dicts import load_semantic_dicts
from trace_d2.io.categories import BUILTIN_CATEGORIES, Category, load_categories

IGNORE_LABEL = 255
"""Pixel value of ``sem_seg`` files that stands for no category."""

LABEL_DIVISOR = 1000
"""Panoptic ids of models that return no ``segments_info``: category x divisor + instance."""

CLASS_AGNOSTIC_CLASSES = ["object"]
"""Classes of class-agnostic data sets."""

_REGISTERED: dict[str, tuple[Any, ...]] = {}  # name -> what it was registered with


def register_trace_panoptic(
    name: str,
    output_dir: str | Path,
    image_root: str | Path,
    *,
    check: bool = True,
    categories: str | Path | Sequence[Category] | None = None,
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
    remedy = "correct the folders given to register_trace_panoptic, or make the labels again"
    if categories is None:
        known = read_folder_categories(folder)
    else:
        known = as_categories(categories)
        if folder.is_dir():
            check_same_categories(read_folder_categories(folder), known, str(folder))

    def load() -> list[dict[str, Any]]:  # looks again, as the folder may be made later
        files = PanopticFiles.of_folder(folder, image_root, remedy)
        return load_panoptic_dicts(files, known, check)

    files = PanopticFiles.of_folder(folder, image_root, remedy)
    metadata = panoptic_file_metadata(known, files, folder / "instances.json")
    arguments = ("panoptic", _absolute(folder), _absolute(image_root), check, known)
    register_once(name, arguments, load, metadata)


def register_trace_semantic(
    name: str,
    image_root: str | Path,
    semantic_root: str | Path,
    categories: str | Path | Sequence[Category],
    edges_root: str | Path | None = None,
) -> None:
    """Register images with semantic masks, whose labels the mapper makes ("online").

    Args:
        name: name in the catalogues.
        image_root: folder of the images; those without a mask are left out.
        semantic_root: folder of 8-bit ``<stem>.png``, pixel = category id, 255 = unknown.
        categories: as ``load_categories`` takes them, or a list.
        edges_root: folder of ``<stem>.png`` or ``<stem>.npy``; None: the data set has no edges.

    Raises:
        FileNotFoundError: there is no such file of categories.
        ValueError: another data set has this name. Loading raises as ``load_semantic_dicts`` does.
    """
    known = as_categories(categories)
    remedy = "correct the folders given to register_trace_semantic"
    load = partial(load_semantic_dicts, image_root, semantic_root, edges_root, remedy)
    metadata = {
        **panoptic_metadata(known),
        "image_root": str(image_root),
        "semantic_root": str(semantic_root),
    }
    folders = [None if f is None else _absolute(f) for f in (image_root, semantic_root, edges_root)]
    register_once(name, ("semantic", *folders, known), load, metadata)


def register_trace_edges(name: str, image_root: str | Path, edges_root: str | Path) -> None:
    """Register images with pseudo edges, which an edge predictor is trained on.

    Args:
        name: name in the catalogues.
        image_root: folder of the images; those without a map of edges are left out.
        edges_root: output folder of ``tools/make_pseudo_edges.py``, or a folder of 8-bit
            ``<stem>.png``: 0 no edge, 255 edge, 128 ignored. It may be made later.

    Raises:
        ValueError: another data set has this name. Loading raises as ``load_edge_dicts`` does.
    """
    remedy = "correct the folders given to register_trace_edges, or make the pseudo edges again"
    load = partial(load_edge_dicts, image_root, edges_root, remedy)
    metadata = {
        "image_root": str(image_root),
        "pseudo_edges_root": str(edges_folder(edges_root)),
    }
    arguments = ("edges", _absolute(image_root), _absolute(edges_root))
    register_once(name, arguments, load, metadata)


def register_class_agnostic(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register a COCO instances file as a data set of the one class "object".

    Args:
        name: name in the catalogues.
        json_file: COCO instances; its categories are not looked at.
        image_root: folder that the file's ``file_name`` are relative to.

    Raises:
        ValueError: another data set has this name. Loading raises as
            ``load_class_agnostic_dicts`` does.
    """
    remedy = "correct the paths given to register_class_agnostic"
    register_class_agnostic_files(name, json_file, image_root, remedy)


def register_class_agnostic_files(
    name: str, json_file: str | Path, image_root: str | Path, remedy: str
) -> None:
    """``register_class_agnostic`` with what to say, as ``remedy``, where something is missing."""
    load = partial(load_class_agnostic_dicts, json_file, image_root, remedy)
    metadata = {
        "thing_classes": CLASS_AGNOSTIC_CLASSES,
        "json_file": str(json_file),
        "image_root": str(image_root),
        "evaluator_type": "class_agnostic",
    }
    register_once(name, ("instances", _absolute(json_file), _absolute(image_root)), load, metadata)


def register_from_config(cfg: CfgNode, names: Collection[str] | None = None) -> None:
    """Register the data sets of ``DATASETS.TRACE``; relative paths start at ``datasets_root()``.

    Args:
        cfg: a Detectron2 config.
        names: register these only; None: all.

    Raises:
        ValueError: an entry has too few or too many parts, or its name is taken.
        FileNotFoundError: a folder of labels does not exist.
    """
    parts = {
        "PANOPTIC": ("NAME, OUTPUT, IMAGES", 3, 4),
        "SEMANTIC": ("NAME, IMAGES, SEMANTIC, CATEGORIES", 4, 5),
        "INSTANCES": ("NAME, JSON, IMAGES", 3, 3),
        "EDGES": ("NAME, IMAGES, PSEUDO_EDGES", 3, 3),
    }
    for key, form in parts.items():
        for name, *values in _entries(cfg.DATASETS.TRACE, key, *form):
            if names is None or name in names:
                _REGISTER[key](name, *values)


def _register_panoptic(name: str, folder: str, images: str, categories: str | None = None) -> None:
    expected = _categories_argument(categories) if categories else None
    register_trace_panoptic(name, _rooted(folder), _rooted(images), categories=expected)


def _register_semantic(
    name: str, images: str, semantic: str, categories: str, edges: str | None = None
) -> None:
    known = _categories_argument(categories)
    edges_root = _rooted(edges) if edges else None
    register_trace_semantic(name, _rooted(images), _rooted(semantic), known, edges_root)


def _register_instances(name: str, json_file: str, images: str) -> None:
    register_class_agnostic(name, _rooted(json_file), _rooted(images))


def _register_edges(name: str, images: str, pseudo_edges: str) -> None:
    register_trace_edges(name, _rooted(images), _rooted(pseudo_edges))


_REGISTER: dict[str, Callable[..., None]] = {
    "PANOPTIC": _register_panoptic,
    "SEMANTIC": _register_semantic,
    "INSTANCES": _register_instances,
    "EDGES": _register_edges,
}


def register_once(
    name: str,
    arguments: tuple[Any, ...],
    load: Callable[[], list[dict[str, Any]]],
    metadata: dict[str, Any],
) -> None:
    """Register ``load`` and ``metadata`` as ``name``, unless that has been done before.

    Args:
        name: name in the catalogues.
        arguments: what tells this data set from another.
        load: returns the dataset dicts.
        metadata: attributes of ``MetadataCatalog.get(name)``.

    Raises:
        ValueError: the name is empty, or belongs to another data set.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a data set is a non-empty text, not {name!r}")
    if name in DatasetCatalog:
        if _REGISTERED.get(name) == arguments:
            return
        owner = "with other arguments" if name in _REGISTERED else "by somebody else"
        raise ValueError(f"a data set {name!r} is registered already, {owner}: choose another name")
    if name in _REGISTERED:  # removed from the catalogue since
        MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(**metadata)
    DatasetCatalog.register(name, load)
    _REGISTERED[name] = arguments


def is_registered_elsewhere(name: str) -> bool:
    """Whether somebody else has registered ``name``."""
    return name in DatasetCatalog and name not in _REGISTERED


def panoptic_metadata(categories: Sequence[Category]) -> dict[str, Any]:
    """The metadata that follows from the categories, laid out as ``coco_panoptic_standard``."""
    names = [category.name for category in categories]
    colors = [list(category.color) for category in categories]
    ranks = list(enumerate(categories))
    return {
        "thing_classes": names,
        "stuff_classes": names,
        "thing_colors": colors,
        "stuff_colors": colors,
        "thing_dataset_id_to_contiguous_id": {c.id: rank for rank, c in ranks if c.isthing},
        "stuff_dataset_id_to_contiguous_id": {c.id: rank for rank, c in ranks if not c.isthing},
        "categories": tuple(categories),
        "ignore_label": IGNORE_LABEL,
        "label_divisor": LABEL_DIVISOR,
    }


def panoptic_file_metadata(
    categories: Sequence[Category], files: PanopticFiles, instances_json: str | Path
) -> dict[str, Any]:
    """``panoptic_metadata``, and where the files are."""
    return {
        **panoptic_metadata(categories),
        "image_root": str(files.image_root),
        "panoptic_root": str(files.panoptic_root),
        "panoptic_json": str(files.panoptic_json),
        "json_file": str(instances_json),
        "evaluator_type": "coco_panoptic_seg",
    }


def as_categories(source: str | Path | Sequence[Category]) -> tuple[Category, ...]:
    """Categories of a name, a file or a list of them."""
    return load_categories(source) if isinstance(source, (str, Path)) else tuple(source)


def check_categories(
    names: Sequence[str],
    num_classes: int | None = None,
    key: str = "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
) -> None:
    """Raise unless the data sets ``names`` have the same classes in the same order.

    Data sets of a single class agree whatever they call it. Those that know their classes only
    once they are loaded (Detectron2's ``register_coco_instances`` of unknown files) are passed by.

    Args:
        names: registered names, such as ``DATASETS.TRAIN + DATASETS.TEST``.
        num_classes: what the model is built for; None: not compared.
        key: the config key it is from.

    Raises:
        ValueError: they differ; the message names both data sets, or ``key``.
    """
    first: tuple[str, list[tuple[str, bool]]] | None = None
    for name in names:
        classes = _classes(name)
        if classes is None:
            continue
        if num_classes is not None and len(classes) != num_classes:
            raise ValueError(f"{key} is {num_classes}, but {name} has {len(classes)} classes")
        if first is None:
            first = name, classes
        if len(classes) == len(first[1]) == 1 or classes == first[1]:
            continue
        rank = next(
            (i for i, (a, b) in enumerate(zip(first[1], classes, strict=False)) if a != b),
            min(len(classes), len(first[1])),
        )
        shown = [c[rank] if rank < len(c) else "absent" for c in (first[1], classes)]
        raise ValueError(
            f"{first[0]} has {len(first[1])} classes and {name} has {len(classes)}; number {rank} "
            f"is {shown[0]} there and {shown[1]} here (name, is a thing): train and test on data "
            "sets of the same categories"
        )


def _classes(name: str) -> list[tuple[str, bool]] | None:
    """(name, is a thing) of each contiguous class of a registered data set, or None."""
    if name not in DatasetCatalog:
        raise ValueError(
            f"no data set {name!r} is registered: correct DATASETS, or add it to DATASETS.TRACE"
        )
    metadata = MetadataCatalog.get(name)
    names = metadata.get("thing_classes")
    if names is None:
        return None
    if metadata.get("stuff_classes") is None:
        return [(text, True) for text in names]
    things = set(metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
    return [(text, rank in things) for rank, text in enumerate(metadata.stuff_classes)]


def _entries(node: CfgNode, key: str, parts: str, least: int, most: int) -> list[list[str]]:
    """The entries of ``DATASETS.TRACE.<key>``, checked for their number of texts."""
    entries = node[key]
    for entry in entries:
        if (
            not isinstance(entry, (list, tuple))
            or not least <= len(entry) <= most
            or not all(isinstance(part, str) and part for part in entry)
        ):
            raise ValueError(
                f"DATASETS.TRACE.{key} holds {entry!r}: each entry is a list [{parts}] of texts"
            )
    return [list(entry) for entry in entries]


def _categories_argument(source: str) -> str | Path:
    return source if source in BUILTIN_CATEGORIES else _rooted(source)


def _rooted(path: str) -> Path:
    return datasets_root() / os.path.expanduser(path)


def _absolute(path: str | Path) -> str:
    return os.path.abspath(path)
