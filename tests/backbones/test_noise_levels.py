"""alpha_t and sigma_t against the schedulers' own noising."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

from trace_d2.backbones.noise_levels import is_flow_matching, signal_and_noise_levels

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _noised(scheduler, sample, noise, timesteps):
    signal, spread = signal_and_noise_levels(scheduler, timesteps)
    return signal.view(-1, 1, 1, 1) * sample + spread.view(-1, 1, 1, 1) * noise


@pytest.fixture
def sample_and_noise():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 4, 3, 3, generator=generator)


@pytest.mark.parametrize(
    "scheduler_class", [DDPMScheduler, DDIMScheduler, PNDMScheduler, LCMScheduler]
)
def test_diffusion_equals_the_schedulers_add_noise(scheduler_class, sample_and_noise):
    scheduler = scheduler_class(**BETAS)
    timesteps = torch.arange(1000)
    ones = torch.ones(1000, 1, 1, 1), torch.zeros(1000, 1, 1, 1)
    signal, spread = signal_and_noise_levels(scheduler, timesteps)
    torch.testing.assert_close(signal, scheduler.add_noise(*ones, timesteps).flatten())
    torch.testing.assert_close(spread, scheduler.add_noise(*ones[::-1], timesteps).flatten())
    sample, noise = (tensor[:1] for tensor in sample_and_noise)
    some = torch.tensor([300])
    expected = scheduler.add_noise(sample, noise, some)
    torch.testing.assert_close(_noised(scheduler, sample, noise, some), expected)


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, EulerDiscreteScheduler])
def test_timesteps_that_are_whole_may_be_floats(scheduler_class):
    scheduler, timesteps = scheduler_class(**BETAS), torch.arange(1000)
    whole = signal_and_noise_levels(scheduler, timesteps)
    floats = signal_and_noise_levels(scheduler, timesteps.float())
    for a, b in zip(whole, floats, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_what_euler_shows_to_the_denoiser_at_its_own_timesteps(spacing, options, sample_and_noise):
    scheduler = EulerDiscreteScheduler(timestep_spacing=spacing, **BETAS, **options)
    scheduler.set_timesteps(7)
    sample, noise = (tensor[:1] for tensor in sample_and_noise)
    for timestep in scheduler.timesteps:
        scheduler._step_index = None
        scaled = scheduler.scale_model_input(
            scheduler.add_noise(sample, noise, timestep[None]), timestep
        )
        actual = _noised(scheduler, sample, noise, timestep[None])
        # Karras' timesteps are found on the logarithm of sigma, and not quite the inverse.
        tolerance = 1e-3 if options else 1e-5
        torch.testing.assert_close(actual, scaled, atol=tolerance, rtol=tolerance)


def test_dpm_solver_of_pixart(sample_and_noise):
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)
    # Before this the scheduler's own sigmas and timesteps run in opposite directions.
    scheduler.set_timesteps(20)
    timesteps = scheduler.timesteps[[0, 5, 10, 19]]
    sample_and_noise = sample_and_noise[:, :4]
    expected = scheduler.add_noise(*sample_and_noise, timesteps)
    actual = _noised(scheduler, *sample_and_noise, timesteps)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_euler_of_sdxl_is_variance_preserving_after_its_input_scaling(sample_and_noise):
    scheduler = EulerDiscreteScheduler(**BETAS)
    sample, noise = (tensor[:1] for tensor in sample_and_noise)
    for timestep in scheduler.timesteps[[0, 250, 998]]:
        scheduler._step_index = None
        scaled = scheduler.scale_model_input(
            scheduler.add_noise(sample, noise, timestep[None]), timestep
        )
        actual = _noised(scheduler, sample, noise, timestep[None].long())
        torch.testing.assert_close(actual, scaled, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"use_dynamic_shifting": True}])
def test_flow_matching_equals_scale_noise(options, sample_and_noise):
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    for timesteps in scheduler.timesteps.split(5):
        expected = scheduler.scale_noise(sample_and_noise[0], timesteps, sample_and_noise[1])
        actual = _noised(scheduler, *sample_and_noise, timesteps)
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_flow_matching_by_hand():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    signal, spread = signal_and_noise_levels(scheduler, torch.tensor([0, 250, 999]))
    torch.testing.assert_close(spread, torch.tensor([0.0, 0.25, 0.999]))
    torch.testing.assert_close(signal, torch.tensor([1.0, 0.75, 0.001]))


@pytest.mark.parametrize(
    ("scheduler_class", "last"), [(DDPMScheduler, 999), (FlowMatchEulerDiscreteScheduler, 1000)]
)
def test_timesteps_out_of_range_are_refused(scheduler_class, last):
    signal_and_noise_levels(scheduler_class(), torch.tensor([0, last]))
    for timestep in (-1, last + 1):
        with pytest.raises(ValueError, match=rf"0\.\.{last}"):
            signal_and_noise_levels(scheduler_class(), torch.tensor([0, timestep]))


def test_kinds_are_told_apart():
    assert is_flow_matching(FlowMatchEulerDiscreteScheduler())
    assert not is_flow_matching(DDPMScheduler())


def test_a_scheduler_of_neither_kind_is_refused():
    scheduler = DDPMScheduler()
    del scheduler.alphas_cumprod
    with pytest.raises(ValueError, match="DDPMScheduler has neither"):
        signal_and_noise_levels(scheduler, torch.tensor([1]))
