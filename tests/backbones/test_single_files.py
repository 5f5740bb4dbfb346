"""Denoisers in single files: of every layout, what differs from the model is told."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from trace_d2.backbones import single_file
from trace_d2.backbones.reports import difference

FAMILIES = ("sd15", "sdxl", "sd3")
STEP = torch.tensor([300])


def _latent(backbone):
    channels, generator = backbone.vae.config.latent_channels, torch.Generator().manual_seed(0)
    return torch.randn(1, channels, 8, 8, generator=generator)


def _run(backbone):
    with torch.no_grad():
        return backbone(_latent(backbone), STEP).float()


@pytest.fixture
def build_tiny(build_tiny, in_own_memory):
    def build(model, **options):
        backbone = build_tiny(model, **options)
        return backbone if "OFFLOAD" in options else in_own_memory(backbone)  # hooks hold weights

    return build


@pytest.fixture(scope="module")
def originals(tiny_pipeline, original_names, tmp_path_factory):
    """``originals(family)``: a folder of another model of the family, and a file of the tiny one.

    The file holds more than the denoiser, as those of Stable Diffusion do.
    """
    made = {}

    def make(family):
        if family not in made:
            pipeline, folder = tiny_pipeline(family)
            path = tmp_path_factory.mktemp(family) / "model.safetensors"
            denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
            tensors = original_names.in_original_names(denoiser)
            others = {"first_stage_model.encoder.conv_in.weight": torch.ones(2, 2)}
            named = {original_names.PREFIX + name: tensor for name, tensor in tensors.items()}
            save_file({**named, **others}, path)
            made[family] = folder, path
        return made[family]

    return make


@pytest.fixture
def other_weights(originals, tmp_path):
    """``other_weights(family)``: the folder of the family with its denoiser's weights at zero."""

    def make(family):
        copy = shutil.copytree(originals(family)[0], tmp_path / family)
        name = "unet" if (copy / "unet").is_dir() else "transformer"
        path = copy / name / "diffusion_pytorch_model.safetensors"
        zeros = {key: torch.zeros_like(tensor) for key, tensor in load_file(path).items()}
        save_file(zeros, path, {"format": "pt"})
        return copy

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_takes_the_place_of_the_folders_denoiser(
    family, originals, other_weights, build_tiny, caplog
):
    folder, path = originals(family)
    with caplog.at_level("INFO"):
        backbone = build_tiny(other_weights(family), DENOISER=str(path))
    assert torch.equal(_run(backbone), _run(build_tiny(folder)))
    assert backbone.quantization == ""
    assert "only the denoiser is taken; its other 1 tensors" in caplog.text


def test_a_folder_without_weights_of_the_denoiser_is_enough(originals, other_weights, build_tiny):
    folder, path = originals("sd3")
    bare = other_weights("sd3")
    (bare / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    backbone = build_tiny(bare, DENOISER=str(path), DTYPE="bfloat16")
    assert backbone.dtype == torch.bfloat16
    assert torch.equal(_run(backbone), _run(build_tiny(folder, DTYPE="bfloat16")))


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_a_file_of_diffusers_own_names(family, tiny_folder, build_tiny):
    name = "unet" if family == "sd15" else "transformer"
    path = tiny_folder(family) / name / "diffusion_pytorch_model.safetensors"
    assert torch.equal(_run(build_tiny(family, DENOISER=str(path))), _run(build_tiny(family)))


@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_of_weights(nested, originals, other_weights, build_tiny, tmp_path):
    folder, path = originals("sd15")
    tensors = load_file(path)
    pickled = tmp_path / "model.ckpt"
    torch.save({"state_dict": tensors, "global_step": 3} if nested else tensors, pickled)
    backbone = build_tiny(other_weights("sd15"), DENOISER=str(pickled))
    assert torch.equal(_run(backbone), _run(build_tiny(folder)))


class _Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_pickle_is_not_run(originals, build_tiny, tmp_path):
    folder, path = originals("sd15")
    torch.save({**load_file(path), "more": _Code(tmp_path / "trace")}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"cannot read .*it was not read: pass a \.safetensors"):
        build_tiny(folder, DENOISER=str(tmp_path / "model.ckpt"))
    assert not (tmp_path / "trace").exists()


def _without(tensors):
    return {k: v for k, v in tensors.items() if not k.endswith("attn.proj.bias")}


def _scaled(tensors):
    name = "model.diffusion_model.joint_blocks.0.x_block.attn.qkv"
    return {**tensors, f"{name}.scale_weight": torch.ones(1)}


def _longer(tensors):
    name = "model.diffusion_model.x_embedder.proj.bias"
    return {**tensors, name: torch.zeros(len(tensors[name]) + 1)}


def _fewer_blocks(tensors):
    return {k: v for k, v in tensors.items() if "joint_blocks.1." not in k}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "holds no SD3Transformer2DModel"),
        (_scaled, r"not known here \(joint_blocks\.0\.x_block\.attn\.qkv\.scale_weight"),
        (_longer, r"1 tensors of another shape .* \(pos_embed\.proj\.bias"),
        (_fewer_blocks, "holds tensors that are not known here, as of"),
    ],
)
def test_files_that_differ_from_the_model(change, message, originals, build_tiny, tmp_path):
    folder, path = originals("sd3")
    save_file(change(load_file(path)), tmp_path / "changed.safetensors")
    with pytest.raises(ValueError, match=message):
        build_tiny(folder, DENOISER=str(tmp_path / "changed.safetensors"))


@pytest.mark.parametrize(("drop", "add"), [(True, False), (False, True)])
def test_differences_under_diffusers_own_names(drop, add, tiny_folder, build_tiny, tmp_path):
    tensors = load_file(tiny_folder("flux") / "transformer/diffusion_pytorch_model.safetensors")
    if drop:
        del tensors["proj_out.weight"]
    if add:
        tensors["transformer_blocks.0.attn.to_q.scale_weight"] = torch.ones(1)
    save_file(tensors, tmp_path / "flux.safetensors")
    what = r"lack 1 .*\(proj_out" if drop else r"hold 1 tensors .*\(transformer_blocks\.0.*scale"
    with pytest.raises(ValueError, match=what):
        build_tiny("flux", DENOISER=str(tmp_path / "flux.safetensors"))


def test_a_file_of_another_model(originals, build_tiny):
    with pytest.raises(ValueError, match=r"holds no UNet2DConditionModel|tensors that are not"):
        build_tiny("sd15", DENOISER=str(originals("sd3")[1]))
    with pytest.raises(ValueError, match="holds no FluxTransformer2DModel"):
        build_tiny("flux", DENOISER=str(originals("sd15")[1]))


def test_families_that_have_no_single_files(tiny_folder, build_tiny):
    path = tiny_folder("pixart") / "transformer/diffusion_pytorch_model.safetensors"
    with pytest.raises(ValueError, match="single files of a PixArtTransformer2DModel are not read"):
        build_tiny("pixart", DENOISER=str(path))


def test_files_that_are_not_there_or_damaged(originals, build_tiny, tmp_path):
    key = r"MODEL\.TRACE\.BACKBONE\.DENOISER"
    with pytest.raises(FileNotFoundError, match=rf"{key}: there is no file"):
        build_tiny("sd3", DENOISER=str(tmp_path / "none.safetensors"))
    (tmp_path / "model.onnx").write_bytes(b"1")
    with pytest.raises(ValueError, match=rf"{key}: .* is none of \.safetensors, \.gguf"):
        build_tiny("sd3", DENOISER=str(tmp_path / "model.onnx"))
    whole = originals("sd3")[1].read_bytes()
    for name in ("cut.safetensors", "cut.ckpt", "cut.gguf"):
        (tmp_path / name).write_bytes(whole[:-100])
        with pytest.raises(ValueError, match=r"cut.*(is no whole|it is|cannot read)"):
            build_tiny("sd3", DENOISER=str(tmp_path / name))


def test_other_files_are_called_what_they_are(build_tiny, tiny_folder, tmp_path):
    def refused(name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            build_tiny("sd3", DENOISER=str(tmp_path / name))

    folder = tiny_folder("sd3")
    vae = (folder / "vae/diffusion_pytorch_model.safetensors").read_bytes()
    refused("a.ckpt", b"just some text\n", "a.ckpt holds no weights, it is text: name another file")
    refused("b.ckpt", b"<html>not found</html>", "b.ckpt is a web page, not the file")
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    refused("c.safetensors", pointer, "c.safetensors is a pointer of Git LFS, .*run `git lfs pull`")
    refused("d.safetensors", b"", "d.safetensors is empty")
    refused("e.safetensors", vae, "e.safetensors holds a VAE, no denoiser: .* U-Net or transformer")
    refused("f.safetensors", vae[:-100], r"f.safetensors is no whole safetensors file \(\d+ of \d+")
    refused("g.pt", b"PK\x03\x04" + bytes(100), "g.pt breaks off, it is no whole file")
    text = next((folder / "text_encoder").glob("*.safetensors")).read_bytes()
    refused("h.safetensors", text, "h.safetensors holds a text encoder, no denoiser")


def test_flux_under_its_makers_names(original_names):
    # diffusers knows FLUX at its own width alone: shapes without values show that each fits.
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True)
    given = original_names.in_original_names(model)
    expected = model.state_dict()
    made = single_file._named_as(expected, given, FluxTransformer2DModel, model.config, "file")
    assert not any(difference(expected, made).values())
    assert set(given).isdisjoint(expected)


def test_a_job_notes_the_file(originals, make_trace_settings):
    folder, path = originals("sd3")
    keys = make_trace_settings(NAME=str(folder), DENOISER=str(path), QUANTIZE="nf4", VARIANT="bf16")
    assert keys["MODEL.TRACE.BACKBONE.DENOISER"] == str(path)
    assert keys["MODEL.TRACE.BACKBONE.QUANTIZE"] == "nf4"
    assert keys["MODEL.TRACE.BACKBONE.VARIANT"] == "bf16"
    plain = make_trace_settings(NAME=str(folder))
    assert not any(key.endswith(("DENOISER", "QUANTIZE", "VARIANT", "OFFLOAD")) for key in plain)


@pytest.fixture
def make_trace_settings():
    def make(**keys):
        from trace_d2.config import get_trace_cfg
        from trace_d2.jobs.kinds.edge_job import deciding_keys

        cfg = get_trace_cfg()
        for key, value in keys.items():
            cfg.MODEL.TRACE.BACKBONE[key] = value
        return json.loads(json.dumps(deciding_keys(cfg, ("BACKBONE",))))

    return make


# ---- GGUF --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_sd3(tiny_diffusers, original_names, tmp_path_factory):
    """``gguf_sd3("Q8_0")``: folder, file and values of an SD3 whose widths are multiples of 32.

    As in published files the linear layers of the blocks are quantised. diffusers turns them back
    in float16.
    """
    gguf = pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("gguf") / "sd3"
    sizes = {"attention_head_dim": 32, "caption_projection_dim": 64}
    pipeline = tiny_diffusers.save_tiny_pipeline("sd3", folder, **sizes)
    tensors = original_names.in_original_names(pipeline.transformer)

    def make(kind):
        path = folder.parent / f"{kind}.gguf"
        writer = gguf.GGUFWriter(path, "sd3")
        quantised = getattr(gguf.GGMLQuantizationType, kind)
        values = {}
        for name, tensor in tensors.items():
            data = tensor.detach().numpy()
            if name.startswith("joint_blocks") and data.ndim == 2:
                stored = gguf.quants.quantize(data, quantised)
                writer.add_tensor(name, stored, raw_dtype=quantised)
                values[name] = torch.from_numpy(gguf.quants.dequantize(stored, quantised).copy())
            else:
                writer.add_tensor(name, data)
                values[name] = tensor
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return folder, path, values

    return make


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_gguf_computes_as_its_values(kind, gguf_sd3, build_tiny, tmp_path):
    folder, path, values = gguf_sd3(kind)
    save_file({k: v.contiguous() for k, v in values.items()}, tmp_path / "values.safetensors")
    expected = _run(build_tiny(folder, DENOISER=str(tmp_path / "values.safetensors")))
    backbone = build_tiny(folder, DENOISER=str(path))
    assert (backbone.quantization, backbone.dtype) == ("gguf", torch.float32)
    torch.testing.assert_close(_run(backbone), expected, rtol=0, atol=1e-4)
    linear = backbone.denoiser.transformer_blocks[0].attn.to_q.weight
    assert linear.dtype == (torch.float32 if kind == "F16" else torch.uint8)
    plain = _run(build_tiny(folder))
    assert 0 < (expected - plain).abs().max() < plain.abs().max() / 2
    half = _run(build_tiny(folder, DENOISER=str(path), DTYPE="bfloat16"))
    torch.testing.assert_close(half, expected, rtol=0, atol=0.1)


def test_gguf_in_the_folder(gguf_sd3, build_tiny, tmp_path):
    folder, path, _ = gguf_sd3("Q8_0")
    copy = shutil.copytree(folder, tmp_path / "sd3")
    (copy / "transformer/diffusion_pytorch_model.safetensors").unlink()
    shutil.copy(path, copy / "transformer/sd3.gguf")
    named = build_tiny(folder, DENOISER=str(path))
    assert torch.equal(_run(build_tiny(copy)), _run(named))
    with pytest.raises(ValueError, match=r"is quantised already: leave .*QUANTIZE empty"):
        build_tiny(copy, QUANTIZE="nf4")
    shutil.copy(path, copy / "transformer/other.gguf")
    with pytest.raises(ValueError, match=r"holds 2 GGUF files \(other\.gguf, sd3\.gguf\)"):
        build_tiny(copy)


def test_the_package_of_gguf_is_named(gguf_sd3, build_tiny, without_packages):
    folder, path, _ = gguf_sd3("Q8_0")
    without_packages("gguf")
    with pytest.raises(ValueError, match=r"is a GGUF file, which needs .* `pip install gguf`"):
        build_tiny(folder, DENOISER=str(path))


def test_gguf_rests_in_main_memory_by_groups(gguf_sd3, build_tiny):
    folder, path, _ = gguf_sd3("Q4_0")
    offloaded = build_tiny(folder, DENOISER=str(path), OFFLOAD="group")
    assert torch.equal(_run(offloaded), _run(build_tiny(folder, DENOISER=str(path))))
