"""The job of ``tools/predict.py``: what its command line says, checked before a model is built."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.file_io import PathManager

from trace_d2.complaints import check_all
from trace_d2.config import ConfigError, add_trace_config
from trace_d2.data.categories import ModelClasses
from trace_d2.edges.sources import build_edge_source, check_edge_source
from trace_d2.engine.configs import load_cfg
from trace_d2.engine.machine import check_devices, check_weights
from trace_d2.engine.model_classes import resolve_classes
from trace_d2.engine.names import EDGE_PREDICTOR, MASK2FORMER
from trace_d2.engine.predictor import ModelPredictor
from trace_d2.io.listing import spread
from trace_d2.jobs.command_line import existing_folder, image_ids, images_below
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.journal import ImageEntry
from trace_d2.jobs.kinds.edge_job import edge_settings, given_edges
from trace_d2.jobs.kinds.predictions import PredictionJob
from trace_d2.jobs.pinned_model import build_pinned
from trace_d2.jobs.store import JobStore
from trace_d2.settings import flatten
from trace_d2.terminal import say

_WITHOUT_MASKS = ("ProposalNetwork", "RetinaNet", "FCOS", "SemanticSegmentor")
_MASK_SWITCH = ("GeneralizedRCNN", "PanopticFPN")  # their masks are switched on by MODEL.MASK_ON
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
    except ConfigError as error:
        if args.projects or "do not exist" not in str(error):
            raise
        raise UsageError(f"{error}. A project's own keys: name its module by --project") from error
    cfg = _for_this_machine(cfg, args.opts)
    cut = cfg.MODEL.TRACE.POSTPROCESSOR.ENABLED
    check_all(
        lambda: _check_score(args.score),
        lambda: _check_model(cfg),
        lambda: check_devices(cfg),
        lambda: check_weights(args.weights, "--weights"),
        lambda: existing_folder(args.images, "--images"),
        lambda: check_edge_source(cfg) if cut else None,
    )
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
    for remark in remarks:
        say(f"note: {remark}")
    return PredictionJob(
        partial(_build, cfg, weights, classes, args.score),
        args.images,
        args.output,
        _entries(args, edges),
        classes.categories,
        settings,
        edges,
    )


def _build(
    cfg: CfgNode, weights: str, classes: ModelClasses, score: float, store: JobStore
) -> ModelPredictor:
    """The model, with its edges of the commit that ``store`` notes; raises a UsageError."""
    source = None
    if cfg.MODEL.TRACE.POSTPROCESSOR.ENABLED:
        source = build_pinned(build_edge_source, cfg, store)
    try:
        return ModelPredictor(cfg, weights, classes, score, source)
    except (ValueError, KeyError, OSError, ImportError, AssertionError) as error:
        raise UsageError(f"the model cannot be loaded: {str(error) or type(error)}") from error


def _for_this_machine(cfg: CfgNode, opts: Sequence[str]) -> CfgNode:
    """``cfg`` with a device that is there, unless the command line names one."""
    asked = cfg.MODEL.DEVICE
    there = "cuda" if torch.cuda.is_available() else "cpu"
    absent = asked.startswith("cuda") and there == "cpu" and "MODEL.DEVICE" not in opts[::2]
    if asked != "auto" and not absent:
        return cfg
    if absent:
        say(f"note: MODEL.DEVICE is {asked} in the config, and no CUDA device is visible: cpu")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = there
    cfg.freeze()
    return cfg


def _check_score(score: float) -> None:
    if not 0 <= score <= 1:
        raise ValueError(f"--score is {score}; it must lie in 0..1")


def _check_model(cfg: CfgNode) -> None:
    """Raise a ValueError unless the model of ``cfg`` is there and predicts masks."""
    name, node = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.TRACE.MASK2FORMER.TEST
    if name == EDGE_PREDICTOR:
        raise ValueError(f"MODEL.META_ARCHITECTURE {name} predicts edges: use predict_edges.py")
    if name not in META_ARCH_REGISTRY:
        raise ValueError(
            f"no MODEL.META_ARCHITECTURE {name!r} is registered: correct it, or name the module of "
            "the project that registers it by --project"
        )
    if name in _WITHOUT_MASKS or (name in _MASK_SWITCH and not cfg.MODEL.MASK_ON):
        switch = ": set MODEL.MASK_ON True where it was trained so" if name in _MASK_SWITCH else ""
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {name} predicts no masks of instances and no panoptic "
            f"segments{switch}"
        )
    if name == MASK2FORMER and not (node.PANOPTIC_ON or node.INSTANCE_ON):
        raise ValueError(
            "MODEL.TRACE.MASK2FORMER.TEST.PANOPTIC_ON and INSTANCE_ON are both False: put one of "
            "them at the end of the command as True"
        )
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; it must be one of BGR, RGB")


def _entries(args: argparse.Namespace, edges: Path | None) -> list[ImageEntry]:
    names = images_below(args.images, edges, args.output)
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
