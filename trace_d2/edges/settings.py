"""Settings of edge detection, which are checked before PyTorch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trace_d2.attention.settings import METRICS
from trace_d2.settings import NodeSettings, one_of, within

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

NEIGHBOURHOODS = (4, 8)
"""Values of ``MODEL.TRACE.ABDIV.NEIGHBOURHOOD``."""

THRESHOLDS = ("mean_std", "upper_band", "mean")
"""Values of ``MODEL.TRACE.ABDIV.THRESHOLD``, see ``abdiv.pseudo_edges``."""

LORA_LAYERS = ("attention", "feed_forward")
"""What ``MODEL.TRACE.STUDENT.LORA.LAYERS`` chooses from."""


@dataclass(frozen=True)
class CannySettings(NodeSettings, node="MODEL.TRACE.EDGES"):
    """The thresholds of source "canny", LOW and HIGH, in grey levels; none: many at once."""

    canny: tuple[float, ...] = within(0.0, default=())

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.canny) not in (0, 2) or list(self.canny) != sorted(self.canny):
            raise ValueError(
                f"{self.node}.CANNY holds LOW and HIGH, LOW not above HIGH, or nothing; not "
                f"{list(self.canny)}"
            )


@dataclass(frozen=True)
class EmergenceSettings(NodeSettings, node="MODEL.TRACE.EMERGENCE"):
    """The search along the trajectory (Algorithm 1)."""

    stride: int = within(1, 999, default=100)
    metric: str = one_of(*METRICS, default="kl")
    fixed_timestep: int = within(-1, 999, default=-1)
    batch: int = within(0, default=0)
    memory_mb: float = 256
    spacing: str = one_of("uniform", "scheduler", default="uniform")


@dataclass(frozen=True)
class AbdivSettings(NodeSettings, node="MODEL.TRACE.ABDIV"):
    """Boundary divergence (Algorithm 2)."""

    neighbourhood: int = one_of(*NEIGHBOURHOODS, default=4)
    threshold: str = one_of(*THRESHOLDS, default="mean_std")
    metric: str = one_of(*METRICS, default="kl")


@dataclass(frozen=True)
class TileSettings(NodeSettings, node="MODEL.TRACE.EDGES.TILES"):
    """Which images are read in tiles, and in which."""

    mode: str = one_of("never", "auto", "always", default="never")
    size: int = within(0, default=0)
    overlap: float = within(0.0, 0.9, default=0.25)
    ratio: float = within(1.0, default=2.0)

    def tiles(self, longer: int, side: int) -> bool:
        """Whether an image is read in tiles whose longer side has so many pixels.

        Args:
            side: of a tile, in pixels. An image that fits into one tile is read as a whole.
        """
        if self.mode == "never":
            return False
        return longer > side * (self.ratio if self.mode == "auto" else 1)


def check_whole(cfg: CfgNode, reader: str) -> None:
    """Raise a ValueError if ``cfg`` wants tiles, as ``reader`` looks at images as a whole."""
    settings = TileSettings.from_config(cfg)
    if settings.mode != "never":
        raise ValueError(
            f"{settings.node}.MODE is {settings.mode!r}, but {reader} reads images as a whole: "
            "trace_d2.build_edge_source(cfg) gives the source that reads them in tiles; or set "
            "MODE never"
        )


def idle_tile_keys(mode: str) -> tuple[str, ...]:
    """Keys of ``MODEL.TRACE`` on tiles that change nothing where ``TILES.MODE`` is ``mode``."""
    idle = {"never": ("MODE", "SIZE", "OVERLAP", "RATIO"), "always": ("RATIO",)}
    return tuple(f"EDGES.TILES.{key}" for key in idle.get(mode, ()))


@dataclass(frozen=True)
class LoraSettings(NodeSettings, node="MODEL.TRACE.STUDENT.LORA"):
    """Of the adapters. Their strength is alpha / rank; an alpha of 0 means the rank."""

    rank: int = within(1, default=64)
    alpha: float = within(0.0, default=0.0)
    layers: tuple[str, ...] = one_of(*LORA_LAYERS, default=LORA_LAYERS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers:
            raise ValueError(f"{self.node}.LAYERS holds some of {', '.join(LORA_LAYERS)}, not none")
