"""tools/benchmarks/benchmark_model.py on tiny backbones, and its random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

TINY = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 8,
    "pos_embed_max_size": 16,
    "qk_norm": "rms_norm",
}
TINY_VAE = {
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 32,
    "scaling_factor": 1.5,
}
COMMON = ["--count", "2", "--repeats", "1", "--quiet"]
KEYS = ["MODEL.TRACE.DEVICE", "cpu", "MODEL.TRACE.EMERGENCE.STRIDE", "300"]
KEYS += ["MODEL.TRACE.STUDENT.LORA.RANK", "2"]


def check(result: dict) -> None:
    assert result["timesteps"] == 4
    assert result["device"].startswith("CPU")
    for name in ("teacher", "student"):
        figures = result[name]
        assert figures["milliseconds"] > 0
        assert figures["denoiser_milliseconds"] > 0
        share = 1 - figures["denoiser_milliseconds"] / figures["milliseconds"]
        assert figures["share_beside_denoiser"] == pytest.approx(share)
        assert figures["peak_bytes"] >= figures["peak_bytes_above_weights"] >= 0
    ratio = result["teacher"]["milliseconds"] / result["student"]["milliseconds"]
    assert result["times_faster"] == pytest.approx(ratio)


def test_loaded_backbone_on_a_folder_of_images(
    load_tool, tiny_folder, small_scenes: Path, tmp_path: Path, capsys
) -> None:
    tool = load_tool("benchmark_model")
    command = [*COMMON, "--images", str(small_scenes / "images"), "--json", str(tmp_path / "r")]
    name = ["MODEL.TRACE.BACKBONE.NAME", str(tiny_folder("sd3"))]
    assert tool.main([*command, *KEYS, *name]) == 0
    result = json.loads((tmp_path / "r").read_text())
    check(result)
    assert result["weights"] == "loaded"
    assert result["student_weights"] == "untrained"
    out = capsys.readouterr().out
    assert f"the student is {result['times_faster']:.1f} times faster" in out
    assert "teacher" in out
    assert "4 timesteps" in out


def test_random_weights_of_an_architecture(
    load_tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = load_tool("benchmark_model")
    known = load_tool("architectures").ARCHITECTURES
    tiny = replace(known["sd35-large"], denoiser=TINY, vae=TINY_VAE)
    monkeypatch.setitem(known, "sd35-large", tiny)
    command = [*COMMON, "--architecture", "sd35-large", "--resolution", "64", "--cpu-time"]
    options = ["MODEL.TRACE.BACKBONE.DTYPE", "bfloat16"]
    assert tool.main([*command, "--json", str(tmp_path / "r"), *KEYS, *options]) == 0
    result = json.loads((tmp_path / "r").read_text())
    check(result)
    assert (result["weights"], result["dtype"], result["resolution"]) == ("random", "bfloat16", 64)


def test_materialised_weights_are_finite_and_repeat(load_tool) -> None:
    from diffusers import SD3Transformer2DModel

    tool = load_tool("random_backbone")
    first, second = (
        tool.materialise(SD3Transformer2DModel, TINY, torch.float32, torch.device("cpu"))
        for _ in range(2)
    )
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.isfinite(a).all(), name
        assert torch.equal(a, b), name
    weight = first.transformer_blocks[0].attn.to_q.weight
    assert float(weight.detach().std()) == pytest.approx(16**-0.5, rel=0.2)


# Millions of weights, grids of self-attention, and 1e12 operations of a pass at native resolution.
PUBLISHED = {
    "sd15": (859.5, [64, 32, 16, 8], 0.80),
    "sdxl": (2567.5, [64, 32], 6.76),
    "pixart-alpha": (611.3, [64], 6.51),
    "sd35-medium": (2243.2, [64], 11.25),
    "sd35-large": (8056.6, [64], 31.12),
    "flux1-dev": (11901.4, [64], 74.38),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_architectures_have_the_size_of_the_published_models(load_tool, name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from trace_d2.backbones.settings import BackboneSettings

    millions, sides, tera = PUBLISHED[name]
    backbone = load_tool("random_backbone").random_backbone(
        name, BackboneSettings(name=name), torch.bfloat16, torch.device("meta")
    )
    weights = sum(p.numel() for p in backbone.denoiser.parameters())
    assert weights / 1e6 == pytest.approx(millions, abs=0.06)
    size = (backbone.resolution, backbone.resolution)
    assert backbone.layout(size).grids == tuple((side, side) for side in sides)
    channels = backbone.vae.config.latent_channels
    latent = torch.empty(1, channels, *backbone.latent_size(size), device="meta")
    with FlopCounterMode(display=False) as counter:
        output = backbone(latent, torch.zeros(1, device="meta"))
    assert output.shape == latent.shape
    assert counter.get_total_flops() / 1e12 == pytest.approx(tera, abs=0.006)


def test_a_student_that_is_named_must_be_there(load_tool, tmp_path: Path, capsys) -> None:
    tool = load_tool("benchmark_model")
    keys = ["MODEL.TRACE.BACKBONE.NAME", "trace-tiny", "MODEL.TRACE.STUDENT.WEIGHTS", str(tmp_path)]
    assert tool.main([*COMMON, *keys]) == 2
    assert "is no student" in capsys.readouterr().err
