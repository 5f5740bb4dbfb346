"""Instance Emergence Point (Algorithm 1): the step at which attention changes most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from trace_d2.attention.divergences import mean_divergence_tensor
from trace_d2.backbones.passes import not_finite


@dataclass(frozen=True)
class Emergence:
    """The outcome of Algorithm 1.

    Attributes:
        timestep: t*, one of the timesteps after the first.
        attention: SA_inst, the map (N, N) read at ``timestep``.
        curve: timestep -> mean divergence from the timestep before it.
    """

    timestep: float
    attention: Tensor
    curve: dict[float, float]


def instance_emergence_point(
    read: Callable[[Sequence[float]], Tensor],
    timesteps: Sequence[float],
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
    attention, changes = search_trajectory(read, timesteps, metric, batch)
    timestep, curve = most_changed(timesteps, changes.tolist())
    return Emergence(timestep, attention, curve)


def search_trajectory(
    read: Callable[[Sequence[float]], Tensor],
    timesteps: Sequence[float],
    metric: str = "kl",
    batch: int = 1,
    kernels: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The search of ``instance_emergence_point``, which nothing waits for: all stays on the device.

    Args:
        kernels: ``MODEL.TRACE.ATTENTION.KERNELS``.

    Returns:
        SA_inst (N, N), and the divergence of each timestep from the one before it, float64: one
        less than there are timesteps. ``most_changed`` reads them.
    """
    if len(timesteps) < 2 or any(a >= b for a, b in pairwise(timesteps)):
        raise ValueError(f"a trajectory has two or more ascending timesteps, not {timesteps}")
    if batch < 1:
        raise ValueError(f"a forward pass takes 1 timestep or more, not {batch}")
    changes: list[Tensor] = []
    previous: Tensor | None = None
    best: tuple[Tensor, Tensor] | None = None  # with how much it changed
    for start in range(0, len(timesteps), batch):
        maps = read(list(timesteps[start : start + batch]))
        for attention in maps:
            if previous is not None:
                change = mean_divergence_tensor(previous, attention, metric, kernels=kernels)
                changes.append(change)
                best = (attention, change) if best is None else _more(best, (attention, change))
            previous = attention
        if batch > 1:
            best = best and (_alone(best[0]), best[1])
            previous = _alone(attention)
        del maps, attention
    assert best is not None
    return best[0], torch.stack(changes)


def _more(best: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The one of two maps, each with its change, that changed more; the first of equals."""
    more = other[1] > best[1]
    if more.device.type == "cpu":  # a look costs nothing there, and a choice no copy
        return other if more else best
    return torch.where(more, other[0], best[0]), torch.where(more, other[1], best[1])


def most_changed(
    timesteps: Sequence[float], changes: Sequence[float], dtype: torch.dtype = torch.float32
) -> tuple[float, dict[float, float]]:
    """t* and the curve of what ``search_trajectory`` found in a backbone of this ``dtype``.

    Raises:
        FloatingPointError: a divergence is not finite, so a map was not.
    """
    curve = dict(zip(timesteps[1:], changes, strict=True))
    for timestep, change in curve.items():
        if not math.isfinite(change):
            what = f"attention at timestep {timestep} or the one before is"
            raise not_finite(what, dtype)
    return max(curve, key=curve.__getitem__), curve


def _alone(attention: Tensor) -> Tensor:
    """``attention`` in memory of its own: a slice keeps the other maps of its batch."""
    whole = attention.untyped_storage().nbytes() == attention.nbytes
    return attention if whole else attention.clone()
