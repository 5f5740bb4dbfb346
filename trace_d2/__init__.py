"""TRACE: instance edges from diffusion models, as a Detectron2 plugin.

``import trace_d2`` is light: each name below is imported at its first use. Those in
``NEEDS_DETECTRON2`` say how to install Detectron2 when it is missing; all others do without it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from trace_d2.lazy import lazy_names

if TYPE_CHECKING:
    from trace_d2.attention import AttentionLayout, SelfAttentionReader
    from trace_d2.backbones import DiffusionBackbone, build_backbone
    from trace_d2.config import add_trace_config
    from trace_d2.data.dataset_mapper import TraceDatasetMapper
    from trace_d2.data.edge_mapper import TraceEdgeDatasetMapper
    from trace_d2.data.registration import (
        register_class_agnostic,
        register_from_config,
        register_trace_edges,
        register_trace_panoptic,
        register_trace_semantic,
    )
    from trace_d2.edges import (
        EdgeDetector,
        EdgeOutput,
        StudentDetector,
        attention_boundary_divergence,
        build_edge_source,
        instance_emergence_point,
    )
    from trace_d2.evaluation import evaluate_edges, panoptic_quality
    from trace_d2.evaluation.class_agnostic import class_agnostic_ap
    from trace_d2.evaluation.class_agnostic_evaluator import ClassAgnosticEvaluator
    from trace_d2.evaluation.edge_evaluator import EdgeEvaluator
    from trace_d2.evaluation.panoptic_evaluator import PanopticQualityEvaluator
    from trace_d2.io.categories import Category, load_categories
    from trace_d2.labels import PanopticLabel, PanopticLabeler
    from trace_d2.modeling.postprocessor import with_postprocessor
    from trace_d2.propagation import BoundaryGuidedPropagation, boundary_guided_propagation

__version__ = "0.1.0"

__all__ = [
    "AttentionLayout",
    "BoundaryGuidedPropagation",
    "Category",
    "ClassAgnosticEvaluator",
    "DiffusionBackbone",
    "EdgeDetector",
    "EdgeEvaluator",
    "EdgeOutput",
    "PanopticLabel",
    "PanopticLabeler",
    "PanopticQualityEvaluator",
    "SelfAttentionReader",
    "StudentDetector",
    "TraceDatasetMapper",
    "TraceEdgeDatasetMapper",
    "__version__",
    "add_trace_config",
    "attention_boundary_divergence",
    "boundary_guided_propagation",
    "build_backbone",
    "build_edge_source",
    "class_agnostic_ap",
    "evaluate_edges",
    "instance_emergence_point",
    "load_categories",
    "panoptic_quality",
    "register_class_agnostic",
    "register_from_config",
    "register_trace_edges",
    "register_trace_panoptic",
    "register_trace_semantic",
    "with_postprocessor",
]

NEEDS_DETECTRON2 = frozenset(
    {
        "ClassAgnosticEvaluator",
        "EdgeEvaluator",
        "PanopticQualityEvaluator",
        "TraceDatasetMapper",
        "TraceEdgeDatasetMapper",
        "register_class_agnostic",
        "register_from_config",
        "register_trace_edges",
        "register_trace_panoptic",
        "register_trace_semantic",
        "with_postprocessor",
    }
)

# Public name -> the module that defines it.
_MODULES = {
    "AttentionLayout": "trace_d2.attention",
    "BoundaryGuidedPropagation": "trace_d2.propagation",
    "Category": "trace_d2.io.categories",
    "ClassAgnosticEvaluator": "trace_d2.evaluation.class_agnostic_evaluator",
    "DiffusionBackbone": "trace_d2.backbones",
    "EdgeDetector": "trace_d2.edges",
    "EdgeEvaluator": "trace_d2.evaluation.edge_evaluator",
    "EdgeOutput": "trace_d2.edges",
    "PanopticLabel": "trace_d2.labels",
    "PanopticLabeler": "trace_d2.labels",
    "PanopticQualityEvaluator": "trace_d2.evaluation.panoptic_evaluator",
    "SelfAttentionReader": "trace_d2.attention",
    "StudentDetector": "trace_d2.edges",
    "TraceDatasetMapper": "trace_d2.data.dataset_mapper",
    "TraceEdgeDatasetMapper": "trace_d2.data.edge_mapper",
    "add_trace_config": "trace_d2.config",
    "attention_boundary_divergence": "trace_d2.edges",
    "boundary_guided_propagation": "trace_d2.propagation",
    "build_backbone": "trace_d2.backbones",
    "build_edge_source": "trace_d2.edges",
    "class_agnostic_ap": "trace_d2.evaluation.class_agnostic",
    "evaluate_edges": "trace_d2.evaluation",
    "instance_emergence_point": "trace_d2.edges",
    "load_categories": "trace_d2.io.categories",
    "panoptic_quality": "trace_d2.evaluation",
    "register_class_agnostic": "trace_d2.data.registration",
    "register_from_config": "trace_d2.data.registration",
    "register_trace_edges": "trace_d2.data.registration",
    "register_trace_panoptic": "trace_d2.data.registration",
    "register_trace_semantic": "trace_d2.data.registration",
    "with_postprocessor": "trace_d2.modeling.postprocessor",
}


_import, __dir__ = lazy_names(__name__, globals(), _MODULES)


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562).

    Raises:
        AttributeError: the package has no such name.
        ImportError: the name needs Detectron2, which is not installed.
    """
    try:
        return _import(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "detectron2":
            raise
        raise ImportError(
            f"trace_d2.{name} needs Detectron2, which is not installed: "
            "run `python tools/install_detectron2.py`"
        ) from error


# Not merely known by name: a process that never touches Detectron2 stays light.
if sys.modules.get("detectron2") is not None:
    from trace_d2.plugin import register as _register

    _register()
