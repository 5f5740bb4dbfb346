"""Tiny multimodal models, built and read as the tests of their backbones do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trace_d2.attention import SelfAttentionReader
from trace_d2.backbones.multimodal import LlavaBackbone, LlavaTowerBackbone, QwenVisionBackbone
from trace_d2.config import get_trace_cfg

# By registered name: what is read of which model.
NAMES = {
    "llava-1.5-13b": ("llava", LlavaBackbone),
    "llava-1.5-13b-tower": ("llava", LlavaTowerBackbone),
    "qwen2.5-vl-7b": ("qwen2_5_vl", QwenVisionBackbone),
}


def backbone_cfg(**options: Any):
    """A config on the CPU with these keys of ``MODEL.TRACE.BACKBONE``."""
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.DEVICE = "cpu"
    for key, value in options.items():
        cfg.MODEL.TRACE.BACKBONE[key] = value
    return cfg


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def read(backbone, *images: np.ndarray, blocks=()) -> torch.Tensor:
    """Maps (B, N, N) of images of one size in one pass, at their own size."""
    pixels = torch.stack([torch.tensor(image).permute(2, 0, 1) for image in images])
    layout = backbone.layout(images[0].shape[:2])
    with torch.no_grad(), SelfAttentionReader(layout, blocks=blocks) as reader:
        backbone.run(backbone.prepare(pixels.float() / 127.5 - 1), ())
    return reader.attention()
