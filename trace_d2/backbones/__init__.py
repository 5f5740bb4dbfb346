"""Diffusion backbones: an image, its noised latent, and one forward pass at a timestep.

>>> from trace_d2.config import get_trace_cfg
>>> from trace_d2.backbones import build_backbone
>>> cfg = get_trace_cfg()
>>> cfg.MODEL.TRACE.BACKBONE.NAME = "trace-tiny"
>>> backbone = build_backbone(cfg)  # doctest: +SKIP
"""

from __future__ import annotations

from .backbone import DiffusionBackbone
from .flux import FluxBackbone
from .null_prompt import NullPrompt
from .pixart import PixArtBackbone
from .registry import BACKBONE_REGISTRY, REGISTERED_MODELS, RegisteredModel, build_backbone
from .sd3 import StableDiffusion3Backbone
from .unet import StableDiffusionBackbone, StableDiffusionXLBackbone

__all__ = [
    "BACKBONE_REGISTRY",
    "REGISTERED_MODELS",
    "DiffusionBackbone",
    "FluxBackbone",
    "NullPrompt",
    "PixArtBackbone",
    "RegisteredModel",
    "StableDiffusion3Backbone",
    "StableDiffusionBackbone",
    "StableDiffusionXLBackbone",
    "build_backbone",
]
