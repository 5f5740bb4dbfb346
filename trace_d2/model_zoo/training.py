"""Training trace-tiny from scratch: flow matching on crops of procedural scenes.

Step ``k`` is a function of (seed, k, weights) alone, so a resumed run is the run it resumes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxTransformer2DModel
from tqdm import tqdm, trange

from trace_d2.attention import forbid_cudnn_attention
from trace_d2.backbones.families import image_ids
from trace_d2.scenes.procedural import make_scene

from . import TrainingSettings
from .tiny_flux import PATCH, PROMPT_WIDTH, SCALING_FACTOR, VAE_FACTOR, build_denoiser

#: Series of scenes: training and held-out scenes never share a seed.
TRAINING_SERIES, HELD_OUT_SERIES = 1, 2


class CropPool:
    """Random crops of ``scenes`` scenes, flipped, turned, recoloured and magnified.

    A scene has 128 x 128 pixels, a crop ``crop`` x ``crop``; it is magnified by 1 to ``zoom``.
    """

    def __init__(self, series: int, scenes: int, crop: int, zoom: float, seed: int) -> None:
        numbers = tqdm(range(scenes), desc="scenes", unit="scene", leave=False, disable=None)
        self.images = np.stack([make_scene(series, i).image for i in numbers])
        self.crop, self.zoom, self.seed = crop, zoom, seed

    def batch(self, step: int, size: int) -> torch.Tensor:
        """(size, 3, crop, crop) float32 in -1..1, a function of (seed, step)."""
        rng = np.random.default_rng([self.seed, step])
        crops = np.stack([self._crop(rng) for _ in range(size)])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1

    def _crop(self, rng: np.random.Generator) -> np.ndarray:
        side = self.crop
        image = self.images[rng.integers(len(self.images))]
        window = round(side / self.zoom ** rng.uniform())
        top = rng.integers(image.shape[0] - window + 1)
        left = rng.integers(image.shape[1] - window + 1)
        crop = image[top : top + window, left : left + window]
        if window != side:
            crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC)
        crop = np.rot90(crop, int(rng.integers(4)))[:, :: rng.choice((1, -1)), rng.permutation(3)]
        return 255 - crop if rng.random() < 0.5 else crop


def pack(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) pixels to (B, H/4 * W/4, 48) tokens: the VAE's reshape, then FLUX's packing."""
    latent = F.pixel_unshuffle(pixels, VAE_FACTOR) * SCALING_FACTOR
    return F.pixel_unshuffle(latent, 2).flatten(2).transpose(1, 2)


def flow_matching_loss(
    denoiser: FluxTransformer2DModel,
    pixels: torch.Tensor,
    sigma: torch.Tensor,
    noise: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of the velocity at X = (1 - sigma) X_0 + sigma epsilon, per image (B,)."""
    clean = pack(pixels)
    level = sigma[:, None, None]
    noised = (1 - level) * clean + level * noise
    device, count, grid = pixels.device, len(pixels), pixels.shape[-1] // PATCH
    with torch.autocast(device.type, torch.bfloat16):
        predicted = denoiser(
            hidden_states=noised,
            encoder_hidden_states=torch.zeros(count, 1, PROMPT_WIDTH, device=device),
            pooled_projections=torch.zeros(count, PROMPT_WIDTH, device=device),
            timestep=sigma,
            img_ids=image_ids(grid, grid).to(device),
            txt_ids=torch.zeros(1, 3, device=device),
            return_dict=False,
        )[0]
    return (predicted.float() - (noise - clean)).square().mean((1, 2))


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Linear warm-up, constant, linear fall to zero."""
    warm = min(1.0, (step + 1) / settings.warmup)
    left = (settings.steps - step) / (settings.cooldown * settings.steps)
    return settings.learning_rate * min(warm, left, 1.0)


class TinyTrainer:
    """Weights, their running mean and the optimiser; trains, measures, saves and resumes."""

    def __init__(self, settings: TrainingSettings, device: str) -> None:
        forbid_cudnn_attention()
        self.settings = settings
        self.device = torch.device(device)
        self.step = 0
        self.seconds = 0.0
        self.denoiser = build_denoiser(settings.size, settings.seed).to(self.device)
        self.averaged = build_denoiser(settings.size, settings.seed).to(self.device).eval()
        self.optimizer = torch.optim.AdamW(
            self.denoiser.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        crops = (settings.crop, settings.zoom, settings.seed)
        self.pool = CropPool(TRAINING_SERIES, settings.scenes, *crops)
        self.held_out = CropPool(HELD_OUT_SERIES, 64, *crops).batch(0, 64)

    def train_step(self) -> float:
        """One optimiser step; returns the loss of its batch."""
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.step)
        pixels = self.pool.batch(self.step, settings.batch)
        # Logit-normal: most of the effort in the middle of the trajectory, as SD3 and FLUX do.
        sigma = torch.randn(settings.batch, generator=generator).sigmoid()
        noise = torch.randn(pack(pixels).shape, generator=generator)
        loss = flow_matching_loss(
            self.denoiser, pixels.to(self.device), sigma.to(self.device), noise.to(self.device)
        ).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.step}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._average()
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(self.denoiser.parameters()), 1 - keep
        )

    @torch.no_grad()
    def held_out_loss(self) -> dict[str, float]:
        """Loss of the averaged weights on 64 held-out crops at sigma 0.1, 0.5 and 0.9."""
        generator = torch.Generator().manual_seed(0)
        pixels = self.held_out.to(self.device)
        noise = torch.randn(pack(self.held_out).shape, generator=generator).to(self.device)
        levels = (0.1, 0.5, 0.9)
        sigmas = [torch.full((len(pixels),), s, device=self.device) for s in levels]
        losses = [flow_matching_loss(self.averaged, pixels, s, noise).mean() for s in sigmas]
        return {str(s): loss.item() for s, loss in zip(levels, losses, strict=True)}

    def save(self, path: Path) -> None:
        """Write the checkpoint; an interruption leaves the former one whole."""
        state = {
            "settings": asdict(self.settings),
            "step": self.step,
            "seconds": self.seconds,
            "denoiser": self.denoiser.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Continue from ``path``, which was made with these settings; ``steps`` may differ."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        steps = {"steps": self.settings.steps}
        if state["settings"] | steps != asdict(self.settings):
            raise ValueError(
                f"{path} was trained with {state['settings']}, not with {asdict(self.settings)}: "
                "pass those settings, or choose another --work-dir"
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.denoiser.load_state_dict(state["denoiser"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])


def train(
    trainer: TinyTrainer,
    work_dir: Path,
    measure_every: int = 250,
    save_seconds: float = 180.0,
    on_save: Callable[[TinyTrainer], None] | None = None,
) -> None:
    """Run to ``settings.steps``, logging to ``log.jsonl`` and saving ``checkpoint.pt``."""
    last_step = trainer.settings.steps
    bar = trange(trainer.step, last_step, initial=trainer.step, total=last_step, unit="step")
    running, saved_at, started = 0.0, time.monotonic(), time.monotonic()
    for _ in bar:
        loss = trainer.train_step()
        running = loss if not running else 0.98 * running + 0.02 * loss
        bar.set_postfix(loss=f"{running:.4f}")
        now = time.monotonic()
        trainer.seconds, started = trainer.seconds + now - started, now
        last = trainer.step == last_step
        if last or trainer.step % measure_every == 0:
            record = {
                "step": trainer.step,
                "seconds": round(trainer.seconds, 1),
                "training": round(running, 5),
                "held_out": {k: round(v, 5) for k, v in trainer.held_out_loss().items()},
            }
            with (work_dir / "log.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            bar.write(json.dumps(record))
        if last or now - saved_at > save_seconds:
            trainer.save(work_dir / "checkpoint.pt")
            saved_at = time.monotonic()
            if on_save is not None:
                on_save(trainer)


def train_decoder(
    vae: AutoencoderKL,
    pool: CropPool,
    steps: int,
    device: str,
    batch: int = 16,
) -> float:
    """Train ``vae.decoder`` in place to undo ``pixel_unshuffle``; returns the last error.

    The error is the root mean square over pixels in -1..1, averaged over the last tenth of the
    steps. The encoder is left alone: what the denoiser learned stays valid.
    """
    decoder = vae.decoder.to(device).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    errors: list[float] = []
    bar = trange(steps, desc="decoder", unit="step")
    for step in bar:
        pixels = pool.batch(step, batch).to(device)
        loss = F.mse_loss(decoder(F.pixel_unshuffle(pixels, VAE_FACTOR)), pixels)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        errors.append(loss.item() ** 0.5)
        bar.set_postfix(error=f"{errors[-1]:.4f}")
    vae.to("cpu").eval()
    last = errors[-max(1, steps // 10) :]
    return sum(last) / len(last)
