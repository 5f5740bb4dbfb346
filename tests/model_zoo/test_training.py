"""Training of trace-tiny: it learns, resumes exactly, and saves what a backbone loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from trace_d2.backbones import build_backbone
from trace_d2.config import get_trace_cfg
from trace_d2.model_zoo import TinyFluxSize, TrainingSettings
from trace_d2.model_zoo.tiny_flux import (
    SCALING_FACTOR,
    build_denoiser,
    build_pixel_vae,
    save_flux_folder,
)
from trace_d2.model_zoo.training import (
    CropPool,
    TinyTrainer,
    flow_matching_loss,
    learning_rate,
    pack,
    train,
)

SETTINGS = TrainingSettings(
    steps=6, batch=2, crop=16, scenes=2, warmup=2, size=TinyFluxSize(2, 16, 1, 1)
)


def test_a_resumed_run_is_the_run(tmp_path: Path) -> None:
    whole = TinyTrainer(SETTINGS, "cpu")
    train(whole, tmp_path, measure_every=3)
    half = TinyTrainer(SETTINGS, "cpu")
    for _ in range(3):
        half.train_step()
    half.save(tmp_path / "half.pt")
    resumed = TinyTrainer(SETTINGS, "cpu")
    resumed.resume(tmp_path / "half.pt")
    assert resumed.step == 3
    for _ in range(3):
        resumed.train_step()
    for one, other in zip(whole.averaged.parameters(), resumed.averaged.parameters(), strict=True):
        assert_close(one, other, rtol=0, atol=0)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [3, 6]
    assert set(log[0]["held_out"]) == {"0.1", "0.5", "0.9"}


def test_resuming_refuses_other_settings(tmp_path: Path) -> None:
    TinyTrainer(SETTINGS, "cpu").save(tmp_path / "c.pt")
    longer = TinyTrainer(replace(SETTINGS, steps=9), "cpu")
    longer.resume(tmp_path / "c.pt")
    other = TinyTrainer(replace(SETTINGS, seed=1), "cpu")
    with pytest.raises(ValueError, match="--work-dir"):
        other.resume(tmp_path / "c.pt")


def test_learning_rate_by_hand() -> None:
    settings = TrainingSettings(steps=100, warmup=10, cooldown=0.2, learning_rate=1.0)
    rates = [learning_rate(settings, step) for step in (0, 4, 9, 50, 80, 90, 99)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.05])


def test_it_learns() -> None:
    settings = replace(SETTINGS, steps=60, batch=8, warmup=5, learning_rate=3e-3)
    trainer = TinyTrainer(settings, "cpu")
    losses = [trainer.train_step() for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_on_cuda_are_finite() -> None:
    """At the size that is shipped: cuDNN's attention gave NaN for it."""
    trainer = TinyTrainer(TrainingSettings(steps=9, scenes=2), "cuda")
    for _ in range(3):
        trainer.train_step()  # raises where the loss is not finite
    assert all(torch.isfinite(p).all() for p in trainer.averaged.parameters())


def test_loss_of_a_zero_prediction_by_hand() -> None:
    """FLUX starts from a zero output layer, so its first loss is the mean square of the target."""
    denoiser = build_denoiser(TinyFluxSize(2, 16, 1, 1))
    torch.nn.init.zeros_(denoiser.proj_out.weight)
    torch.nn.init.zeros_(denoiser.proj_out.bias)
    pixels = CropPool(1, 1, 16, 1.0, 0).batch(0, 2)
    noise = torch.randn(pack(pixels).shape)
    loss = flow_matching_loss(denoiser, pixels, torch.tensor([0.2, 0.7]), noise)
    assert_close(loss, (noise - pack(pixels)).square().mean((1, 2)))


def test_crops_are_fixed_by_the_step_and_in_range() -> None:
    pool = CropPool(1, 2, 24, 2.0, 3)
    first, same, other = pool.batch(5, 4), pool.batch(5, 4), pool.batch(6, 4)
    assert_close(first, same, rtol=0, atol=0)
    assert not torch.equal(first, other)
    assert first.shape == (4, 3, 24, 24)
    assert first.min() >= -1
    assert first.max() <= 1


def test_training_and_the_backbone_agree(tmp_path: Path) -> None:
    """The saved folder, through VAE, packing and scheduler, is the function that was trained."""
    trainer = TinyTrainer(SETTINGS, "cpu")
    for _ in range(2):
        trainer.train_step()
    save_flux_folder(trainer.averaged, build_pixel_vae(), tmp_path)
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.BACKBONE.NAME = str(tmp_path)
    cfg.MODEL.TRACE.BACKBONE.RESOLUTION = 32
    cfg.MODEL.TRACE.DEVICE = "cpu"
    backbone = build_backbone(cfg)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    latent = backbone.encode(backbone.to_pixels(image))
    noise = torch.randn(latent.shape)
    timestep = torch.tensor([400])
    with torch.no_grad():
        predicted = backbone(backbone.add_noise(latent, noise, timestep), timestep)
    error = (predicted - (noise - latent)).square().mean()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    tokens = torch.nn.functional.pixel_unshuffle(noise, 2).flatten(2).transpose(1, 2)
    loss = flow_matching_loss(trainer.averaged, pixels, torch.tensor([0.4]), tokens)
    assert_close(pack(pixels).std(), latent.std(), rtol=1e-4, atol=0)
    assert latent.std() == pytest.approx(SCALING_FACTOR * float(pixels.std()), rel=1e-4)
    assert_close(loss[0], error, rtol=2e-2, atol=0)  # the trainer computes in bfloat16
