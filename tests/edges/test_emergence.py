"""Algorithm 1 against loops, whatever the batch."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import pytest
import torch
from plain.edges import emergence_by_loops
from torch import Tensor

from trace_d2.attention import DIVERGENCES
from trace_d2.edges import instance_emergence_point

TIMESTEPS = range(0, 1000, 100)


def trajectory(count: int = 10, tokens: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(count, tokens, tokens, generator=generator), -1)


@pytest.mark.parametrize("metric", sorted(DIVERGENCES))
@pytest.mark.parametrize("batch", [1, 3, 10, 64])
def test_equals_loops_for_every_batch(metric: str, batch: int) -> None:
    maps = trajectory()
    asked: list[list[int]] = []

    def read(timesteps: Sequence[int]) -> Tensor:
        asked.append(list(timesteps))
        return maps[[t // 100 for t in timesteps]]

    found = instance_emergence_point(read, TIMESTEPS, metric, batch)
    index, curve = emergence_by_loops(list(maps), metric)
    assert found.timestep == 100 * index
    assert torch.equal(found.attention, maps[index])
    assert list(found.curve) == list(range(100, 1000, 100))
    assert list(found.curve.values()) == pytest.approx(curve, rel=1e-4)
    assert [t for part in asked for t in part] == list(TIMESTEPS)
    assert all(len(part) == batch for part in asked[:-1])


def test_first_of_equal_steps_is_taken() -> None:
    a, b = trajectory(2)
    maps = [a, a, b, a]
    found = instance_emergence_point(lambda t: maps[t[0]][None], range(4), "l1")
    assert found.timestep == 2
    assert found.curve[1] == 0
    assert found.curve[2] == found.curve[3] > 0


@pytest.mark.parametrize("batch", [1, 2])
def test_holds_two_maps_and_the_best(batch: int) -> None:
    tokens, most = 37, 0

    def read(timesteps: Sequence[int]) -> Tensor:
        nonlocal most
        most = max(most, bytes_of_maps(tokens))
        return trajectory(len(timesteps), tokens, seed=timesteps[0])

    found = instance_emergence_point(read, range(0, 1000, 200), "kl", batch)
    # Between two calls there is the last map and the best; the next call brings the second.
    assert most == 2 * tokens**2 * 4
    assert found.attention.untyped_storage().nbytes() == tokens**2 * 4


def bytes_of_maps(tokens: int) -> int:
    """Bytes of all tensors alive whose rows have ``tokens`` entries, each storage once."""
    tensors = [item for item in gc.get_objects() if type(item) is Tensor]
    storages = [t.untyped_storage() for t in tensors if t.ndim and t.shape[-1] == tokens]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_bad_trajectories_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more ascending"):
        instance_emergence_point(lambda t: trajectory(1), [0])
    with pytest.raises(ValueError, match="two or more ascending"):
        instance_emergence_point(lambda t: trajectory(1), [0, 200, 100])
    with pytest.raises(ValueError, match="1 timestep or more"):
        instance_emergence_point(lambda t: trajectory(1), [0, 100], batch=0)


def test_maps_that_are_not_finite_are_said() -> None:
    maps = trajectory()
    maps[4, 2, 3] = torch.nan
    with pytest.raises(FloatingPointError, match=r"timestep 4 .* not finite"):
        instance_emergence_point(lambda t: maps[list(t)], range(10))
