"""What can be known to be wrong with a prediction before PyTorch and Detectron2 are imported."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from trace_d2.complaints import Complaints, check_all
from trace_d2.devices import cuda_devices
from trace_d2.edges.preflight import check_edges
from trace_d2.engine.machine import check_devices, check_weights
from trace_d2.engine.names import EDGE_PREDICTOR, MASK2FORMER, META_ARCHITECTURES
from trace_d2.engine.preflight import readable_config
from trace_d2.io.categories import Category, load_categories
from trace_d2.io.hints import did_you_mean
from trace_d2.io.json_files import shown
from trace_d2.io.listing import list_images
from trace_d2.jobs.command_line import asked_keys, given_folder, image_ids

_WITHOUT_MASKS = ("ProposalNetwork", "RetinaNet", "FCOS", "SemanticSegmentor")
_MASK_SWITCH = ("GeneralizedRCNN", "PanopticFPN")  # their masks are switched on by MODEL.MASK_ON
_ALIASES = {"coco": "coco-panoptic"}


def check_command(args: argparse.Namespace) -> None:
    """Raise all that is known to be wrong with a command line of ``tools/predict.py``, at once.

    Configs of projects, of the official Mask2Former, and of former versions of Detectron2, pass
    unseen: only Detectron2 can read them.
    """
    wrong = Complaints()
    if not 0 <= args.score <= 1:
        wrong.say(f"--score is {args.score}; it must lie in 0..1")
    wrong.of(check_weights, args.weights, "--weights")
    if (weights := asked_keys(args).get("MODEL.WEIGHTS", args.weights)) != args.weights:
        wrong.say(f"--weights is given, but MODEL.WEIGHTS is {shown(weights)}: leave out one")
    if args.categories:
        wrong.of(named_categories, args.categories)
    images = wrong.of(given_folder, args.images, "--images")
    if isinstance(images, Path):  # others are listed once, when the job is made
        names = wrong.of(list_images, images, [args.output])
        if names and args.images_json:
            wrong.of(image_ids, names, args.images_json)
    cfg = None if args.projects else readable_config(wrong, args.config_file, args.opts)
    file = shown(str(args.config_file))
    if any(line.startswith(file) and "do not exist" in line for line in wrong.lines):
        wrong.say("of a project's own config keys --project MODULE tells")
    if cfg is not None:
        wrong.of(check_config, for_this_machine(cfg, args.opts)[0], META_ARCHITECTURES)
    wrong.end()


def check_config(cfg: CfgNode, known: Collection[str]) -> None:
    """Raise unless the model of ``cfg`` predicts masks, on a device that is there.

    Args:
        cfg: of a trained model.
        known: meta-architectures.
    """
    check_all(
        lambda: _check_model(cfg, known),
        lambda: check_devices(cfg),
        lambda: check_edges(cfg) if cfg.MODEL.TRACE.POSTPROCESSOR.ENABLED else None,
    )


def named_categories(source: str) -> tuple[Category, ...]:
    """The categories that ``--categories`` names: a file, "voc" or "coco"."""
    return load_categories(_ALIASES.get(source, source))


def for_this_machine(cfg: CfgNode, opts: Sequence[str]) -> tuple[CfgNode, str]:
    """``cfg`` with a device that is there, unless the command line names one, and a remark."""
    asked, visible = cfg.MODEL.DEVICE, cuda_devices()
    absent = asked.startswith("cuda") and visible == 0 and "MODEL.DEVICE" not in opts[::2]
    if asked != "auto" and not absent:
        return cfg, ""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cuda" if visible else "cpu"
    cfg.freeze()
    remark = f"MODEL.DEVICE is {asked} in the config, and no CUDA device is visible: cpu"
    return cfg, remark if absent else ""


def _check_model(cfg: CfgNode, known: Collection[str]) -> None:
    name, node = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.TRACE.MASK2FORMER.TEST
    if name == EDGE_PREDICTOR:
        raise ValueError(f"MODEL.META_ARCHITECTURE {name} predicts edges: use predict_edges.py")
    if name not in known:
        raise ValueError(
            f"no MODEL.META_ARCHITECTURE {name!r} is registered"
            f"{did_you_mean(name, META_ARCHITECTURES)}: correct it, or name the module of the "
            "project that registers it by --project"
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
