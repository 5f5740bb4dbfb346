"""ROI heads that train on incomplete masks."""

from __future__ import annotations

from .drop_loss import DropLossCascadeROIHeads, DropLossOutputLayers, DropLossROIHeads

__all__ = ["DropLossCascadeROIHeads", "DropLossOutputLayers", "DropLossROIHeads"]
