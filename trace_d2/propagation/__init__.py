"""Boundary-guided propagation (BGP): components cut by edges, random walk, merging."""

from trace_d2.propagation.affinity import PathAffinity, path_affinity
from trace_d2.propagation.bgp import (
    BoundaryGuidedPropagation,
    PropagatedInstances,
    boundary_guided_propagation,
)
from trace_d2.propagation.components import EDGE_THRESHOLD, cut_components
from trace_d2.propagation.merging import MergedMasks, merge_masks
from trace_d2.propagation.random_walk import RandomWalk, random_walk

__all__ = [
    "EDGE_THRESHOLD",
    "BoundaryGuidedPropagation",
    "MergedMasks",
    "PathAffinity",
    "PropagatedInstances",
    "RandomWalk",
    "boundary_guided_propagation",
    "cut_components",
    "merge_masks",
    "path_affinity",
    "random_walk",
]
