from .features import FeatureReader, TokenFeatures
from .settings import CrfSettings, DiscoverySettings, FeatureSettings, GuidedSettings, SamSettings
from .sharpening import Sharpener

__all__ = [
    "CrfSettings",
    "DiscoverySettings",
    "FeatureReader",
    "FeatureSettings",
    "GuidedSettings",
    "SamSettings",
    "Sharpener",
    "TokenFeatures",
]
