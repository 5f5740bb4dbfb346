"""A VAE's encoder, by kernels and by PyTorch: its group norms alone, then all of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import architectures
import diffusers
import torch
from random_backbone import materialise
from torch import Tensor, nn

from gpu_checks.common import Check, apart, small_architecture
from gpu_checks.host import launches
from trace_d2.attention.kernels import group_norm as module
from trace_d2.backbones import group_norm
from trace_d2.backbones.group_norm import WideGroupNorm, widen_group_norms

# Channels and side of what is normed in the encoder of SD3.5 at 1024 x 1024.
_NORMED = ((128, 1024), (128, 512), (256, 512), (512, 256), (512, 128))
# Elements and warps of a program.
_BLOCKS = ((2048, 4), (4096, 4), (4096, 8), (8192, 4), (8192, 8), (16384, 8), (16384, 16))
_WAYS = {"kernels": "auto", "PyTorch": "plain"}


@torch.inference_mode()
def run(check: Check) -> None:
    """Measure."""
    if not check.cuda:  # "auto" leaves Triton's interpreter alone
        group_norm.takes_triton = lambda kernels, like, obstacle="": kernels == "auto"
    dtypes = (torch.bfloat16, torch.float32) if check.cuda else (torch.float32,)
    for channels, side in check.size(_NORMED, ((4, 16),)):
        for dtype in dtypes:
            _measure_norm(check, channels, side, dtype)
    _measure_blocks(check)
    _measure_far(check)
    for dtype in dtypes:
        _measure_encoder(check, dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _normed(check: Check, channels: int, side: int, dtype: torch.dtype) -> Tensor:
    """Random values of which channels and places differ in mean and spread."""
    generator = torch.Generator(check.device).manual_seed(0)
    random = partial(torch.randn, device=check.device, generator=generator)
    x = random(1, channels, side, side) * random(1, channels, 1, 1).exp()
    return (x + random(1, channels, 1, 1) + random(1, 1, side, 1)).to(dtype)


def _norm(channels: int, kernels: str, like: Tensor) -> WideGroupNorm:
    norm = nn.GroupNorm(min(32, channels // 2), channels, eps=1e-6).requires_grad_(False)
    norm.weight.copy_(torch.linspace(0.5, 2, channels))
    norm.bias.copy_(torch.linspace(-1, 1, channels))
    return WideGroupNorm(norm, silu=True, kernels=kernels).to(like.device, like.dtype)


def _measure_norm(check: Check, channels: int, side: int, dtype: torch.dtype) -> None:
    x = _normed(check, channels, side, dtype)
    exact = _norm(channels, "plain", x).double()(x.double())
    what = f"group norm and SiLU of {channels} channels, {side} x {side}, {_name(dtype)}"
    for way, kernels in _WAYS.items():
        work = partial(_against, check, _norm(channels, kernels, x), x, exact)
        check.measure(f"{way}: {what}", work)


def _against(check: Check, norm: WideGroupNorm, x: Tensor, exact: Tensor) -> dict[str, float]:
    milliseconds = check.milliseconds(lambda: norm(x), 10)
    difference = norm(x).double().sub_(exact)
    return {
        "largest": float(f"{float(difference.abs().max()):.3g}"),
        "relative": float(f"{float(difference.norm() / exact.norm()):.3g}"),
        "ms": milliseconds,
        # Two reads and a write, which is what no fused way does with less.
        "GB/s": round(3 * x.numel() * x.element_size() / milliseconds / 1e6),
    }


def _measure_blocks(check: Check) -> None:
    """The largest norm with other programs than those that are taken."""
    channels, side = check.size(_NORMED[0], (4, 16))
    x = _normed(check, channels, side, check.dtype)
    norm = _norm(channels, "auto", x)
    chosen = module._BLOCK, module._WARPS
    try:
        for block, warps in check.size(_BLOCKS, _BLOCKS[:1]):
            module._BLOCK, module._WARPS = block, warps
            check.measure(
                f"kernels: the largest norm, {block} elements and {warps} warps a program, ms",
                lambda: check.milliseconds(lambda: norm(x), 10),
            )
    finally:
        module._BLOCK, module._WARPS = chosen


def _measure_far(check: Check) -> None:
    """A mean far from 0, where sums of squares would cancel."""
    channels, side = check.size(_NORMED[1], (4, 16))
    x = _normed(check, channels, side, torch.float32) + 1000
    exact = _norm(channels, "plain", x).double()(x.double())
    for way, kernels in _WAYS.items():
        norm = _norm(channels, kernels, x)
        check.measure(f"{way}: mean of 1000, float32", partial(_apart, norm, x, exact=exact))


def _measure_encoder(check: Check, dtype: torch.dtype) -> None:
    """Latents of a scene by the whole encoder of SD3.5."""
    architecture = architectures.ARCHITECTURES["sd35-large"]
    if check.small:
        architecture = small_architecture(architecture)
    side = check.size(1024, 32)
    pixels = torch.from_numpy(check.image(1024, 1024)).permute(2, 0, 1)[None, :, :side, :side]
    pixels = (pixels / 127.5 - 1).to(check.device, dtype)

    def encoder(way: str) -> Any:
        vae: Any = materialise(diffusers.AutoencoderKL, architecture.vae, dtype, check.device)
        widen_group_norms(vae.encoder, way)
        return vae.eval().requires_grad_(False)

    exact = check.measure_quietly(
        f"latent in float64 for {_name(dtype)}",
        lambda: _latent(nn.Module.to(encoder("plain"), torch.float64), pixels.double()).cpu(),
    )
    # Triton's interpreter is for the kernels alone.
    for way in _WAYS if check.cuda else ("PyTorch",):
        vae = encoder(_WAYS[way])
        once, what = partial(_latent, vae, pixels), f"{way}: encoder, {_name(dtype)}"
        check.measure(f"{what}, ms", partial(check.milliseconds, once))
        several = pixels.expand(4, -1, -1, -1).contiguous()
        check.measure(
            f"{what}, 4 images, ms", partial(check.milliseconds, partial(_latent, vae, several))
        )
        if exact is not None:
            check.measure(f"{what}, its latent", partial(_apart, once, exact=exact))
        check.measure(f"{what}, peak GiB", partial(check.peak, once))
        check.measure(f"{what}, what runs", partial(launches, check, once))


def _apart(work: Callable[..., Tensor], *inputs: Tensor, exact: Tensor) -> dict[str, float]:
    return apart(work(*inputs), exact)


def _latent(vae: Any, pixels: Tensor) -> Tensor:
    latent: Tensor = vae.encode(pixels).latent_dist.mode()
    return latent
