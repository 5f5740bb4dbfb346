from .features import FeatureReader, TokenFeatures
from .settings import CrfSettings, DiscoverySettings, FeatureSettings, GuidedSettings, SamSettings

__all__ = [
    "CrfSettings",
    "DiscoverySettings",
    "FeatureReader",
    "FeatureSettings",
    "GuidedSettings",
    "SamSettings",
    "TokenFeatures",
]
