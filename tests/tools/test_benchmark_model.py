"""tools/benchmarks/benchmark_model.py on tiny backbones, and its random weights."""

from __future__ import annotations

import json
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
    monkeypatch.setitem(load_tool("architectures").ARCHITECTURES, "sd35-large", (TINY, TINY_VAE))
    command = [*COMMON, "--architecture", "sd35-large", "--resolution", "64", "--cpu-time"]
    options = ["MODEL.TRACE.BACKBONE.DTYPE", "bfloat16"]
    assert tool.main([*command, "--json", str(tmp_path / "r"), *KEYS, *options]) == 0
    result = json.loads((tmp_path / "r").read_text())
    check(result)
    assert (result["weights"], result["dtype"], result["resolution"]) == ("random", "bfloat16", 64)


def test_materialised_weights_are_finite_and_repeat(load_tool) -> None:
    from diffusers import SD3Transformer2DModel

    tool = load_tool("model_figures")
    first, second = (
        tool.materialise(SD3Transformer2DModel, TINY, torch.float32, torch.device("cpu"))
        for _ in range(2)
    )
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.isfinite(a).all(), name
        assert torch.equal(a, b), name
    weight = first.transformer_blocks[0].attn.to_q.weight
    assert float(weight.detach().std()) == pytest.approx(16**-0.5, rel=0.2)


def test_sd35_large_has_the_published_number_of_weights(load_tool) -> None:
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        model = SD3Transformer2DModel(**load_tool("architectures").SD35_LARGE)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(8.06e9, rel=0.01)


def test_a_student_that_is_named_must_be_there(load_tool, tmp_path: Path, capsys) -> None:
    tool = load_tool("benchmark_model")
    keys = ["MODEL.TRACE.BACKBONE.NAME", "trace-tiny", "MODEL.TRACE.STUDENT.WEIGHTS", str(tmp_path)]
    assert tool.main([*COMMON, *keys]) == 2
    assert "is no student" in capsys.readouterr().err
