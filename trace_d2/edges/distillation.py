"""The loss of distillation: ||I - I^||^2 + Dice(E, E^)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def dice_loss(logits: Tensor, pseudo: Tensor) -> Tensor:
    """1 - 2 sum W E E^ / (sum W E^2 + sum W E^^2) with W = [E != -1], averaged over the images.

    Args:
        logits: of E^, (B, H, W) float.
        pseudo: E, (B, H, W): 1 edge, 0 none, -1 ignored.

    Returns:
        A scalar, 0 (agreement) to 1, in float32. An image without an edge has a loss of 1 as long
        as there is any E^ where E is 0; one in which everything is ignored has none (0).
    """
    weight = (pseudo != -1).float().flatten(1)
    edges = (pseudo == 1).float().flatten(1)
    predicted = logits.float().sigmoid().flatten(1) * weight
    overlap = (edges * predicted).sum(dim=1)
    size = edges.sum(dim=1) + predicted.square().sum(dim=1)
    loss = 1 - 2 * overlap / size.clamp_min(1e-6)
    return (loss * weight.amax(dim=1)).mean()


def reconstruction_loss(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean squared error of latents (B, c, h, w) of images and of what the denoiser makes of them.

    The paper's ||I - I^||^2, in the latent space that the denoiser works in: decoding would cost
    a pass through the VAE and its memory, and adds nothing that the adapters can change.
    """
    return functional.mse_loss(reconstruction.float(), image.float())
