"""trace-tiny, the backbone that comes with the package, and what its training is a function of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

TRACE_TINY = Path(__file__).parent / "trace_tiny"


@dataclass(frozen=True)
class TinyFluxSize:
    """Size of the denoiser. ``layers`` are double-stream blocks, ``single_layers`` single."""

    heads: int = 4
    head_width: int = 32
    layers: int = 1
    single_layers: int = 5


@dataclass(frozen=True)
class TrainingSettings:
    """What a run is a function of; stored in its checkpoint and compared on resuming."""

    seed: int = 0
    steps: int = 2600
    batch: int = 32
    #: Side of a training crop in pixels, as the denoiser sees it.
    crop: int = 64
    #: A crop is magnified by a factor from 1 to this.
    zoom: float = 1.0
    scenes: int = 4096
    learning_rate: float = 1e-3
    warmup: int = 200
    #: The learning rate falls linearly to zero over this last share of the steps.
    cooldown: float = 0.25
    ema: float = 0.998
    size: TinyFluxSize = field(default_factory=TinyFluxSize)
