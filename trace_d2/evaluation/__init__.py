"""Panoptic quality, and its tables.

The Detectron2 evaluator is in ``panoptic_evaluator``, which is imported by name because it needs
Detectron2.
"""

from .panoptic_quality import PanopticQuality, panoptic_quality
from .tables import category_table, comparison_table, quality_table

__all__ = [
    "PanopticQuality",
    "category_table",
    "comparison_table",
    "panoptic_quality",
    "quality_table",
]
