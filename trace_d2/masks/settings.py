"""Settings of mask discovery, which are checked before PyTorch is imported."""

from __future__ import annotations

from dataclasses import dataclass

from trace_d2.settings import NodeSettings, one_of, within

METHODS = ("edges", "ncut", "maskcut", "tokencut", "promerge")
"""Values of ``MODEL.TRACE.DISCOVERY.METHOD``."""

FEATURES = ("auto", "keys", "attention")
"""Values of ``MODEL.TRACE.DISCOVERY.FEATURES``."""

SHARPENERS = ("guided", "crf", "none")
"""Values of ``MODEL.TRACE.DISCOVERY.SHARPEN``."""


@dataclass(frozen=True)
class DiscoverySettings(NodeSettings, node="MODEL.TRACE.DISCOVERY"):
    """What is common to all methods."""

    method: str = one_of(*METHODS, default="edges")
    max_masks: int = within(0, default=0)
    sharpen: str = one_of(*SHARPENERS, default="guided")
    fill_holes: bool = True
    min_iou: float = within(0.0, 1.0, default=0.5)


@dataclass(frozen=True)
class FeatureSettings(NodeSettings, node="MODEL.TRACE.DISCOVERY"):
    """What tells the tokens of an image apart."""

    method: str = one_of(*METHODS, default="edges")
    features: str = one_of(*FEATURES, default="auto")
    key_block: int = within(-1, default=-1)
    timestep: int = within(0, 999, default=0)

    @property
    def kind(self) -> str:
        """ "keys" or "attention"; "auto" is what ``method`` does best with."""
        if self.features != "auto":
            return self.features
        return "attention" if self.method == "ncut" else "keys"


@dataclass(frozen=True)
class GuidedSettings(NodeSettings, node="MODEL.TRACE.DISCOVERY.GUIDED"):
    """The guided filter (He et al., 2013) that fits a mask of tokens to the image."""

    side: int = within(1, default=1024)
    radius: float = within(0.0, default=1.0)
    epsilon: float = within(1e-5, default=1e-4)


@dataclass(frozen=True)
class CrfSettings(NodeSettings, node="MODEL.TRACE.DISCOVERY.CRF"):
    """The dense CRF (Kraehenbuehl and Koltun, 2011) of MaskCut and ProMerge."""

    side: int = within(1, default=480)
    steps: int = within(1, default=10)
    contrast: float = within(0.0, default=1.0)
    smooth_xy: float = within(1e-3, default=3.0)
    smooth_weight: float = within(0.0, default=7.0)
    bilateral_xy: float = within(1e-3, default=50.0)
    bilateral_rgb: float = within(1e-3, default=5.0)
    bilateral_weight: float = within(0.0, default=10.0)


@dataclass(frozen=True)
class NcutSettings(NodeSettings, node="MODEL.TRACE.DISCOVERY.NCUT"):
    """The constants of recursive normalised cuts; see ``recursive_cuts``."""

    tau: float = within(-1.0, 1.0, default=0.5)
    epsilon: float = within(1e-12, 1.0, default=1e-5)
    min_tokens: int = within(1, default=8)
    max_cut: float = within(0.0, 2.0, default=2.0)


@dataclass(frozen=True)
class ProMergeSettings(NodeSettings, node="MODEL.TRACE.DISCOVERY.PROMERGE"):
    """The constants of ProMerge; see ``pro_merge``."""

    stride: int = within(1, default=4)
    tau: float = within(-1.0, 1.0, default=0.2)
    border_lines: int = within(0, 4, default=1)
    border_share: float = within(0.0, 1.0, default=0.5)
    component_share: float = within(0.0, 1.0, default=0.5)
    background_votes: float = within(0.0, 1.0, default=0.5)
    need_background: bool = True
    min_background: float = within(0.0, 1.0, default=0.1)
    max_background_share: float = within(0.0, default=0.8)
    max_background_similarity: float = within(-1.0, default=0.1)
    overlap: float = within(0.0, 1.0, default=0.5)
    similar_overlap: float = within(0.0, 1.0, default=0.1)
    similarity: float = within(-1.0, 1.0, default=0.1)


@dataclass(frozen=True)
class TokenCutSettings(NodeSettings, node="MODEL.TRACE.DISCOVERY.TOKENCUT"):
    """The constants of TokenCut; see ``token_cut``."""

    tau: float = within(-1.0, 1.0, default=0.2)
    epsilon: float = within(1e-12, 1.0, default=1e-5)


@dataclass(frozen=True)
class MaskCutSettings(NodeSettings, node="MODEL.TRACE.DISCOVERY.MASKCUT"):
    """The constants of MaskCut; see ``mask_cut``."""

    tau: float = within(-1.0, 1.0, default=0.15)
    epsilon: float = within(1e-12, 1.0, default=1e-5)
    masks: int = within(1, default=3)
    corners: int = within(1, 5, default=3)
    max_iou: float = within(0.0, 1.0, default=0.5)
    min_area: float = within(0.0, 1.0, default=0.01)


@dataclass(frozen=True)
class SamSettings(NodeSettings, node="MODEL.TRACE.SAM"):
    """A promptable network that is asked for each mask, and when it is believed."""

    weights: str = ""
    revision: str = ""
    min_score: float = within(0.0, 1.0, default=0.8)
    min_agreement: float = within(0.5, 1.0, default=0.6)
    points: int = within(1, default=3)
    negatives: int = within(0, default=2)
    min_area: float = within(0.0, default=64.0)
    batch: int = within(1, default=16)


@dataclass(frozen=True)
class EdgeHierarchySettings(NodeSettings, node="MODEL.TRACE.DISCOVERY.EDGES"):
    """Which nodes of the watershed hierarchy of edges are masks; see ``edge_masks``."""

    sigma: float = within(0.0, 100.0, default=1.5)
    gap_radius: float = within(0.0, 1000.0, default=5.0)
    depth: float = within(0.0, 1.0, default=0.08)
    min_area: int = within(1, default=60)
    max_share: float = within(0.0, 1.0, default=0.5)
    border_share: float = within(0.0, 1.0, default=0.5)
    max_borders: int = within(0, 4, default=1)
    area_power: float = within(0.0, default=0.125)
    min_score: float = within(0.0, 1.0, default=0.0)
    nested: bool = True
