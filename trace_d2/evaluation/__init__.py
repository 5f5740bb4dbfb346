"""Panoptic quality, class-agnostic AP and AR, and their tables.

The Detectron2 evaluators are in ``panoptic_evaluator`` and ``class_agnostic_evaluator``, which are
imported by name because they need Detectron2.
"""

from .class_agnostic import ClassAgnosticResult, class_agnostic_ap
from .panoptic_quality import PanopticQuality, panoptic_quality
from .tables import category_table, class_agnostic_table, comparison_table, quality_table

__all__ = [
    "ClassAgnosticResult",
    "PanopticQuality",
    "category_table",
    "class_agnostic_ap",
    "class_agnostic_table",
    "comparison_table",
    "panoptic_quality",
    "quality_table",
]
