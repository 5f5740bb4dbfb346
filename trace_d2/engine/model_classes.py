"""What the classes of a trained model are, wherever that is told."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from trace_d2.config import ConfigError, configured_categories
from trace_d2.data.categories import (
    KEY,
    ModelClasses,
    check_agreement,
    dataset_classes,
    with_categories,
)
from trace_d2.data.registration import register_from_config
from trace_d2.engine.configs import model_categories
from trace_d2.engine.names import MASK2FORMER, RCNN
from trace_d2.engine.predict_preflight import named_categories
from trace_d2.io.categories import Category, parse_categories
from trace_d2.io.json_files import shown

_ORDER = "give as many as the model has classes, in their order, by --categories"


def resolve_classes(
    cfg: CfgNode, weights: str, given: str | None
) -> tuple[ModelClasses, CfgNode, list[str]]:
    """What the classes of a model are, its config with them, and what users should know of it.

    Its config or its checkpoint tell; else ``given`` does, else a data set of its config that is
    registered here; else classes are numbered.

    Args:
        cfg: of the model, frozen.
        weights: its checkpoint.
        given: ``--categories``: a file, "voc" or "coco".

    Raises:
        ValueError, OSError: categories that contradict each other, or the numbers of classes.
    """
    told, in_config = model_categories(cfg, weights), configured_categories(cfg)
    listed = named_categories(given) if given else ()
    told_by = "the model (config and checkpoint)"
    check_agreement({told_by: told, "--categories": listed}, "leave --categories out")
    if told or listed:
        remarks: list[str] = []
        if told:
            teller = f"its {KEY}" if in_config else shown(weights)
            classes = _fitting(cfg, told, teller, _other_config(weights))
        else:
            classes = _fitting(cfg, listed, "--categories", _ORDER)
    else:
        classes, remarks = _guessed(cfg)
    one_range = classes.in_one_range
    return classes, with_categories(cfg, one_range) if one_range else cfg, remarks


def class_counts(cfg: CfgNode) -> tuple[int | None, int | None]:
    """How many classes a model has, and how many of stuff where those are counted apart.

    None: not known of this meta-architecture, and not counted apart.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == RCNN:
        return cfg.MODEL.ROI_HEADS.NUM_CLASSES, None
    if architecture == "PanopticFPN":
        return cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if architecture in (MASK2FORMER, "MaskFormer"):
        return cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, None
    return None, None


def _other_config(weights: str) -> str:
    """What to do where a config is not of the model in ``weights``."""
    beside = Path(weights).with_name("config.yaml")
    there = f", {shown(str(beside))}" if beside.is_file() else ""
    return (
        "this checkpoint is of other classes, or of another model than the config file: give "
        f"--config-file the config.yaml that its training wrote beside it{there}"
    )


def _fitting(
    cfg: CfgNode, categories: Sequence[Category], origin: str, remedy: str
) -> ModelClasses:
    """``categories``, or its things alone, as the classes of the model of ``cfg``."""
    count, apart = class_counts(cfg)
    things = [category for category in categories if category.isthing]
    stuff = [category for category in categories if not category.isthing]
    if apart is None and count in (None, len(categories)):
        return ModelClasses.of(categories)
    if apart is None and count == len(things):
        return ModelClasses.of(things)
    if apart is not None and count == len(things) and apart in (len(stuff), len(stuff) + 1):
        # Panoptic FPN's stuff begins with a class for all things.
        numbered = dict(enumerate(stuff, start=apart - len(stuff)))
        return ModelClasses(dict(enumerate(things)), numbered)
    wanted = f"{count} classes" + (f" of things and {apart} of stuff" if apart else "")
    raise ConfigError(
        f"the model of the config file has {wanted}, but {origin} has {len(categories)} "
        f"categories, {len(things)} of them things: {remedy}"
    )


def _guessed(cfg: CfgNode) -> tuple[ModelClasses, list[str]]:
    """Classes by a data set of the config, or numbers, and a remark that says so."""
    with contextlib.suppress(OSError, ValueError):  # its labels need not be here
        register_from_config(cfg)
    count, apart = class_counts(cfg)
    nobody = "neither the config nor the checkpoint says what the classes of the model are"
    others = []
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        classes = dataset_classes(name)
        if classes is None:
            continue
        known = len(classes.in_one_range) if apart is None else len(classes.things)
        if count in (None, known):
            return classes, [f"{nobody}: they are taken to be those of the data set {name}"]
        others.append(f"{name} has {known}")
    count = count or max(cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    if apart is not None:
        raise ConfigError(f"{nobody}, and it has {count} of things and {apart} of stuff: {_ORDER}")
    entries = [{"id": n, "name": f"class {n}", "isthing": 1} for n in range(1, count + 1)]
    numbered = ModelClasses.of(parse_categories(entries, "numbers", max_id=None))
    why = f" (it has {count}; {', '.join(others)})" if others else ""
    return numbered, [f"{nobody}{why}: they are numbered from 1, as things. Name them: {_ORDER}"]
