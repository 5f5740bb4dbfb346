"""What can be known to be wrong with mask discovery before PyTorch is imported."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from trace_d2.attention.settings import AttentionSettings
from trace_d2.backbones.preflight import check_backbone
from trace_d2.backbones.settings import PassSettings
from trace_d2.complaints import Complaints

from .methods import METHODS
from .settings import DiscoverySettings, FeatureSettings
from .sharpening import Sharpener

EDGES = "edges"
"""The method that takes edges; all others take features of a backbone."""


def check_discovery(cfg: CfgNode) -> None:
    """Raise what discovery by ``cfg`` would, as far as it can be known; all of it at once.

    Raises:
        ConfigError, ValueError, OSError, ImportError: as ``Sharpener.from_config`` and
            ``TokenMaskFinder.from_config``.
    """
    wrong = Complaints()
    common = wrong.of(DiscoverySettings.from_config, cfg)
    if common is not None:
        wrong.of(METHODS[common.method].settings.from_config, cfg)
        if common.method != EDGES:
            wrong.of(Sharpener.from_config, cfg)
            for kind in (FeatureSettings, AttentionSettings, PassSettings):
                wrong.of(kind.from_config, cfg)
            wrong.of(check_backbone, cfg)
    wrong.end()
