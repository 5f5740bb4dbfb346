"""Backbones of real size with random weights, made on their device: nothing is downloaded."""

from __future__ import annotations

from itertools import chain
from typing import Any

import diffusers
import torch
from architectures import ARCHITECTURES, Architecture

from trace_d2.backbones import NullPrompt
from trace_d2.backbones.loading import vae_dtype
from trace_d2.backbones.registry import BACKBONE_REGISTRY, REGISTERED_MODELS
from trace_d2.backbones.settings import BackboneSettings


def random_backbone(
    name: str,
    settings: BackboneSettings,
    dtype: torch.dtype,
    device: torch.device,
    architecture: Architecture | None = None,
) -> Any:
    """A backbone of ``ARCHITECTURES``, or another ``architecture``, with the null prompt at zeros.

    On the meta device it has shapes and no values.
    """
    architecture, registered = architecture or ARCHITECTURES[name], REGISTERED_MODELS[name]
    family = BACKBONE_REGISTRY.get(registered.family)
    denoiser = materialise(family.denoiser_class, architecture.denoiser, dtype, device)
    scheduler = getattr(diffusers, architecture.scheduler)
    return family(
        settings,
        denoiser=denoiser,
        vae=materialise(
            diffusers.AutoencoderKL, architecture.vae, vae_dtype(architecture.vae, dtype), device
        ),
        scheduler=scheduler(**architecture.schedule),
        null_prompt=NullPrompt.zeros(family.prompt_shapes(denoiser.config)),
        native_resolution=registered.native_resolution,
        device=device,
    )


@torch.no_grad()
def materialise(
    kind: Any, config: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> torch.nn.Module:
    """A diffusers model with random weights of a size that keeps activations finite."""
    with torch.device("meta"):
        model = kind(**config)
    torch.nn.Module.to(model, dtype)  # diffusers' own warns of every conversion
    if device.type == "meta":
        return model
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.ndim > 1:
            fan_in = tensor[0].numel()
            tensor.normal_(std=fan_in**-0.5, generator=generator)
        else:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)  # norms, biases
    return model
