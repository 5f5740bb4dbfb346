"""The official ``mask2former`` package, where it is installed, with our mapper and trainer."""

from __future__ import annotations

import importlib
from pathlib import Path

from detectron2.config import CfgNode

from trace_d2.config import get_trace_cfg


def add_official_mask2former_config(cfg: CfgNode, config_file: str | Path) -> bool:
    """Register the official models and add their keys, if ``config_file`` needs them.

    As the official ``train_net.py`` does, it adds the keys of Detectron2's DeepLab project first.

    Args:
        cfg: a Detectron2 config, changed in place.
        config_file: the config that is merged next, its ``_BASE_`` included.

    Returns:
        Whether the config needs them.

    Raises:
        ImportError: it needs them, and the package cannot be imported.
    """
    model = CfgNode.load_yaml_with_base(str(config_file)).get("MODEL", {})
    if "MASK_FORMER" not in model and model.get("META_ARCHITECTURE") != "MaskFormer":
        return False
    try:
        package = importlib.import_module("mask2former")
    except ImportError as error:
        raise ImportError(
            f"{config_file} is a config of the official mask2former package, which cannot be "
            f"imported ({error}): put a checkout of facebookresearch/Mask2Former on PYTHONPATH "
            "and build its operator, or take a config of TraceMask2Former, which needs neither"
        ) from error
    deeplab = importlib.import_module("detectron2.projects.deeplab")
    deeplab.add_deeplab_config(cfg)
    package.add_maskformer2_config(cfg)
    return True


def adopt_official_input(cfg: CfgNode) -> None:
    """Give our mapper what an official config says of its training images.

    ``INPUT.IMAGE_SIZE``, ``MIN_SCALE``, ``MAX_SCALE`` and ``COLOR_AUG_SSD`` take the place of the
    keys of ``INPUT.TRACE`` that are at their defaults. The mapper is ours, whatever
    ``INPUT.DATASET_MAPPER_NAME`` says. ``cfg``, merged, is changed in place.
    """
    node, defaults = cfg.INPUT.TRACE, get_trace_cfg().INPUT.TRACE
    official = {
        "IMAGE_SIZE": cfg.INPUT.IMAGE_SIZE,
        "MIN_SCALE": cfg.INPUT.MIN_SCALE,
        "MAX_SCALE": cfg.INPUT.MAX_SCALE,
        "COLOR_JITTER": cfg.INPUT.COLOR_AUG_SSD,
    }
    for key, value in official.items():
        if node[key] == defaults[key]:
            node[key] = value
