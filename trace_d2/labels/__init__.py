"""Semantic masks and instance edges to pseudo labels."""

from trace_d2.labels.panoptic import LabelSettings, PanopticLabel, PanopticLabeler, Segment

__all__ = ["LabelSettings", "PanopticLabel", "PanopticLabeler", "Segment"]
