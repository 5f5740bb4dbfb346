"""alpha_t and sigma_t of a diffusers scheduler, for diffusion and for flow matching."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def signal_and_noise_levels(scheduler: Any, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t of X_t = alpha_t X_0 + sigma_t eps.

    Diffusion: alpha_t^2 is the scheduler's cumulative product and sigma_t^2 = 1 - alpha_t^2.
    Flow matching: sigma_t = t / num_train_timesteps and alpha_t = 1 - sigma_t. A scheduler's shift
    chooses which timesteps sampling visits; it does not change the noise level of a timestep.

    Args:
        scheduler: any diffusers scheduler with ``alphas_cumprod``, or a flow-matching one.
        timesteps: (B,) of 0..num_train_timesteps - 1. Integers; flow matching takes fractions too.

    Returns:
        alpha (B,) and sigma (B,), float32, on the timesteps' device.

    Raises:
        ValueError: a timestep is out of range, or the scheduler is of neither kind.
    """
    steps = scheduler.config.num_train_timesteps
    if timesteps.numel() and not (timesteps.min() >= 0 and timesteps.max() < steps):
        raise ValueError(f"timesteps must lie in 0..{steps - 1}; got {timesteps.tolist()}")
    if is_flow_matching(scheduler):
        sigma = timesteps.to(torch.float32) / steps
        return 1.0 - sigma, sigma
    cumulative = getattr(scheduler, "alphas_cumprod", None)
    if cumulative is None:
        raise ValueError(
            f"{type(scheduler).__name__} has neither alphas_cumprod nor flow-matching sigmas; put"
            " a DDPMScheduler or FlowMatchEulerDiscreteScheduler into the model's scheduler folder"
        )
    kept = cumulative.to(timesteps.device, torch.float32)[timesteps]
    return kept.sqrt(), (1.0 - kept).sqrt()


def is_flow_matching(scheduler: Any) -> bool:
    """Whether the scheduler moves along X_t = (1 - sigma) X_0 + sigma eps."""
    return (
        type(scheduler).__name__.startswith("FlowMatch")
        or scheduler.config.get("prediction_type") == "flow_prediction"
    )
