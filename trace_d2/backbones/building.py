"""Builds backbones."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from . import (  # noqa: F401 -- they register themselves
    families,
    multimodal,
    timm_models,
    vision_transformers,
)
from .backbone import AttentionBackbone
from .registry import BACKBONE_REGISTRY, REGISTERED_MODELS, family_of, source_of
from .settings import BackboneSettings
from .versions import check_versions

__all__ = ["BACKBONE_REGISTRY", "build_backbone"]


def build_backbone(cfg: CfgNode) -> AttentionBackbone:
    """Build the backbone that ``cfg.MODEL.TRACE.BACKBONE`` and ``cfg.MODEL.TRACE.DEVICE`` name.

    Raises:
        ValueError: an unknown name, a folder of an unknown kind, a folder that does not
            fit the registered name, an unusable device, or damaged weights.
        FileNotFoundError: something the folder should hold is missing, or a hub model cannot be
            had; the message says what to do.
        ImportError: a package is too old.
    """
    check_versions()
    settings = BackboneSettings.from_config(cfg)
    registered = REGISTERED_MODELS.get(settings.name)
    if registered:
        family: type[AttentionBackbone] = BACKBONE_REGISTRY.get(registered.family)
    else:
        family = family_of(source_of(settings))
    return family.from_config(cfg)
