"""What can be known to be wrong with mask discovery before PyTorch is imported."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from trace_d2.attention.settings import AttentionSettings
from trace_d2.backbones.preflight import check_backbone
from trace_d2.backbones.settings import PassSettings
from trace_d2.complaints import Complaints
from trace_d2.settings import NodeSettings

from .methods import METHODS
from .settings import CrfSettings, DiscoverySettings, FeatureSettings, GuidedSettings
from .sharpening import check_package

EDGES = "edges"
"""The method that takes edges; all others take features of a backbone."""

_KINDS: tuple[type[NodeSettings], ...] = (
    *(GuidedSettings, CrfSettings, FeatureSettings),
    *(AttentionSettings, PassSettings),
)  # of all methods but that one


def check_discovery(cfg: CfgNode) -> None:
    """Raise what discovery by ``cfg`` would, as far as it can be known; all of it at once.

    Raises:
        ConfigError, ValueError, OSError, ImportError: as ``Sharpener.from_config`` and
            ``TokenMaskFinder.from_config``.
    """
    wrong = Complaints()
    wrong.of(DiscoverySettings.from_config, cfg)
    method = cfg.MODEL.TRACE.DISCOVERY.METHOD
    if method in METHODS:
        wrong.of(METHODS[method].settings.from_config, cfg)
    if method != EDGES:
        for kind in _KINDS:
            wrong.of(kind.from_config, cfg)
        wrong.of(check_backbone, cfg)
        wrong.of(check_package, cfg.MODEL.TRACE.DISCOVERY.SHARPEN)
    wrong.end()
