from .abdiv import attention_boundary_divergence, normalise_edges, pseudo_edges
from .detector import EdgeDetector, StudentDetector
from .emergence import Emergence, instance_emergence_point
from .hed import HedDetector
from .sources import EdgeOutput, EdgeSource, build_edge_source, check_edge_source
from .student import EdgeStudent

__all__ = [
    "EdgeDetector",
    "EdgeOutput",
    "EdgeSource",
    "EdgeStudent",
    "Emergence",
    "HedDetector",
    "StudentDetector",
    "attention_boundary_divergence",
    "build_edge_source",
    "check_edge_source",
    "instance_emergence_point",
    "normalise_edges",
    "pseudo_edges",
]
