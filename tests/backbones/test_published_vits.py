"""Vision transformers at their published size, without memory: on PyTorch's meta device."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTModel,
)

from trace_d2.attention import SelfAttentionReader
from trace_d2.backbones import REGISTERED_MODELS, TimmBackbone, TransformersBackbone
from trace_d2.backbones.settings import BackboneSettings
from trace_d2.backbones.vision_model_files import IMAGENET
from trace_d2.backbones.vision_transformers import PatchTokens


def _dino(width, heads, patch):
    sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
    return ViTModel(ViTConfig(patch_size=patch, **sizes), add_pooling_layer=False)


_GIANT = {
    **{"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24},
    **{"image_size": 518, "patch_size": 14, "use_swiglu_ffn": True},
}
_DINOV3 = {
    **{"hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32},
    **{"intermediate_size": 8192, "use_gated_mlp": True, "num_register_tokens": 4},
    **{"query_bias": False, "value_bias": False, "patch_size": 16},
}


def _timm(name):
    import timm

    return timm.create_model(name, dynamic_img_size=True, num_classes=0)


# How each is made, side of a patch, tokens before the patches, blocks, billions of parameters, and
# the side of the grid where it is read.
PUBLISHED = {
    "dino-vits8": (lambda: _dino(384, 6, 8), 8, 1, 12, 0.0217, 60),
    "dino-vits16": (lambda: _dino(384, 6, 16), 16, 1, 12, 0.0217, 30),
    "dino-vitb8": (lambda: _dino(768, 12, 8), 8, 1, 12, 0.0858, 60),
    "dino-vitb16": (lambda: _dino(768, 12, 16), 16, 1, 12, 0.0858, 30),
    "dinov2-giant": (lambda: Dinov2Model(Dinov2Config(**_GIANT)), 14, 1, 40, 1.136, 37),
    "dinov2-giant-registers": (
        lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**_GIANT)),
        *(14, 5, 40, 1.136, 37),
    ),
    "dinov3-7b": (lambda: DINOv3ViTModel(DINOv3ViTConfig(**_DINOV3)), 16, 5, 40, 6.716, 32),
    "dinov3-7b-timm": (lambda: _timm("vit_7b_patch16_dinov3"), 16, 5, 40, 6.716, 32),
    "eva02-e": (lambda: _timm("eva02_enormous_patch14_clip_224"), 14, 1, 64, 4.35, 16),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name):
    make, patch, prefix, blocks, billions, side = PUBLISHED[name]
    family = {"TimmBackbone": TimmBackbone, "TransformersBackbone": TransformersBackbone}[
        REGISTERED_MODELS[name].family
    ]
    if family is TimmBackbone and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    with torch.device("meta"):
        model = make()
    weights = sum(weight.numel() for weight in model.parameters())
    assert weights / 1e9 == pytest.approx(billions, rel=0.005)
    resolution = REGISTERED_MODELS[name].native_resolution
    tokens = PatchTokens(patch, prefix, blocks, IMAGENET, resolution)
    backbone = family(BackboneSettings(name=name), model, tokens, device="meta")
    layout = backbone.layout(backbone.size_of((1, 1)))
    assert layout.largest == (side, side)
    reader = SelfAttentionReader(layout, network=backbone.network)
    with torch.no_grad(), reader:
        backbone.run(torch.empty(1, 3, resolution, resolution, device="meta"), ())
    assert reader.calls == blocks
    assert reader.attention().shape == (1, side**2, side**2)
