"""Panoptic quality, class-agnostic AP and AR, scores of edges, and their tables.

The Detectron2 evaluators are in ``panoptic_evaluator``, ``class_agnostic_evaluator`` and
``edge_evaluator``, which are imported by name because they need Detectron2. What scores edges is
imported at its first use, as it brings numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trace_d2.lazy import lazy_names

from .class_agnostic import ClassAgnosticResult, class_agnostic_ap
from .panoptic_quality import PanopticQuality, panoptic_quality
from .tables import category_table, class_agnostic_table, comparison_table, quality_table

if TYPE_CHECKING:
    from .edge_dataset import EdgeEvaluation, EdgeSettings, evaluate_edges
    from .edge_metrics import EdgeCounts, EdgeScores, edge_counts, edge_scores
    from .edge_report import edge_table
    from .edge_truth import truth_boundaries

__all__ = [
    "ClassAgnosticResult",
    "EdgeCounts",
    "EdgeEvaluation",
    "EdgeScores",
    "EdgeSettings",
    "PanopticQuality",
    "category_table",
    "class_agnostic_ap",
    "class_agnostic_table",
    "comparison_table",
    "edge_counts",
    "edge_scores",
    "edge_table",
    "evaluate_edges",
    "panoptic_quality",
    "quality_table",
    "truth_boundaries",
]

_MODULES = {
    "EdgeCounts": "trace_d2.evaluation.edge_metrics",
    "EdgeEvaluation": "trace_d2.evaluation.edge_dataset",
    "EdgeScores": "trace_d2.evaluation.edge_metrics",
    "EdgeSettings": "trace_d2.evaluation.edge_dataset",
    "edge_counts": "trace_d2.evaluation.edge_metrics",
    "edge_scores": "trace_d2.evaluation.edge_metrics",
    "edge_table": "trace_d2.evaluation.edge_report",
    "evaluate_edges": "trace_d2.evaluation.edge_dataset",
    "truth_boundaries": "trace_d2.evaluation.edge_truth",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _MODULES)
