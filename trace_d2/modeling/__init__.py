"""Detectron2 modules of TRACE. Importing this package registers them."""

from __future__ import annotations

from .backbone import SwinTransformer
from .edge_predictor import TraceEdgePredictor
from .mask2former import TraceMask2Former, add_official_mask2former_config
from .roi_heads import DropLossCascadeROIHeads, DropLossROIHeads

__all__ = [
    "DropLossCascadeROIHeads",
    "DropLossROIHeads",
    "SwinTransformer",
    "TraceEdgePredictor",
    "TraceMask2Former",
    "add_official_mask2former_config",
]
