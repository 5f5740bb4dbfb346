from .settings import CrfSettings, DiscoverySettings, GuidedSettings

__all__ = [
    "CrfSettings",
    "DiscoverySettings",
    "GuidedSettings",
]
