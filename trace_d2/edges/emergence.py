"""Instance Emergence Point (Algorithm 1): the step at which attention changes most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from trace_d2.attention.divergences import mean_divergence


@dataclass(frozen=True)
class Emergence:
    """The outcome of Algorithm 1.

    Attributes:
        timestep: t*, one of the timesteps after the first.
        attention: SA_inst, the map (N, N) read at ``timestep``.
        curve: timestep -> mean divergence from the timestep before it.
    """

    timestep: int
    attention: Tensor
    curve: dict[int, float]


def instance_emergence_point(
    read: Callable[[Sequence[int]], Tensor],
    timesteps: Sequence[int],
    metric: str = "kl",
    batch: int = 1,
) -> Emergence:
    """t* = argmax_n D(SA(X_tau_{n-1}) | SA(X_tau_n)), and the map there; the first of equals.

    Args:
        read: gives the maps (b, N, N) of b timesteps in one forward pass.
        timesteps: tau_0 < ... < tau_N, at least two.
        metric: a name in ``trace_d2.attention.DIVERGENCES``, averaged over the rows.
        batch: timesteps a call of ``read``. The maps of one call, the last of the call before and
            the best are all that is held.

    Raises:
        FloatingPointError: a map is not finite.
    """
    if len(timesteps) < 2 or any(a >= b for a, b in pairwise(timesteps)):
        raise ValueError(f"a trajectory has two or more ascending timesteps, not {timesteps}")
    if batch < 1:
        raise ValueError(f"a forward pass takes 1 timestep or more, not {batch}")
    curve: dict[int, float] = {}
    previous: Tensor | None = None
    best, best_timestep = None, -1
    for start in range(0, len(timesteps), batch):
        part = list(timesteps[start : start + batch])
        maps = read(part)
        for timestep, attention in zip(part, maps, strict=True):
            if previous is not None:
                change = mean_divergence(previous, attention, metric)
                if not math.isfinite(change):
                    raise FloatingPointError(
                        f"attention at timestep {timestep} or the one before is not finite; "
                        "run the backbone in bfloat16 or float32"
                    )
                if best is None or change > curve[best_timestep]:
                    best, best_timestep = attention, timestep
                curve[timestep] = change
            previous = attention
        # A slice would keep the other maps of its batch.
        best = best.clone() if best is not None and best_timestep in part and batch > 1 else best
        previous = previous.clone() if previous is not None and batch > 1 else previous
        del maps, attention
    assert best is not None
    return Emergence(best_timestep, best, curve)
