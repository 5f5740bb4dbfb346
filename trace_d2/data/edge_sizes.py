"""The sizes that an edge predictor is trained at, checked before Detectron2 is imported."""

from __future__ import annotations

from dataclasses import dataclass

from fvcore.common.config import CfgNode

from trace_d2.settings import NodeSettings, within


@dataclass(frozen=True)
class EdgeAugmentationSettings(NodeSettings, node="INPUT.TRACE.PSEUDO_EDGES"):
    """How images with pseudo edges are augmented; see ``defaults.yaml``."""

    size: int = within(0, default=0)
    crop: int = within(0, default=0)
    rotate: bool = False
    recolor: bool = False


def training_side(cfg: CfgNode, size: int) -> int:
    """Side in pixels of the square that images are resized to; 0: they keep their size."""
    backbone = cfg.MODEL.TRACE.BACKBONE
    if backbone.ASPECT != "square":
        raise ValueError(
            f"MODEL.TRACE.BACKBONE.ASPECT is {backbone.ASPECT!r}, but edge predictors are trained "
            "on squares: set it to square"
        )
    if size and backbone.RESOLUTION and size != backbone.RESOLUTION:
        raise ValueError(
            f"INPUT.TRACE.PSEUDO_EDGES.SIZE is {size}, but MODEL.TRACE.BACKBONE.RESOLUTION "
            f"{backbone.RESOLUTION}: set the former to 0"
        )
    return int(backbone.RESOLUTION or size)
