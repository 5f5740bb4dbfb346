"""The official ``mask2former`` package, where it is installed, with our mapper and trainer."""

from __future__ import annotations

import importlib
from pathlib import Path

from detectron2.config import CfgNode

# Meta-architectures that the official package registers.
OFFICIAL_META_ARCHITECTURES = frozenset({"MaskFormer"})


def needs_official_mask2former(config_file: str | Path) -> bool:
    """Whether a config, its ``_BASE_`` included, is written for the official package."""
    values = CfgNode.load_yaml_with_base(str(config_file))
    model = values.get("MODEL", {})
    return "MASK_FORMER" in model or model.get("META_ARCHITECTURE") in OFFICIAL_META_ARCHITECTURES


def add_official_mask2former_config(cfg: CfgNode, config_file: str | Path) -> bool:
    """Register the official models and add their keys, if ``config_file`` needs them.

    Call it before ``cfg.merge_from_file(config_file)``. As the official ``train_net.py`` does, it
    adds the keys of Detectron2's DeepLab project first.

    Args:
        cfg: a Detectron2 config, changed in place.
        config_file: the config that is merged next.

    Returns:
        Whether the config needs them.

    Raises:
        ImportError: it needs them, and the package cannot be imported.
    """
    if not needs_official_mask2former(config_file):
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
