from .bgp import BgpSettings as BgpSettings
from .bgp import BoundaryGuidedPropagation as BoundaryGuidedPropagation
from .bgp import boundary_guided_propagation as boundary_guided_propagation
from .merging import PropagatedInstances as PropagatedInstances
from .merging import merge_masks as merge_masks
from .walk import RandomWalk as RandomWalk
from .walk import random_walk as random_walk
