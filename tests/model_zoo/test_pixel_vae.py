"""The pixel VAE's encoder is the identity, up to the reshape."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trace_d2.model_zoo.tiny_flux import build_pixel_vae
from trace_d2.model_zoo.training import CropPool, train_decoder


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (1, 3, 2, 2)])
def test_encoder_is_the_identity(
    dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]
) -> None:
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = build_pixel_vae().to(dtype)
    with torch.no_grad():
        posterior = vae.encode(pixels.to(dtype)).latent_dist
    latent = posterior.mode().float()
    torch.testing.assert_close(latent, F.pixel_unshuffle(pixels, 2), rtol=0, atol=tolerance)
    assert posterior.std.max() < 1e-4


def test_extreme_images_pass_too() -> None:
    vae = build_pixel_vae()
    for value in (-1.0, 0.0, 1.0):
        with torch.no_grad():
            latent = vae.encode(torch.full((1, 3, 8, 8), value)).latent_dist.mode()
        torch.testing.assert_close(latent, torch.full_like(latent, value), rtol=0, atol=2e-5)


def test_decoder_learns_and_the_encoder_stays() -> None:
    torch.manual_seed(0)
    vae = build_pixel_vae()
    before = {k: v.clone() for k, v in vae.encoder.state_dict().items()}
    pool = CropPool(1, 2, 16, 1.0, 0)
    pixels = pool.batch(99, 8)
    with torch.no_grad():
        start = F.mse_loss(vae.decode(F.pixel_unshuffle(pixels, 2)).sample, pixels)
    error = train_decoder(vae, pool, 40, "cpu", batch=4)
    with torch.no_grad():
        end = F.mse_loss(vae.decode(F.pixel_unshuffle(pixels, 2)).sample, pixels)
    assert end < 0.5 * start
    assert error == pytest.approx(float(end) ** 0.5, rel=0.5)
    for key, value in vae.encoder.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
