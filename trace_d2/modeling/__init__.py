"""Detectron2 modules of TRACE. Importing this package registers them."""

from __future__ import annotations

from .drop_loss import DropLossCascadeROIHeads, DropLossROIHeads
from .edge_predictor import TraceEdgePredictor
from .mask2former import TraceMask2Former, add_official_mask2former_config
from .swin import SwinTransformer

__all__ = [
    "DropLossCascadeROIHeads",
    "DropLossROIHeads",
    "SwinTransformer",
    "TraceEdgePredictor",
    "TraceMask2Former",
    "add_official_mask2former_config",
]
