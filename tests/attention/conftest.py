"""Tiny random denoisers of every family, each with a call and the layout of its attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import (
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor, nn

from trace_d2.attention import AttentionLayout

TEXT = 5


@dataclass
class Case:
    """A denoiser, the call of it, and what is known of its attention."""

    model: nn.Module
    run: Callable[..., Tensor]
    layout: AttentionLayout
    calls: list[tuple[int, int]] = field(default_factory=list)  # grid of each self-attention


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def steps(batch: int) -> Tensor:
    return torch.arange(batch) * 100 + 50


def unet(text: int = TEXT, grid: tuple[int, int] = (8, 8), **options: Any) -> Case:
    arguments = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    model = UNet2DConditionModel(**{**arguments, **options})

    def run(batch: int = 2) -> Tensor:
        dtype = model.dtype
        conditions = None
        if model.config.addition_embed_type:
            conditions = {"text_embeds": random(batch, 6), "time_ids": torch.ones(batch, 6)}
        return model(
            random(batch, 4, *grid, dtype=dtype),
            steps(batch),
            random(batch, text, 12, seed=1, dtype=dtype),
            added_cond_kwargs=conditions,
        ).sample

    small = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    order = [grid, small, small, small, small, grid, grid]
    return Case(model.eval(), run, AttentionLayout((grid, small)), order)


def sdxl() -> Case:
    return unet(
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=2,
        projection_class_embeddings_input_dim=6 + 12,
    )


def pixart(text: int = TEXT) -> Case:
    model = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=6,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=12,
        sample_size=8,
        patch_size=2,
        caption_channels=10,
        use_additional_conditions=False,
    )

    def run(batch: int = 2) -> Tensor:
        return model(
            random(batch, 4, 8, 8, dtype=model.dtype),
            encoder_hidden_states=random(batch, text, 10, seed=1, dtype=model.dtype),
            timestep=steps(batch),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample

    return Case(model.eval(), run, AttentionLayout(((4, 4),)), [(4, 4)] * 2)


def sd3() -> Case:
    model = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=3,
        joint_attention_dim=10,
        caption_projection_dim=24,
        pooled_projection_dim=7,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )

    def run(batch: int = 2) -> Tensor:
        return model(
            random(batch, 4, 8, 6, dtype=model.dtype),
            random(batch, TEXT, 10, seed=1, dtype=model.dtype),
            random(batch, 7, seed=2, dtype=model.dtype),
            steps(batch),
        ).sample

    layout = AttentionLayout(((4, 3),), text_tokens=TEXT, text_first=False)
    return Case(model.eval(), run, layout, [(4, 3)] * 3)


def flux() -> Case:
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=10,
        pooled_projection_dim=7,
        axes_dims_rope=(2, 2, 4),
    )

    def run(batch: int = 2) -> Tensor:
        ids = torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(4.0))
        return model(
            hidden_states=random(batch, 12, 4, dtype=model.dtype),
            encoder_hidden_states=random(batch, TEXT, 10, seed=1, dtype=model.dtype),
            pooled_projections=random(batch, 7, seed=2, dtype=model.dtype),
            timestep=steps(batch) / 1000,
            img_ids=ids,
            txt_ids=torch.zeros(TEXT, 3),
        ).sample

    layout = AttentionLayout(((3, 4),), text_tokens=TEXT, text_first=True)
    return Case(model.eval(), run, layout, [(3, 4)] * 3)


FAMILIES: dict[str, Callable[..., Case]] = {
    "sd15": unet,
    "sdxl": sdxl,
    "pixart": pixart,
    "sd3": sd3,
    "flux": flux,
}


@pytest.fixture
def make_denoiser() -> Callable[..., Case]:
    """``make_denoiser(family, **options)``: seeded weights, wider than the initial ones."""

    def make(family: str, **options: Any) -> Case:
        torch.manual_seed(0)
        case = FAMILIES[family](**options)
        with torch.no_grad():
            for name, parameter in case.model.named_parameters():
                # Attention that is far from uniform, and no zero-initialised output.
                if any(part in name for part in ("to_q", "to_k", "norm_q", "norm_k")):
                    parameter.mul_(4)
                elif parameter.ndim > 1 and not parameter.any():
                    parameter.normal_(std=0.02)
        return case

    return make
