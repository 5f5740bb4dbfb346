from .edge_hierarchy import EdgeHierarchy, edge_masks
from .features import FeatureReader, TokenFeatures
from .mask_cut import mask_cut, mask_cuts
from .settings import (
    CrfSettings,
    DiscoverySettings,
    EdgeHierarchySettings,
    FeatureSettings,
    GuidedSettings,
    MaskCutSettings,
    SamSettings,
    TokenCutSettings,
)
from .sharpening import Sharpener
from .token_cut import token_cut, token_cuts

__all__ = [
    "CrfSettings",
    "DiscoverySettings",
    "EdgeHierarchy",
    "EdgeHierarchySettings",
    "FeatureReader",
    "FeatureSettings",
    "GuidedSettings",
    "MaskCutSettings",
    "SamSettings",
    "Sharpener",
    "TokenCutSettings",
    "TokenFeatures",
    "edge_masks",
    "mask_cut",
    "mask_cuts",
    "token_cut",
    "token_cuts",
]
