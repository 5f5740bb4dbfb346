from .backbone import AttentionBackbone
from .building import BACKBONE_REGISTRY, build_backbone
from .diffusion import DiffusionBackbone
from .families import (
    FluxBackbone,
    PixArtBackbone,
    StableDiffusion3Backbone,
    StableDiffusionBackbone,
    StableDiffusionXLBackbone,
)
from .multimodal import LlavaBackbone, LlavaTowerBackbone, QwenVisionBackbone
from .null_prompt import NullPrompt
from .registry import REGISTERED_MODELS, RegisteredModel
from .timm_models import TimmBackbone
from .vision_transformers import TransformersBackbone, VisionTransformer

__all__ = [
    "BACKBONE_REGISTRY",
    "REGISTERED_MODELS",
    "AttentionBackbone",
    "DiffusionBackbone",
    "FluxBackbone",
    "LlavaBackbone",
    "LlavaTowerBackbone",
    "NullPrompt",
    "PixArtBackbone",
    "QwenVisionBackbone",
    "RegisteredModel",
    "StableDiffusion3Backbone",
    "StableDiffusionBackbone",
    "StableDiffusionXLBackbone",
    "TimmBackbone",
    "TransformersBackbone",
    "VisionTransformer",
    "build_backbone",
]
