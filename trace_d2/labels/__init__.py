"""Semantic masks and instance edges to pseudo labels."""

from trace_d2.labels.panoptic import PanopticLabel, PanopticLabeler, Segment

__all__ = ["PanopticLabel", "PanopticLabeler", "Segment"]
