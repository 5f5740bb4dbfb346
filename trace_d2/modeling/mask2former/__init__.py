"""Mask2Former for Detectron2: the meta-architecture "TraceMask2Former"."""

from __future__ import annotations

from .meta_arch import TraceMask2Former
from .official import add_official_mask2former_config

__all__ = ["TraceMask2Former", "add_official_mask2former_config"]
