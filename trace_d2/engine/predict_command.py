"""The job of ``tools/predict.py``: what its command line says, checked before a model is built."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.file_io import PathManager

from trace_d2.config import add_trace_config
from trace_d2.data.categories import ModelClasses
from trace_d2.devices import backbone_device
from trace_d2.edges.sources import build_edge_source
from trace_d2.engine.configs import load_cfg
from trace_d2.engine.model_classes import resolve_classes
from trace_d2.engine.predict_preflight import check_config, for_this_machine
from trace_d2.engine.predictor import ModelPredictor
from trace_d2.io.listing import spread
from trace_d2.io.remote import InputFolder, input_folder
from trace_d2.jobs.command_line import image_ids, images_below
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.kinds.edge_job import edge_settings, given_edges
from trace_d2.jobs.kinds.predictions import PredictionJob
from trace_d2.jobs.pinned_model import build_pinned
from trace_d2.jobs.store import JobStore
from trace_d2.settings import flatten
from trace_d2.terminal import say

# Keys that decide what a model predicts, by their beginnings; not how it was trained.
_DECIDING = (
    *("INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "TEST.DETECTIONS_PER_IMAGE"),
    "MODEL.",
)
_OTHERS = ("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.TRACE.")
_OURS = ("MODEL.TRACE.MASK2FORMER.", "MODEL.TRACE.SWIN.")


def predict_job(args: argparse.Namespace) -> PredictionJob:
    """The job of a command line, checked; says what the classes are taken to be, if it is a guess.

    Raises:
        ValueError, OSError: it cannot be; everything that is wrong is said.
    """
    try:
        cfg = load_cfg(args.config_file, args.opts, args.projects)
    except ImportError as error:
        raise UsageError(f"{error}; --project takes modules that Python can import") from error
    cfg, remark = for_this_machine(cfg, args.opts)
    check_config(cfg, META_ARCH_REGISTRY)
    cut = cfg.MODEL.TRACE.POSTPROCESSOR.ENABLED
    weights = PathManager.get_local_path(args.weights)
    classes, cfg, remarks = resolve_classes(cfg, weights, args.categories)
    settings = {
        "weights": f"{Path(weights).name}, sha256 {_digest(weights)}",
        "score": args.score,
        **_model_settings(cfg),
    }
    if cut:
        settings |= edge_settings(cfg, ("POSTPROCESSOR", "BGP"), calibrated=True)
    edges = given_edges(cfg) if cut else None
    images = input_folder(args.images)
    for line in filter(None, (remark, *remarks)):
        say(f"note: {line}")
    return PredictionJob(
        partial(_build, cfg, weights, classes, args.score, tuple(args.projects)),
        images,
        args.output,
        _entries(images, args, edges),
        classes.categories,
        settings,
        edges,
        _devices(cfg),
    )


def _devices(cfg: CfgNode) -> dict[str, str]:
    """What the model runs on, and its backbone of edges, by the keys that say so."""
    devices = {"MODEL.DEVICE": cfg.MODEL.DEVICE}
    if cfg.MODEL.TRACE.POSTPROCESSOR.ENABLED:
        name, key = backbone_device(cfg)
        devices[key] = name
    return devices


def _build(
    cfg: CfgNode,
    weights: str,
    classes: ModelClasses,
    score: float,
    projects: Sequence[str],
    store: JobStore,
) -> ModelPredictor:
    """The model, with its edges of the commit that ``store`` notes; raises a UsageError."""
    source = None
    if cfg.MODEL.TRACE.POSTPROCESSOR.ENABLED:
        source = build_pinned(build_edge_source, cfg, store)
    try:
        for name in projects:  # which a process that has not read the config lacks
            importlib.import_module(name)
        return ModelPredictor(cfg, weights, classes, score, source)
    except (ValueError, KeyError, OSError, ImportError, AssertionError) as error:
        raise UsageError(f"the model cannot be loaded: {str(error) or type(error)}") from error


def _entries(
    images: InputFolder, args: argparse.Namespace, edges: InputFolder | None
) -> list[ImageEntry]:
    names = images_below(images, edges, args.output)
    ids = image_ids(names, args.images_json)
    named = [stem for stem in list(names)[: args.limit] if stem in ids]
    shown = frozenset(spread(named, args.report_images))
    return [ImageEntry(stem, name, ids.get(stem), stem in shown) for stem, name in names.items()]


def _model_settings(cfg: CfgNode) -> dict[str, Any]:
    """The keys that decide what the model predicts, where they are not at their defaults."""
    defaults = get_cfg()
    add_trace_config(defaults)
    before = flatten(defaults)
    kept = {
        key: value
        for key, value in flatten(cfg).items()
        if key.startswith(_DECIDING)
        and (not key.startswith(_OTHERS) or key.startswith(_OURS))
        and (key not in before or before[key] != value)
    }
    settings: dict[str, Any] = json.loads(json.dumps(kept))  # tuples become lists
    return settings


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]
