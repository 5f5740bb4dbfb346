"""Where instances end: emergence point, boundary divergence, their detector and its student.

Names are imported at their first use: workers that only read edge files do without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trace_d2.lazy import lazy_names

if TYPE_CHECKING:
    from .abdiv import attention_boundary_divergence, normalise_edges, pseudo_edges
    from .detector import EdgeDetector, StudentDetector
    from .emergence import Emergence, instance_emergence_point
    from .sources import EdgeOutput, EdgeSource, build_edge_source, check_edge_source
    from .student import EdgeStudent

__all__ = [
    "EdgeDetector",
    "EdgeOutput",
    "EdgeSource",
    "EdgeStudent",
    "Emergence",
    "StudentDetector",
    "attention_boundary_divergence",
    "build_edge_source",
    "check_edge_source",
    "instance_emergence_point",
    "normalise_edges",
    "pseudo_edges",
]

_MODULES = {
    "EdgeDetector": "trace_d2.edges.detector",
    "EdgeOutput": "trace_d2.edges.sources",
    "EdgeSource": "trace_d2.edges.sources",
    "EdgeStudent": "trace_d2.edges.student",
    "Emergence": "trace_d2.edges.emergence",
    "StudentDetector": "trace_d2.edges.detector",
    "attention_boundary_divergence": "trace_d2.edges.abdiv",
    "build_edge_source": "trace_d2.edges.sources",
    "check_edge_source": "trace_d2.edges.sources",
    "instance_emergence_point": "trace_d2.edges.emergence",
    "normalise_edges": "trace_d2.edges.abdiv",
    "pseudo_edges": "trace_d2.edges.abdiv",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _MODULES)
