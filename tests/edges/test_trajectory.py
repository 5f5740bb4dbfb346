"""The trajectory of a picture: the detector's own results at every step, and stable colours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trace_d2.edges import EdgeDetector
from trace_d2.edges.detector import EmergenceSettings
from trace_d2.edges.trajectory import (
    align_components,
    component_colors,
    principal_components,
    read_trajectory,
)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8)


def test_is_what_the_detector_finds(build_tiny: Callable, image: np.ndarray) -> None:
    detector = EdgeDetector(build_tiny("flux"), EmergenceSettings(stride=200, batch=2))
    reads: list[tuple[int, ...]] = []
    plain = detector.backbone.run

    def run(prepared: Any, timesteps: list[int]) -> Tensor:
        reads.append(tuple(timesteps))
        return plain(prepared, timesteps)

    detector.backbone.run = run
    done: list[int] = []
    trajectory = read_trajectory(detector, image, "a", done.append)
    assert reads == [(0, 200), (400, 600), (800,)]  # each map once
    assert sum(done) == 5
    found = detector(image, "a")
    assert trajectory.emergence == trajectory.chosen.timestep == found.timestep
    assert trajectory.curve == pytest.approx(found.curve)
    np.testing.assert_allclose(trajectory.chosen.abdiv, found.abdiv, rtol=1e-5)
    np.testing.assert_allclose(trajectory.edges, found.edges, atol=1e-5)
    assert [step.timestep for step in trajectory.steps] == [0, 200, 400, 600, 800]
    for step in trajectory.steps:
        assert step.colors.shape == (*step.abdiv.shape, 3)
        assert step.colors.dtype == np.float32
        assert 0 <= step.colors.min() <= step.colors.max() <= 1


@pytest.mark.parametrize("fixed", [400, 430])
def test_a_fixed_timestep_is_what_the_teacher_reads(
    build_tiny: Callable, image: np.ndarray, fixed: int
) -> None:
    detector = EdgeDetector(build_tiny("flux"), EmergenceSettings(stride=400, fixed_timestep=fixed))
    trajectory = read_trajectory(detector, image, "a")
    assert [step.timestep for step in trajectory.steps] == [0, 400, 800]
    assert trajectory.emergence == max(trajectory.curve, key=trajectory.curve.__getitem__)
    assert trajectory.chosen.timestep == fixed
    np.testing.assert_allclose(trajectory.edges, detector(image, "a").edges, atol=1e-5)


def groups(sizes: tuple[int, ...]) -> Tensor:
    """Attention of tokens in groups, each attending to its own group alone."""
    member = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    same = (member[:, None] == member[None]).float()
    return same / same.sum(-1, keepdim=True)


def test_components_tell_groups_apart_and_do_not_depend_on_chance() -> None:
    attention = groups((20, 12, 8, 6))
    torch.manual_seed(1)
    scores = principal_components(attention)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    torch.testing.assert_close(principal_components(attention), scores)
    assert not torch.equal(torch.get_rng_state(), state)  # the caller's generator is its own
    starts = [0, 20, 32, 40]
    distances = torch.cdist(scores[starts], scores[starts])
    assert (distances + 9 * torch.eye(4)).min() > 0.5
    # Within a group all tokens look alike.
    for start, stop in zip(starts, (20, 32, 40, 46), strict=True):
        torch.testing.assert_close(scores[start:stop], scores[start].expand(stop - start, 3),
                                   rtol=0, atol=1e-3)  # fmt: skip
    torch.testing.assert_close(scores.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(scores.square().mean(0), torch.ones(3), rtol=0, atol=1e-3)


def test_no_spread_and_few_tokens_give_grey() -> None:
    for tokens in (1, 2, 9):
        scores = principal_components(torch.full((tokens, tokens), 1 / tokens))
        assert scores.shape == (tokens, 3)
        torch.testing.assert_close(component_colors(scores), torch.full((tokens, 3), 0.5))


def test_aligned_components_undo_signs_order_and_turns() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(50, 3, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    for change in (turn, torch.diag(torch.tensor([-1.0, 1, -1])), torch.eye(3)[[2, 0, 1]]):
        torch.testing.assert_close(align_components(reference @ change, reference), reference)
