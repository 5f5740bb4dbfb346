"""Semantic masks and instance edges to pseudo labels."""

from trace_d2.labels.panoptic import LabelSettings, PanopticLabel, PanopticLabeler, Segment
from trace_d2.labels.semantic import SemanticRefiner, SemanticSettings

__all__ = [
    "LabelSettings",
    "PanopticLabel",
    "PanopticLabeler",
    "Segment",
    "SemanticRefiner",
    "SemanticSettings",
]
