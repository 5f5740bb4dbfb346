"""Training the decoder of the pixel VAE: the reshape, undone by convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from tqdm import trange

from .pixel_vae import VAE_FACTOR
from .training import CropPool


def train_decoder(
    vae: AutoencoderKL,
    pool: CropPool,
    steps: int,
    device: str,
    batch: int = 16,
    learning_rate: float = 3e-3,
) -> float:
    """Train ``vae.decoder`` in place to undo ``pixel_unshuffle``; returns the last error.

    The error is the root mean square over pixels in -1..1, averaged over the last tenth of the
    steps. The encoder is left alone: what the denoiser learned stays valid.
    """
    decoder = vae.decoder.to(device).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
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
