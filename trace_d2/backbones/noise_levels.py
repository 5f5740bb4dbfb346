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
        timesteps: (B,) of 0..num_train_timesteps - 1, of flow matching 0..num_train_timesteps.
            Between two timesteps of diffusion sigma_t / alpha_t is interpolated, as by diffusers'
            EulerDiscreteScheduler.

    Returns:
        alpha (B,) and sigma (B,), float32, on the timesteps' device.
    """
    steps, flow = scheduler.config.num_train_timesteps, is_flow_matching(scheduler)
    last = steps if flow else steps - 1
    if timesteps.numel() and not (timesteps.min() >= 0 and timesteps.max() <= last):
        raise ValueError(f"timesteps must lie in 0..{last}; got {timesteps.tolist()}")
    if flow:
        sigma = timesteps.to(torch.float32) / steps
        return 1.0 - sigma, sigma
    cumulative = getattr(scheduler, "alphas_cumprod", None)
    if cumulative is None:
        raise ValueError(
            f"{type(scheduler).__name__} has neither alphas_cumprod nor flow-matching sigmas; put"
            " a DDPMScheduler or FlowMatchEulerDiscreteScheduler into the model's scheduler folder"
        )
    cumulative = cumulative.to(timesteps.device, torch.float32)
    if timesteps.is_floating_point():
        ratios = ((1.0 - cumulative) / cumulative).sqrt()
        below = timesteps.long()
        above = (below + 1).clamp(max=last)
        angle = torch.lerp(ratios[below], ratios[above], timesteps.float() - below).atan()
        return angle.cos(), angle.sin()
    kept = cumulative[timesteps]
    return kept.sqrt(), (1.0 - kept).sqrt()


def clean_estimate(
    scheduler: Any,
    noised: Tensor,
    prediction: Tensor,
    timesteps: Tensor,
    levels: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """X_0 as a denoiser's raw prediction has it.

    Diffusion: (X_t - sigma_t eps) / alpha_t, or alpha_t X_t - sigma_t v for v-prediction. Flow
    matching, v = eps - X_0: X_t - sigma_t v says nothing about v where sigma_t is 0, and there the
    best v is E[eps] - X_0 = -X_0. So -v is returned, the estimate for a noise of 0, which is
    right at the clean end alone.

    Args:
        scheduler: as in ``signal_and_noise_levels``.
        noised: X_t, (B, c, h, w).
        prediction: of the denoiser, (B, c, h, w); further channels (a predicted variance) are
            left out.
        timesteps: (B,); for flow matching all 0.
        levels: ``signal_and_noise_levels`` of them (B, 1, 1, 1), where they are known already.
    """
    prediction = prediction[:, : noised.shape[1]].to(noised.dtype)
    if is_flow_matching(scheduler):
        if bool(timesteps.any()):
            raise ValueError("the clean estimate of flow matching is for timestep 0")
        return -prediction
    signal, spread = (
        level.to(noised).view(-1, 1, 1, 1)
        for level in levels or signal_and_noise_levels(scheduler, timesteps)
    )
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "epsilon":
        return (noised - spread * prediction) / signal
    if kind == "v_prediction":
        return signal * noised - spread * prediction
    if kind == "sample":
        return prediction
    raise ValueError(f"a scheduler that predicts {kind!r} is not known here")


def is_flow_matching(scheduler: Any) -> bool:
    """Whether the scheduler moves along X_t = (1 - sigma) X_0 + sigma eps."""
    return (
        type(scheduler).__name__.startswith("FlowMatch")
        or scheduler.config.get("prediction_type") == "flow_prediction"
    )
