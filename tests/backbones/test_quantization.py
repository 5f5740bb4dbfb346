"""Denoisers in 4 and 8 bits: what is quantised, to which numbers, and read from folders."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trace_d2.backbones import quantization

# NF4: quantiles of a normal distribution (QLoRA, Appendix E), scaled by the largest of 64 values.
NEGATIVE = (-1.0, -0.6961928, -0.5250731, -0.39491749, -0.28444138, -0.18477343, -0.09105004)
POSITIVE = (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)
NF4 = torch.tensor([*NEGATIVE, 0.0, *POSITIVE])
STEP = torch.tensor([300])
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def _run(backbone):
    channels, generator = backbone.vae.config.latent_channels, torch.Generator().manual_seed(0)
    latent = torch.randn(1, channels, 8, 8, generator=generator)
    with torch.no_grad():
        return backbone(latent, STEP).float()


def _nearest(weight):
    blocks = weight.reshape(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    places = (blocks / largest)[..., None].sub(NF4).abs().argmin(-1)
    return (NF4[places] * largest).view(weight.shape)


@pytest.fixture(scope="module")
def quantised_flux(tiny_diffusers, tmp_path_factory):
    """A FLUX of widths that are multiples of 64."""
    folder = tmp_path_factory.mktemp("flux")
    sizes = {"attention_head_dim": 32, "axes_dims_rope": (8, 12, 12)}
    tiny_diffusers.save_tiny_pipeline("flux", folder, **sizes)
    return folder


@pytest.fixture
def with_values(quantised_flux, tmp_path):
    """``with_values(change)``: the folder with ``change`` of each quantised weight in its place."""

    def make(change):
        copy = shutil.copytree(quantised_flux, tmp_path / "values")
        tensors = load_file(copy / WEIGHTS)
        for name, tensor in tensors.items():
            blocks = name.startswith(("transformer_blocks", "single_transformer_blocks"))
            # FLUX's last layer has the name of a layer of its blocks.
            if name.endswith("weight") and tensor.ndim == 2 and (blocks or "proj_out" in name):
                tensors[name] = change(tensor)
        save_file(tensors, copy / WEIGHTS, {"format": "pt"})
        return copy

    return make


def test_nf4_is_the_nearest_of_sixteen_values(quantised_flux, with_values, build_tiny):
    pytest.importorskip("bitsandbytes")
    backbone = build_tiny(quantised_flux, QUANTIZE="nf4")
    assert (backbone.quantization, backbone.dtype) == ("nf4", torch.float32)
    weight = backbone.denoiser.transformer_blocks[0].attn.to_q.weight
    assert (weight.dtype, weight.numel()) == (torch.uint8, 64 * 64 // 2)
    assert type(backbone.denoiser.x_embedder) is torch.nn.Linear
    expected = _run(build_tiny(with_values(_nearest)))
    torch.testing.assert_close(_run(backbone), expected, rtol=0, atol=1e-5)
    half = build_tiny(quantised_flux, QUANTIZE="nf4", DTYPE="bfloat16")
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(_run(half), expected, rtol=0, atol=0.2)


def test_int8_rounds_by_rows(quantised_flux, build_tiny):
    pytest.importorskip("torchao")
    plain, backbone = build_tiny(quantised_flux), build_tiny(quantised_flux, QUANTIZE="int8")
    assert (backbone.quantization, backbone.dtype) == ("int8", torch.float32)
    layer = "single_transformer_blocks.0.proj_mlp"
    whole, few = (b.denoiser.get_submodule(layer).weight for b in (plain, backbone))
    step = whole.abs().amax(1, keepdim=True) / 127
    assert (few.dequantize() - whole).abs().le(0.51 * step).all()
    assert not torch.equal(few.dequantize(), whole)
    expected = _run(plain)
    torch.testing.assert_close(_run(backbone), expected, rtol=0, atol=0.02)
    offloaded = build_tiny(quantised_flux, QUANTIZE="int8", OFFLOAD="group")
    file = build_tiny(quantised_flux, QUANTIZE="int8", DENOISER=str(quantised_flux / WEIGHTS))
    assert torch.equal(_run(offloaded), _run(backbone))
    assert torch.equal(_run(file), _run(backbone))


def test_folders_of_torchao(quantised_flux, build_tiny, tmp_path):
    pytest.importorskip("torchao")
    backbone = build_tiny(quantised_flux, QUANTIZE="int8")
    copy = shutil.copytree(quantised_flux, tmp_path / "flux")
    shutil.rmtree(copy / "transformer")
    backbone.denoiser.save_pretrained(copy / "transformer")
    again = build_tiny(copy)
    assert again.quantization == "int8"
    assert torch.equal(_run(again), _run(backbone))
    with safe_open(copy / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(copy / WEIGHTS)
    del tensors["proj_out.bias"]
    save_file(tensors, copy / WEIGHTS, metadata)
    with pytest.raises(ValueError, match=r"lack 1 of the model's tensors \(proj_out\.bias\)"):
        build_tiny(copy)


@pytest.mark.parametrize(
    ("family", "kept"),
    [
        ("sd15", ["time_embedding"]),
        ("sdxl", ["time_embedding", "add_embedding"]),
        ("pixart", ["adaln_single", "caption_projection", "proj_out"]),
        ("sd3", ["context_embedder", "norm_out", "proj_out", "time_text_embed"]),
        ("flux", ["context_embedder", "norm_out", "time_text_embed", "x_embedder"]),
    ],
)
def test_what_lies_outside_of_the_blocks_is_kept(family, kept, tiny_pipeline):
    pipeline = tiny_pipeline(family)[0]
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    found = quantization.modules_kept(type(denoiser), dict(denoiser.config))
    assert sorted(found) == sorted(kept)


@pytest.mark.parametrize("family", ["sd15", "pixart", "sd3"])
def test_every_family_is_quantised(family, build_tiny):
    pytest.importorskip("bitsandbytes")
    plain, quantised = build_tiny(family), build_tiny(family, QUANTIZE="nf4")
    expected, found = _run(plain), _run(quantised)
    assert 0 < (found - expected).abs().max() < expected.abs().max() / 2


@pytest.fixture(scope="module")
def stored(quantised_flux, tmp_path_factory):
    """``stored("nf4")``: the folder with its denoiser as bitsandbytes saves it, and the output."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from diffusers import BitsAndBytesConfig, FluxTransformer2DModel

    del bitsandbytes
    made = {}
    settings = {
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "double": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
        "int8": {"load_in_8bit": True},
    }

    def make(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "flux"
            shutil.copytree(quantised_flux, folder)
            with quantization.on_any_device(torch.device("cpu")):
                model = FluxTransformer2DModel.from_pretrained(
                    folder / "transformer",
                    quantization_config=BitsAndBytesConfig(**settings[kind]),
                    dtype=torch.float32,
                    device_map={"": torch.device("cpu")},
                )
            shutil.rmtree(folder / "transformer")
            model.save_pretrained(folder / "transformer")
            made[kind] = folder, model
        return made[kind]

    return make


@pytest.mark.parametrize(
    ("kind", "name"), [("nf4", "nf4"), ("double", "fp4"), ("int8", "bitsandbytes int8")]
)
def test_folders_that_are_quantised_already(kind, name, stored, build_tiny):
    folder, model = stored(kind)
    backbone = build_tiny(folder)
    assert (backbone.quantization, backbone.dtype) == (name, torch.float32)
    quantization.settle(model)
    expected = build_tiny(folder)
    expected.denoiser = model.eval()
    torch.testing.assert_close(_run(backbone), _run(expected), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"quantised already, by bitsandbytes.*QUANTIZE empty"):
        build_tiny(folder, QUANTIZE="nf4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("transformer_blocks.0.attn.to_q.weight"), "cannot load"),
        (lambda t: t.pop("transformer_blocks.0.attn.to_q.weight.absmax"), "cannot load"),
        (lambda t: t.update({"extra.weight": torch.ones(2)}), r"hold 1 tensors .*\(extra"),
    ],
)
def test_quantised_folders_that_differ_from_the_model(
    change, message, stored, build_tiny, tmp_path
):
    copy = shutil.copytree(stored("nf4")[0], tmp_path / "flux")
    tensors = load_file(copy / WEIGHTS)
    change(tensors)
    save_file(tensors, copy / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=message):
        build_tiny(copy)


def test_a_text_encoder_that_is_quantised(tiny_folder, build_tiny, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig, T5EncoderModel

    monkeypatch.setenv("TRACE_D2_CACHE", str(tmp_path / "cache"))
    copy = shutil.copytree(tiny_folder("flux"), tmp_path / "flux")
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    encoder = T5EncoderModel.from_pretrained(
        copy / "text_encoder_2", quantization_config=settings, dtype=torch.float32
    )
    shutil.rmtree(copy / "text_encoder_2")
    encoder.save_pretrained(copy / "text_encoder_2")
    found, plain = build_tiny(copy), build_tiny("flux")
    prompts = [b.null_prompt_tensor("prompt_embeds", 1) for b in (found, plain)]
    assert 0 < (prompts[0] - prompts[1]).abs().max() < prompts[1].abs().max() / 2


@pytest.mark.parametrize(("scheme", "package"), [("nf4", "bitsandbytes"), ("int8", "torchao")])
def test_the_package_of_a_scheme_is_named(scheme, package, build_tiny, without_packages):
    without_packages(package)
    with pytest.raises(ValueError, match=rf"QUANTIZE {scheme} needs .* `pip install {package}`"):
        build_tiny("flux", QUANTIZE=scheme)


def test_a_file_is_quantised_as_it_is_loaded(quantised_flux, build_tiny):
    pytest.importorskip("bitsandbytes")
    options = {"DENOISER": str(quantised_flux / WEIGHTS), "QUANTIZE": "nf4"}
    from_file, from_folder = (
        build_tiny(quantised_flux, **keys) for keys in (options, {"QUANTIZE": "nf4"})
    )
    assert from_file.quantization == "nf4"
    assert torch.equal(_run(from_file), _run(from_folder))


def test_a_configuration_names_no_scheme_of_its_own(quantised_flux, build_tiny, tmp_path):
    copy = shutil.copytree(quantised_flux, tmp_path / "flux")
    path = copy / "transformer" / "config.json"
    settings = {"quant_method": "nowhere"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
    with pytest.raises(ValueError, match=r"quant_method \S+, which is not known here"):
        build_tiny(copy)
