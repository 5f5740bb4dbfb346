from .settings import CrfSettings, DiscoverySettings, GuidedSettings, SamSettings

__all__ = [
    "CrfSettings",
    "DiscoverySettings",
    "GuidedSettings",
    "SamSettings",
]
