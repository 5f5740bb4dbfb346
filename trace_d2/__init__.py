"""TRACE: instance edges from diffusion models, as a Detectron2 plugin.

``import trace_d2`` is light: each name below is imported at its first use. Those in
``NEEDS_DETECTRON2`` say how to install Detectron2 when it is missing; all others do without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trace_d2.lazy import lazy_names

if TYPE_CHECKING:
    from trace_d2.attention import AttentionLayout, SelfAttentionReader
    from trace_d2.config import add_trace_config
    from trace_d2.diffusion import DiffusionBackbone, build_backbone
    from trace_d2.edges import (
        EdgeDetector,
        EdgeOutput,
        attention_boundary_divergence,
        instance_emergence_point,
    )
    from trace_d2.evaluation import panoptic_quality
    from trace_d2.evaluation.panoptic_evaluator import PanopticQualityEvaluator
    from trace_d2.formats.categories import Category, load_categories
    from trace_d2.propagation import BoundaryGuidedPropagation, boundary_guided_propagation
    from trace_d2.pseudo_labels import PanopticLabel, PanopticLabeler

__version__ = "0.1.0"

__all__ = [
    "AttentionLayout",
    "BoundaryGuidedPropagation",
    "Category",
    "DiffusionBackbone",
    "EdgeDetector",
    "EdgeOutput",
    "PanopticLabel",
    "PanopticLabeler",
    "PanopticQualityEvaluator",
    "SelfAttentionReader",
    "__version__",
    "add_trace_config",
    "attention_boundary_divergence",
    "boundary_guided_propagation",
    "build_backbone",
    "instance_emergence_point",
    "load_categories",
    "panoptic_quality",
]

NEEDS_DETECTRON2 = frozenset({"PanopticQualityEvaluator"})

# Public name -> the module that defines it.
_MODULES = {
    "AttentionLayout": "trace_d2.attention",
    "BoundaryGuidedPropagation": "trace_d2.propagation",
    "Category": "trace_d2.formats.categories",
    "DiffusionBackbone": "trace_d2.diffusion",
    "EdgeDetector": "trace_d2.edges",
    "EdgeOutput": "trace_d2.edges",
    "PanopticLabel": "trace_d2.pseudo_labels",
    "PanopticLabeler": "trace_d2.pseudo_labels",
    "PanopticQualityEvaluator": "trace_d2.evaluation.panoptic_evaluator",
    "SelfAttentionReader": "trace_d2.attention",
    "add_trace_config": "trace_d2.config",
    "attention_boundary_divergence": "trace_d2.edges",
    "boundary_guided_propagation": "trace_d2.propagation",
    "build_backbone": "trace_d2.diffusion",
    "instance_emergence_point": "trace_d2.edges",
    "load_categories": "trace_d2.formats.categories",
    "panoptic_quality": "trace_d2.evaluation",
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
