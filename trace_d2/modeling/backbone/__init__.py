"""Backbones that Detectron2 v0.6 does not have."""

from __future__ import annotations

from .swin import SwinTransformer, build_swin_backbone

__all__ = ["SwinTransformer", "build_swin_backbone"]
