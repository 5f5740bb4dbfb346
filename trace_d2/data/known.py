"""What is known of data sets before they are loaded, and before Detectron2 is imported.

Detectron2's ``MetadataCatalog`` tells of those that are registered; of those that a config or our
table names, the same is told here.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from trace_d2.complaints import Complaints
from trace_d2.data.dataset_files import datasets_root
from trace_d2.data.label_folder import missing_labels, read_folder_categories
from trace_d2.io.categories import BUILTIN_CATEGORIES, UNKNOWN, Category, load_categories
from trace_d2.io.hints import did_you_mean, nearest_path
from trace_d2.io.images import check_masks
from trace_d2.io.subfolders import files_by_stem
from trace_d2.jobs.folder import open_job_folder

ENTRIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "PANOPTIC": ("NAME, OUTPUT, IMAGES", ("output_dir", "image_root", "categories")),
    "SEMANTIC": (
        "NAME, IMAGES, SEMANTIC, CATEGORIES",
        ("image_root", "semantic_root", "categories", "edges_root"),
    ),
    "SEM_SEG": (
        "NAME, IMAGES, SEM_SEG, CATEGORIES",
        ("image_root", "sem_seg_root", "categories", "list_file"),
    ),
    "INSTANCES": ("NAME, JSON, IMAGES", ("json_file", "image_root", "categories")),
    "EDGES": ("NAME, IMAGES, PSEUDO_EDGES", ("image_root", "edges_root")),
}
"""Nodes of ``DATASETS.TRACE``: the parts of an entry, and what follows the name as arguments of
what registers it, those that may be left out last."""

TABLE: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("builtin_datasets.yaml").read_text(encoding="utf-8")
)
"""The built-in data sets, see ``builtin_datasets``."""

_KINDS = {"panoptic": "PANOPTIC", "labels": "PANOPTIC", "semantic": "SEMANTIC",
          "sem_seg": "SEM_SEG", "instances": "INSTANCES"}  # fmt: skip
_FILES = {
    "image_root": "folder of images",
    "semantic_root": "folder of semantic masks",
    "sem_seg_root": "folder of semantic truth",
    "list_file": "list of images",
    "edges_root": "folder of edges",
    "output_dir": "folder of labels",
    "json_file": "JSON file",
    "panoptic_json": "panoptic JSON",
}
_EVALUATORS = {
    "PANOPTIC": "coco_panoptic_seg",
    "SEM_SEG": "sem_seg",
    "INSTANCES": "class_agnostic",
}
UNTOLD: Mapping[str, Any] = {"untold": True}
"""What is known of Detectron2's own data sets before it is imported: that they are there."""

KEY = "MODEL.TRACE.CATEGORIES"
"""What the classes of a model are."""

_learned: dict[str, Mapping[str, Any]] = {}
_configured_names: set[str] = set()


def facts(name: str) -> Mapping[str, Any]:
    """What the metadata of the data set ``name`` tell, or will tell once it is registered.

    Raises:
        ValueError: there is no such data set.
    """
    catalogues = sys.modules.get("detectron2.data")
    if catalogues is not None and name in catalogues.DatasetCatalog:
        known: Mapping[str, Any] = catalogues.MetadataCatalog.get(name).as_dict()
        return known
    if name in _learned:
        return _learned[name]
    if catalogues is None and name in _names_of_detectron2():
        return UNTOLD
    registered = list(catalogues.DatasetCatalog) if catalogues is not None else ()
    names = {*registered, *_configured_names, *_builtin_names(), *_names_of_detectron2()}
    raise ValueError(
        f"no data set {name!r} is registered{did_you_mean(name, sorted(names))}: correct DATASETS, "
        "or add it to DATASETS.TRACE"
    )


def learn(wrong: Complaints, cfg: CfgNode, names: Sequence[str]) -> list[str]:
    """Look at the data sets ``names`` that the config or our table knows; ``facts`` tells of them.

    Args:
        wrong: is told of entries, files and folders that cannot be.
        cfg: with ``DATASETS.TRACE``.
        names: of ``DATASETS``.

    Returns:
        Remarks that users should see before training.
    """
    _learned.clear()
    _configured_names.clear()
    remarks: list[str] = []
    for kind, name, relative, where in (*_configured(wrong, cfg), *_builtin()):
        if where.startswith("DATASETS"):
            _configured_names.add(name)
        if name not in names:
            continue
        row = rooted(relative, datasets_root())
        _learned[name] = told = _facts(wrong, kind, row)
        wrong.of(_check_files, row, f"the data set {name} ({where})")
        if kind == "PANOPTIC" and "output_dir" in row:
            remarks += filter(None, [missing_labels(row["output_dir"], row["image_root"])])
        if kind == "SEMANTIC" and told.get("categories") and row["semantic_root"].is_dir():
            origin = str(row["categories"])
            masks = files_by_stem(row["semantic_root"], (".png",))
            paths = [Path(row["semantic_root"]) / files[0] for files in masks.values()]
            wrong.of(check_masks, paths, told["categories"], origin)
    return remarks


def entries(cfg: CfgNode, key: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The name and the arguments of each entry of ``DATASETS.TRACE.<key>``.

    Raises:
        ValueError: an entry has too few or too many parts, or one that is no text.
    """
    parts, arguments = ENTRIES[key]
    least = len(parts.split(","))
    for entry in cfg.DATASETS.TRACE[key]:
        if (
            not isinstance(entry, (list, tuple))
            or not least <= len(entry) <= len(arguments) + 1
            or not all(isinstance(part, str) and part for part in entry)
        ):
            raise ValueError(
                f"DATASETS.TRACE.{key} holds {entry!r}: each entry is a list [{parts}] of texts"
            )
        yield entry[0], dict(zip(arguments, entry[1:], strict=False))


def rooted(row: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """``row`` with its paths below ``root``: all texts but built-in names of categories."""
    return {
        key: text
        if not isinstance(text, str) or (key == "categories" and text in BUILTIN_CATEGORIES)
        else root / os.path.expanduser(text)
        for key, text in row.items()
    }


def category_metadata(categories: Sequence[Category]) -> dict[str, Any]:
    """What follows from the categories, laid out as ``coco_panoptic_standard``."""
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
        "ignore_label": UNKNOWN,  # of pixels in sem_seg files
        "label_divisor": 1000,  # ids of models without segments_info: category x this + instance
    }


def instance_metadata(categories: Sequence[Category]) -> dict[str, Any]:
    """What follows from the categories of instances, laid out as ``coco``."""
    return {
        "thing_classes": [category.name for category in categories],
        "thing_colors": [list(category.color) for category in categories],
        "thing_dataset_id_to_contiguous_id": {c.id: rank for rank, c in enumerate(categories)},
        "evaluator_type": "coco",
    }


def _configured(wrong: Complaints, cfg: CfgNode) -> Iterator[tuple[str, str, dict[str, str], str]]:
    """Kind, name, arguments and place of each data set of ``DATASETS.TRACE``."""
    for key in ENTRIES:
        for name, row in wrong.of(_listed, cfg, key) or ():
            yield key, name, row, f"DATASETS.TRACE.{key}"


def _listed(cfg: CfgNode, key: str) -> list[tuple[str, dict[str, str]]]:
    return list(entries(cfg, key))


def _builtin() -> Iterator[tuple[str, str, dict[str, str], str]]:
    for kind, key in _KINDS.items():
        for name, row in TABLE[kind].items():
            remedy = str(TABLE["remedies"][row["remedy"]]).split(" {")[0]
            paths = {k: text for k, text in row.items() if k != "remedy"}
            yield key, name, paths, f"built-in: {remedy}"


def _builtin_names() -> list[str]:
    return [name for kind in _KINDS for name in TABLE[kind]]


def _facts(wrong: Complaints, kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"evaluator_type": _EVALUATORS.get(kind)}
    if kind == "INSTANCES" and "categories" in row:
        categories = wrong.of(_categories, row)
        told |= instance_metadata(categories) if categories else {}
    elif kind == "INSTANCES":
        told["thing_classes"] = ["object"]
    elif kind == "EDGES":
        told["pseudo_edges_root"] = str(row["edges_root"])
    else:
        categories = wrong.of(_categories, row)
        told |= category_metadata(categories) if categories else {}
    return told


def _categories(row: Mapping[str, Any]) -> tuple[Category, ...]:
    folder = row.get("output_dir")
    if folder is not None and ("categories" not in row or open_job_folder(folder) is not None):
        return read_folder_categories(folder) if Path(folder).is_dir() else ()
    return load_categories(row["categories"])


def _check_files(row: Mapping[str, Any], name: str) -> None:
    """Raise a FileNotFoundError that lists what is absent of the files of a data set."""
    absent = [
        f"no {what} at {row[key]}{nearest_path(row[key])}"
        for key, what in _FILES.items()
        if key in row and not Path(row[key]).exists()
    ]
    if absent:
        raise FileNotFoundError(f"{name}: {'; '.join(absent)}")


@functools.cache
def _names_of_detectron2() -> frozenset[str]:
    """Names of the data sets that Detectron2 registers, from the text of its table."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return frozenset()
    path = Path(spec.origin).parent / "data" / "datasets" / "builtin.py"
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    texts = {text for text in constants if isinstance(text, str) and _is_name(text)}
    years = {f"voc_{year}_{split}" for year in (2007, 2012) for split in _VOC_SPLITS}
    cityscapes = {f"cityscapes_fine_{k}_{s}" for k in _CITY_KINDS for s in ("train", "val", "test")}
    stuffed = {f"{text}_{kind}" for text in texts for kind in ("stuffonly", "separated")}
    return frozenset(texts | years | cityscapes | stuffed)


_VOC_SPLITS = ("train", "val", "trainval", "test")
_CITY_KINDS = ("instance_seg", "sem_seg", "panoptic")


def _is_name(text: str) -> bool:
    return "_" in text and re.fullmatch(r"[A-Za-z0-9_.-]+", text) is not None
