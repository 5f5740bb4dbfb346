"""X_0 out of a prediction, by hand and by undoing the noise."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from trace_d2.backbones.noise_levels import clean_estimate, signal_and_noise_levels


def scheduler(kind: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(num_train_timesteps=4, trained_betas=[0.36, 0.5, 0.5, 0.5],
                         prediction_type=kind)  # fmt: skip


X = torch.tensor([[[[1.0, -2.0]]]])
PREDICTION = torch.tensor([[[[0.5, 1.0]]]])
ZERO = torch.tensor([0])


# alpha_0 = 0.8 and sigma_0 = 0.6.
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("epsilon", [(1 - 0.6 * 0.5) / 0.8, (-2 - 0.6 * 1) / 0.8]),
        ("v_prediction", [0.8 * 1 - 0.6 * 0.5, 0.8 * -2 - 0.6 * 1]),
        ("sample", [0.5, 1.0]),
    ],
)
def test_diffusion_by_hand(kind, expected) -> None:
    found = clean_estimate(scheduler(kind), X, PREDICTION, ZERO)
    torch.testing.assert_close(found, torch.tensor([[[expected]]]))


def test_flow_matching_is_the_negative_velocity() -> None:
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert torch.equal(clean_estimate(flow, X, PREDICTION, ZERO), -PREDICTION)
    # v = eps - X_0 of a noise of 0 gives X_0 back.
    assert torch.equal(clean_estimate(flow, X, -X, ZERO), X)
    with pytest.raises(ValueError, match="for timestep 0"):
        clean_estimate(flow, X, PREDICTION, torch.tensor([1]))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_true_prediction_gives_the_image_back(kind) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 4, 3, 2, 5, generator=generator)
    model, steps = scheduler(kind), torch.tensor([0, 1, 2, 3])
    noised = model.add_noise(clean, noise, steps)
    signal, spread = (x.view(-1, 1, 1, 1) for x in signal_and_noise_levels(model, steps))
    truth = {
        "epsilon": noise,
        "v_prediction": signal * noise - spread * clean,
        "sample": clean,
    }[kind]
    torch.testing.assert_close(
        clean_estimate(model, noised, truth, steps), clean, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_a_predicted_variance_is_left_out(kind) -> None:
    model = FlowMatchEulerDiscreteScheduler() if kind == "flow" else scheduler()
    with_variance = torch.cat((PREDICTION, PREDICTION + 7), dim=1)
    expected = clean_estimate(model, X, PREDICTION, ZERO)
    assert torch.equal(clean_estimate(model, X, with_variance, ZERO), expected)


def test_it_is_of_the_latents_type() -> None:
    found = clean_estimate(scheduler(), X, PREDICTION.bfloat16(), ZERO)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, clean_estimate(scheduler(), X, PREDICTION, ZERO))


def test_unknown_predictions_are_refused() -> None:
    odd = scheduler()
    odd.register_to_config(prediction_type="score")
    with pytest.raises(ValueError, match="'score' is not known"):
        clean_estimate(odd, X, PREDICTION, ZERO)
