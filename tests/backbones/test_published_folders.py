"""Folders with what is peculiar to those that are published on the hub, beside plain ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file, save_file

LATENT = torch.ones(1, 4, 8, 8)
WEIGHTS = "diffusion_pytorch_model.safetensors"
# Keys of the configuration that the class of today does not have.
FORMER_TRANSFORMER = {
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.22.0.dev0",
    "double_self_attention": False,
    "norm_type": "ada_norm_single",
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
}


@pytest.fixture
def build_tiny(build_tiny, in_own_memory):
    def build(model, **options):
        backbone = build_tiny(model, **options)
        return backbone if "OFFLOAD" in options else in_own_memory(backbone)  # hooks hold weights

    return build


@pytest.fixture
def copy_of(tiny_folder, tmp_path, monkeypatch):
    """``copy_of(family)``: a folder that may be changed; its null prompt is not known yet."""
    monkeypatch.setenv("TRACE_D2_CACHE", str(tmp_path / "cache"))
    return lambda family: Path(shutil.copytree(tiny_folder(family), tmp_path / family))


def edit_json(path: Path, *without: str, **changes: Any) -> None:
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in without}))


def edit_weights(path: Path, change: Any) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def prediction(backbone: Any) -> torch.Tensor:
    with torch.no_grad():
        return backbone(LATENT, torch.tensor([300]))


def same(ours: Any, plain: Any) -> None:
    """Two backbones see the same latent of an image, and predict the same."""
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    assert torch.equal(ours.encode(pixels), plain.encode(pixels))
    assert torch.equal(prediction(ours), prediction(plain))


@pytest.mark.parametrize("index_class", ["Transformer2DModel", "PixArtTransformer2DModel"])
def test_pixart_alpha_of_its_former_class(index_class, copy_of, build_tiny):
    folder = copy_of("pixart-1024")
    edit_json(folder / "model_index.json", transformer=["diffusers", index_class])
    edit_json(
        folder / "transformer" / "config.json",
        *("interpolation_scale", "use_additional_conditions"),
        **FORMER_TRANSFORMER,
    )
    # The learned null prompt, which diffusers does not use.
    edit_weights(
        folder / "transformer" / WEIGHTS,
        lambda weights: weights.update({"caption_projection.y_embedding": torch.ones(120, 16)}),
    )
    backbone = build_tiny(folder)
    assert type(backbone.denoiser) is PixArtTransformer2DModel
    assert backbone.denoiser.use_additional_conditions
    same(backbone, build_tiny("pixart-1024"))


@pytest.mark.parametrize("norm_type", ["ada_norm_zero", None])
def test_a_former_class_of_another_family_is_refused(norm_type, copy_of, build_tiny):
    folder = copy_of("pixart")
    edit_json(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    edit_json(folder / "transformer" / "config.json", norm_type=norm_type)
    with pytest.raises(ValueError, match=r"is a Transformer2DModel; this family needs a PixArt"):
        build_tiny(folder)


def test_stable_diffusion_15(copy_of, build_tiny):
    folder = copy_of("sd15")
    edit_json(
        folder / "model_index.json",
        _diffusers_version="0.6.0",
        feature_extractor=["transformers", "CLIPImageProcessor"],
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        requires_safety_checker=True,
    )  # their folders are not needed
    edit_json(
        folder / "vae" / "config.json",
        *("force_upcast", "latents_mean", "latents_std", "shift_factor", "use_quant_conv"),
        *("use_post_quant_conv", "mid_block_add_attention"),
    )

    def former_names(weights: dict[str, torch.Tensor]) -> None:
        names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for key in [key for key in weights if ".attentions." in key]:
            former = re.sub(r"to_q|to_k|to_v|to_out\.0", lambda found: names[found[0]], key)
            weights[former] = weights.pop(key)
        assert any(".query." in key for key in weights)

    edit_weights(folder / "vae" / WEIGHTS, former_names)
    edit_weights(
        folder / "text_encoder" / "model.safetensors",
        lambda weights: weights.update(
            {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        ),
    )
    edit_json(
        folder / "scheduler" / "scheduler_config.json",
        *("prediction_type", "timestep_spacing"),
        clip_sample=False,
    )
    same(build_tiny(folder), build_tiny("sd15"))


def test_a_vae_without_a_scaling_factor_has_that_of_stable_diffusion(copy_of, build_tiny):
    folder = copy_of("sd15")
    edit_json(folder / "vae" / "config.json", "scaling_factor")
    assert build_tiny(folder).vae.config.scaling_factor == 0.18215


def test_stable_diffusion_xl(copy_of, build_tiny):
    folder = copy_of("sdxl")
    edit_json(
        folder / "model_index.json",
        add_watermarker=None,
        feature_extractor=[None, None],
        image_encoder=[None, None],
        force_zeros_for_empty_prompt=True,
    )
    edit_json(
        folder / "unet" / "config.json", addition_embed_type_num_heads=64, key_of_tomorrow=True
    )
    same(build_tiny(folder), build_tiny("sdxl"))


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_shards_of_transformer_and_t5(family, tiny_pipeline, build_tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACE_D2_CACHE", str(tmp_path / "cache"))
    pipeline, _ = tiny_pipeline(family)
    folder = tmp_path / family
    pipeline.save_pretrained(folder, max_shard_size="8KB")
    t5 = {"sd3": "text_encoder_3", "flux": "text_encoder_2"}[family]
    assert len(list((folder / "transformer").glob("*-of-*.safetensors"))) > 1
    assert len(list((folder / t5).glob("*-of-*.safetensors"))) > 1
    edit_json(
        folder / "model_index.json", feature_extractor=[None, None], image_encoder=[None, None]
    )
    edit_json(folder / "vae" / "config.json", latents_mean=None, latents_std=None)
    if family == "flux":  # it was published before its rotary axes were
        edit_json(folder / "transformer" / "config.json", _diffusers_version="0.30.0.dev0")
    same(build_tiny(folder), build_tiny(family))
