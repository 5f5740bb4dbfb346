from .edge_hierarchy import EdgeHierarchy, edge_masks
from .features import FeatureReader, TokenFeatures
from .settings import (
    CrfSettings,
    DiscoverySettings,
    EdgeHierarchySettings,
    FeatureSettings,
    GuidedSettings,
    SamSettings,
)
from .sharpening import Sharpener

__all__ = [
    "CrfSettings",
    "DiscoverySettings",
    "EdgeHierarchy",
    "EdgeHierarchySettings",
    "FeatureReader",
    "FeatureSettings",
    "GuidedSettings",
    "SamSettings",
    "Sharpener",
    "TokenFeatures",
    "edge_masks",
]
