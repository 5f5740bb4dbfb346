"""Backbones: networks whose self-attention is read; diffusion models are one kind of them.

>>> from trace_d2.config import get_trace_cfg
>>> from trace_d2.backbones import build_backbone
>>> cfg = get_trace_cfg()
>>> cfg.MODEL.TRACE.BACKBONE.NAME = "trace-tiny"
>>> backbone = build_backbone(cfg)  # doctest: +SKIP
"""

from __future__ import annotations

from . import import_remarks  # noqa: F401 -- before diffusers is imported
from .backbone import AttentionBackbone
from .diffusion import DiffusionBackbone
from .families import (
    FluxBackbone,
    PixArtBackbone,
    StableDiffusion3Backbone,
    StableDiffusionBackbone,
    StableDiffusionXLBackbone,
)
from .null_prompt import NullPrompt
from .registry import BACKBONE_REGISTRY, REGISTERED_MODELS, RegisteredModel, build_backbone

__all__ = [
    "BACKBONE_REGISTRY",
    "REGISTERED_MODELS",
    "AttentionBackbone",
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
