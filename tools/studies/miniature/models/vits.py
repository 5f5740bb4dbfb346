"""Tiny random vision transformers of the published classes, as a user's folder would look on disk.

``save_tiny_vit("dinov2", folder)`` builds the class with seeded weights that make attention uneven,
and writes it with ``save_pretrained``, its image processor's configuration beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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

PATCH, SIDE, BLOCKS = 8, 32, 2
MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)

_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "initializer_range": 0.5,
}


def _vit(**options: Any) -> ViTModel:
    return ViTModel(ViTConfig(intermediate_size=24, **options), add_pooling_layer=False)


def _dinov2(**options: Any) -> Dinov2Model:
    return Dinov2Model(Dinov2Config(use_swiglu_ffn=True, **options))


def _dinov2_with_registers(**options: Any) -> Dinov2WithRegistersModel:
    config = Dinov2WithRegistersConfig(num_register_tokens=3, **options)
    return Dinov2WithRegistersModel(config)


def _dinov3(**options: Any) -> DINOv3ViTModel:
    config = DINOv3ViTConfig(
        intermediate_size=24, num_register_tokens=4, use_gated_mlp=True, **options
    )
    return DINOv3ViTModel(config)


TINY_VITS = {
    "vit": _vit,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2_with_registers,
    "dinov3_vit": _dinov3,
}
"""By model type."""


def save_tiny_vit(kind: str, folder: Path, seed: int = 0, **options: Any) -> Any:
    """Build a tiny model of ``kind`` in ``TINY_VITS``, save it and return it.

    ``options`` are changes to its configuration.
    """
    torch.manual_seed(seed)
    model = TINY_VITS[kind](**{**_SIZES, **options}).eval()
    with torch.no_grad():  # some classes begin with tokens of zeros
        for name, weight in model.named_parameters():
            if name.endswith(("register_tokens", "cls_token")):
                weight.normal_()
    model.save_pretrained(folder)
    save_preprocessor(folder)
    return model


def save_tiny_timm(kind: str, folder: Path, seed: int = 0, **options: Any) -> Any:
    """Build a tiny "eva02-e" or "dinov3-7b" of timm, save it as timm does and return it."""
    import timm

    sizes: dict[str, Any] = {"embed_dim": 32, "depth": BLOCKS, "num_heads": 2, "patch_size": PATCH}
    name = "vit_7b_patch16_dinov3"
    if kind == "eva02-e":
        name = "eva02_enormous_patch14_clip_224"
        sizes |= {"img_size": SIDE, "mlp_ratio": 2, "num_classes": 5}
    torch.manual_seed(seed)
    model = timm.create_model(name, **sizes, **options).eval()
    with torch.no_grad():  # attention of its own initialisation is even
        for key, weight in model.named_parameters():
            weight.normal_(1 if "norm" in key and key.endswith("weight") else 0, 0.2)
    size = {"input_size": (3, SIDE, SIDE), "mean": MEAN, "std": STD}
    timm.models.save_for_hf(model, str(folder), safe_serialization=True, data_config=size)
    return model


def save_preprocessor(folder: Path, **changes: Any) -> None:
    """Write the configuration of an image processor, with ``changes``."""
    content = {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "size": {"height": SIDE, "width": SIDE},
        **changes,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
