"""The public names; ``__init__.py`` imports each at its first use."""

from .attention import AttentionLayout, SelfAttentionReader
from .backbones import DiffusionBackbone, build_backbone
from .data.dataset_mapper import TraceDatasetMapper
from .data.edge_mapper import TraceEdgeDatasetMapper
from .data.registration import (
    register_class_agnostic,
    register_from_config,
    register_sem_seg,
    register_trace_edges,
    register_trace_panoptic,
    register_trace_semantic,
)
from .edges import (
    EdgeDetector,
    EdgeOutput,
    StudentDetector,
    attention_boundary_divergence,
    build_edge_source,
    instance_emergence_point,
)
from .evaluation import class_agnostic_ap, evaluate_edges, panoptic_quality, semantic_quality
from .evaluation.evaluators import (
    ClassAgnosticEvaluator,
    EdgeEvaluator,
    PanopticQualityEvaluator,
)
from .evaluation.semantic_evaluator import SemanticEvaluator
from .io.categories import Category, load_categories
from .labels import PanopticLabel, PanopticLabeler, SemanticRefiner
from .modeling.postprocessor import with_postprocessor
from .propagation import BoundaryGuidedPropagation, boundary_guided_propagation

__version__: str

def add_trace_config(cfg: object) -> None: ...

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
    "SemanticEvaluator",
    "SemanticRefiner",
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
    "register_sem_seg",
    "register_trace_edges",
    "register_trace_panoptic",
    "register_trace_semantic",
    "semantic_quality",
    "with_postprocessor",
]
