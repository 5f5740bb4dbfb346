"""Configs of Detectron2 models: read whole, and told what the classes of the model are."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

import trace_d2
from trace_d2.config import configured_categories, explained, merge_pairs, read_config
from trace_d2.data.categories import trained_categories, with_categories
from trace_d2.engine.checkpointer import agreed_categories, last_checkpoint
from trace_d2.engine.checks import check_categories
from trace_d2.io.categories import Category
from trace_d2.modeling.mask2former.official import (
    add_official_mask2former_config,
    adopt_official_input,
)
from trace_d2.settings import flatten

_ADDS_CONFIG = re.compile(r"add_\w+_config")


def load_cfg(config_file: str, opts: Sequence[str], projects: Sequence[str] = ()) -> CfgNode:
    """Detectron2's defaults, ours, the official Mask2Former's where needed, then the file; frozen.

    Args:
        config_file: path; empty: none.
        opts: KEY VALUE pairs, which win.
        projects: modules that register models of their own when they are imported; what they have
            of functions ``add_..._config`` adds their keys.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: a key does not exist, or has a value of the wrong kind.
        ImportError: the config needs the official Mask2Former, which cannot be imported, or a
            project cannot.
    """
    cfg = get_cfg()
    trace_d2.add_trace_config(cfg)
    for project in projects:
        module = importlib.import_module(project)
        for name in filter(_ADDS_CONFIG.fullmatch, dir(module)):
            getattr(module, name)(cfg)
    official = False
    if config_file:
        content = read_config(config_file, type(cfg))
        official = add_official_mask2former_config(cfg, config_file)
        with explained(cfg, flatten(content), config_file):
            cfg.merge_from_file(config_file, allow_unsafe=False)
    merge_pairs(cfg, opts)
    if official:
        adopt_official_input(cfg)
    cfg.freeze()
    return cfg


def complete_categories(cfg: CfgNode, *, train: bool, resume: bool) -> CfgNode:
    """``cfg`` with ``MODEL.TRACE.CATEGORIES``, as far as anything tells them.

    Args:
        cfg: frozen; its data sets are registered.
        train: take those of the data sets; else those of the checkpoint that is to be evaluated.
        resume: that is the last one of ``OUTPUT_DIR``, if there is one.

    Raises:
        ValueError: config, checkpoint and data sets contradict each other.
    """
    if train:
        return with_categories(cfg, trained_categories(cfg))
    goes_on = resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()
    weights = str(last_checkpoint(cfg.OUTPUT_DIR)) if goes_on else cfg.MODEL.WEIGHTS
    categories = model_categories(cfg, weights)
    if not cfg.INPUT.TRACE.CLASS_AGNOSTIC:  # that is tested on all things as one class
        check_categories(list(cfg.DATASETS.TEST), categories=categories)
    return with_categories(cfg, categories)


def model_categories(cfg: CfgNode, weights: str) -> tuple[Category, ...]:
    """What the classes of a trained model are, by its config or its checkpoint; empty: unknown.

    Raises:
        UnfitCheckpointError: they contradict each other, or the checkpoint is damaged.
    """
    own = configured_categories(cfg)
    return agreed_categories(own, PathManager.get_local_path(weights)) if weights else own
