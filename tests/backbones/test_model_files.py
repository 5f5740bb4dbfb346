"""Folders of models: what is read, and what goes wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from trace_d2.backbones import build_backbone
from trace_d2.backbones.model_files import choose_weights
from trace_d2.config import get_trace_cfg

DENOISER_FILE = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def flux_copy(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder("flux"), tmp_path / "flux")


def _build(**options):
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.DEVICE = options.pop("DEVICE", "cpu")
    for key, value in options.items():
        cfg.MODEL.TRACE.BACKBONE[key] = value
    return build_backbone(cfg)


def _edit_index(folder, **changes):
    path = folder / "model_index.json"
    index = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(index))


def test_a_registered_name_with_own_weights(tiny_folder):
    backbone = _build(NAME="flux1-dev", WEIGHTS=str(tiny_folder("flux")), RESOLUTION=64)
    assert (backbone.name, backbone.native_resolution, backbone.resolution) == (
        "flux1-dev",
        1024,
        64,
    )


def test_weights_of_another_family_are_refused(tiny_folder):
    with pytest.raises(ValueError, match=r"sd15 needs .*StableDiffusionPipeline.*a FluxPipeline"):
        _build(NAME="sd15", WEIGHTS=str(tiny_folder("flux")))


def test_a_name_that_is_neither_registered_nor_a_folder():
    with pytest.raises(FileNotFoundError, match=r"'sd16' is neither .*sd15, sdxl.*nor a folder"):
        _build(NAME="sd16")
    with pytest.raises(ValueError, match="goes with a registered name"):
        _build(NAME="sd16", WEIGHTS="somewhere")
    with pytest.raises(FileNotFoundError, match="no model folder at /nowhere/at/all"):
        _build(NAME="sd15", WEIGHTS="/nowhere/at/all")


def test_a_folder_without_an_index(flux_copy):
    with pytest.raises(FileNotFoundError, match=r"no model_index.json; pass the top folder"):
        _build(NAME=str(flux_copy / "transformer"))


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_an_index_that_is_none(text, flux_copy):
    (flux_copy / "model_index.json").write_text(text)
    with pytest.raises(ValueError, match=r"model_index.json"):
        _build(NAME=str(flux_copy))


def test_an_unknown_pipeline_class_lists_the_known(flux_copy):
    _edit_index(flux_copy, _class_name="KandinskyPipeline")
    with pytest.raises(ValueError, match=r"KandinskyPipeline.*FluxPipeline.*StableDiffusionXL"):
        _build(NAME=str(flux_copy))


def test_a_related_pipeline_class_is_read(flux_copy):
    _edit_index(flux_copy, _class_name="FluxImg2ImgPipeline")
    assert type(_build(NAME=str(flux_copy))).__name__ == "FluxBackbone"


def test_a_pixart_sigma_folder(tiny_diffusers, tmp_path):
    tiny_diffusers.save_tiny_pipeline("pixart", tmp_path, use_additional_conditions=False)
    _edit_index(tmp_path, _class_name="PixArtSigmaPipeline")
    for choice in ("encoded", "zeros"):
        backbone = _build(NAME=str(tmp_path), NULL_PROMPT=choice)
        assert backbone.null_prompt_tensor("prompt_embeds", 1).shape == (1, 300, 16)
        with torch.no_grad():
            assert backbone(torch.ones(1, 4, 8, 8), torch.tensor([10])).isfinite().all()


def test_a_denoiser_of_another_class(flux_copy):
    _edit_index(flux_copy, transformer=["diffusers", "SD3Transformer2DModel"])
    with pytest.raises(ValueError, match=r"transformer is a SD3Transformer2DModel.*needs a Flux"):
        _build(NAME=str(flux_copy))


@pytest.mark.parametrize("component", ["transformer", "vae", "scheduler"])
def test_a_missing_component(component, flux_copy):
    shutil.rmtree(flux_copy / component)
    with pytest.raises(FileNotFoundError, match=f"has no {component}"):
        _build(NAME=str(flux_copy))


@pytest.mark.parametrize("component", ["transformer", "vae"])
def test_truncated_weights(component, flux_copy):
    path = flux_copy / component / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"cannot load .*{component}.*truncated"):
        _build(NAME=str(flux_copy))


def test_weights_that_are_missing(flux_copy):
    (flux_copy / DENOISER_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="no complete weights"):
        _build(NAME=str(flux_copy))


def test_weights_that_lack_a_tensor(flux_copy):
    tensors = load_file(flux_copy / DENOISER_FILE)
    del tensors["proj_out.weight"]
    save_file(tensors, flux_copy / DENOISER_FILE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"transformer"):
        _build(NAME=str(flux_copy))


@pytest.mark.parametrize("component", ["transformer", "vae"])
def test_weights_that_hold_a_further_tensor(component, flux_copy):
    path = flux_copy / component / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), "extra.weight": torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"{component} hold 1 tensors .* \(extra\.weight\)"):
        _build(NAME=str(flux_copy))


@pytest.mark.parametrize(
    ("settings", "package"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gguf", "compute_dtype": "bfloat16"}, "gguf"),
        ({"quant_method": "torchao", "quant_type": "int8wo"}, "torchao"),
        ({"quant_method": "quanto", "weights_dtype": "int8"}, "optimum-quanto"),
    ],
)
@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder_2"])
def test_the_package_of_quantised_weights_is_named(
    settings, package, component, flux_copy, without_packages, monkeypatch, tmp_path
):
    monkeypatch.setenv("TRACE_D2_CACHE", str(tmp_path / "cache"))
    without_packages(package)
    path = flux_copy / component / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": settings}))
    with pytest.raises(ValueError, match=rf"{component} is quantised .* `pip install {package}`"):
        _build(NAME=str(flux_copy))


def test_an_unknown_way_to_quantise_is_named(flux_copy):
    path = flux_copy / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": {"quant_method": [1]}}))
    with pytest.raises(ValueError, match=r"quant_method \[1\], which is not known here"):
        _build(NAME=str(flux_copy))


def test_a_single_file_as_model_is_told_its_key(flux_copy):
    file = str(flux_copy / "text_encoder" / "model.safetensors")
    for options in ({"NAME": file}, {"NAME": "flux1-dev", "WEIGHTS": file}):
        with pytest.raises(FileNotFoundError, match=r"single file.*set .*BACKBONE\.DENOISER to it"):
            _build(**options)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"latent_channels": "a"}'])
@pytest.mark.parametrize(
    "name", ["transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
)
def test_configurations_that_are_none(name, text, flux_copy):
    (flux_copy / name).write_text(text)
    if name.startswith("scheduler") and text.startswith('{"'):
        return  # keys that a scheduler does not know are passed by
    with pytest.raises(ValueError, match=name.split("/")[0]):
        _build(NAME=str(flux_copy))


def test_weights_of_another_size(flux_copy):
    tensors = load_file(flux_copy / DENOISER_FILE)
    tensors["proj_out.weight"] = tensors["proj_out.weight"][:, :-1].contiguous()
    save_file(tensors, flux_copy / DENOISER_FILE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"cannot load .*transformer"):
        _build(NAME=str(flux_copy))


def test_a_denoiser_that_does_not_take_the_latents(tiny_diffusers, tmp_path):
    tiny_diffusers.save_tiny_pipeline("sd15", tmp_path, in_channels=9)
    with pytest.raises(ValueError, match="takes 9 latent channels and the VAE gives 4; inpainting"):
        _build(NAME=str(tmp_path))


def test_unknown_scheduler(flux_copy):
    _edit_index(flux_copy, scheduler=["diffusers", "NoSuchScheduler"])
    with pytest.raises(ValueError, match="no scheduler NoSuchScheduler"):
        _build(NAME=str(flux_copy))


def test_device_and_dtype_that_do_not_exist(tiny_folder):
    name = str(tiny_folder("flux"))
    with pytest.raises(
        ValueError, match=r"MODEL\.TRACE\.DEVICE 'cuda:99' cannot .*set MODEL\.TRACE\.DEVICE to"
    ):
        _build(NAME=name, DEVICE="cuda:99")
    with pytest.raises(ValueError, match="DEVICE 'toaster'"):
        _build(NAME=name, DEVICE="toaster")
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.BACKBONE.NAME, cfg.MODEL.DEVICE = name, "toaster"
    with pytest.raises(ValueError, match=r"^MODEL\.DEVICE 'toaster' cannot .*set MODEL\.DEVICE to"):
        build_backbone(cfg)
    with pytest.raises(ValueError, match=r"DTYPE must be one of auto, float32.*int8"):
        _build(NAME=name, DTYPE="int8")


def test_fp16_variant_and_shards_and_pickles(tiny_pipeline, tmp_path):
    pipeline, plain = tiny_pipeline("flux")
    expected = load_file(plain / DENOISER_FILE)
    kinds = {
        "fp16": {"variant": "fp16"},
        "sharded": {"max_shard_size": "8KB"},
        "pickle": {"safe_serialization": False},
    }
    for kind, options in kinds.items():
        pipeline.save_pretrained(tmp_path / kind, **options)
        assert not (tmp_path / kind / DENOISER_FILE).exists()
        weights = _build(NAME=str(tmp_path / kind)).denoiser.state_dict()
        assert all(torch.equal(weights[key], tensor) for key, tensor in expected.items()), kind


def test_a_variant_is_chosen(flux_copy):
    whole = flux_copy / DENOISER_FILE
    halved = {key: tensor / 2 for key, tensor in load_file(whole).items()}
    other = whole.with_name("diffusion_pytorch_model.bf16.safetensors")
    save_file(halved, other, {"format": "pt"})
    for variant, factor in (("", 1), ("bf16", 0.5)):
        backbone = _build(NAME=str(flux_copy), VARIANT=variant)
        expected = load_file(whole)["proj_out.weight"] * factor
        assert torch.equal(backbone.denoiser.proj_out.weight, expected)
    with pytest.raises(FileNotFoundError, match=r"no weights of the variant fp16.*variants: bf16"):
        _build(NAME=str(flux_copy), VARIANT="fp16")
    whole.unlink()
    with pytest.raises(FileNotFoundError, match=r"variants: bf16, which .*BACKBONE\.VARIANT"):
        _build(NAME=str(flux_copy))


class _Code:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_code_in_pickled_weights_is_not_run(component, flux_copy, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACE_D2_CACHE", str(tmp_path / "cache"))
    (path,) = (flux_copy / component).glob("*model.safetensors")
    weights = load_file(path)
    path.unlink()
    name = "pytorch_model.bin" if component.startswith("text") else "diffusion_pytorch_model.bin"
    torch.save({**weights, "more": _Code(tmp_path / "trace")}, flux_copy / component / name)
    with pytest.raises(ValueError, match=component):
        _build(NAME=str(flux_copy))
    assert not (tmp_path / "trace").exists()


def test_a_missing_shard(tiny_pipeline, tmp_path):
    tiny_pipeline("flux")[0].save_pretrained(tmp_path, max_shard_size="8KB")
    next((tmp_path / "transformer").glob("*00002-of-*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="every shard"):
        _build(NAME=str(tmp_path))


# ---- choosing weights --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["a/diffusion_pytorch_model.bin", "a/diffusion_pytorch_model.safetensors"],
            (["a/diffusion_pytorch_model.safetensors"], None, True),
        ),
        (
            ["model.fp16.safetensors", "pytorch_model.bin", "model.safetensors"],
            (["model.safetensors"], None, True),
        ),
        (
            ["model.fp16.safetensors", "pytorch_model.bin"],
            (["model.fp16.safetensors"], "fp16", True),
        ),
        (["pytorch_model.bin", "flax_model.msgpack"], (["pytorch_model.bin"], None, False)),
        (
            ["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.bin"],
            (["diffusion_pytorch_model.bin"], None, False),
        ),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None, True),
        ),
        (
            ["model-00001-of-00002.safetensors", "model.fp16-00001-of-00001.safetensors"],
            (["model.fp16-00001-of-00001.safetensors"], "fp16", True),
        ),
        (["config.json", "model-00001-of-00002.safetensors"], None),
        (["model.bf16.safetensors"], None),
    ],
)
def test_choosing_weights(names, expected):
    found = choose_weights(names)
    if expected is None:
        assert found is None
    else:
        assert (list(found.names), found.variant, found.safetensors) == expected


def test_choosing_a_variant():
    names = ["model.safetensors", "model.bf16.safetensors", "pytorch_model.ema.bin"]
    names += ["model.big-00001-of-00002.safetensors"]
    chosen = {variant: choose_weights(names, variant) for variant in ("", "bf16", "ema", "big")}
    assert [found.names[0] for found in chosen.values()] == [*names[:3], names[0]]
    assert [found.variant for found in chosen.values()] == [None, "bf16", "ema", None]
