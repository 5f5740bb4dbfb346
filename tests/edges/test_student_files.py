"""Students on disk: round trips, files that others read, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trace_d2.backbones import build_backbone
from trace_d2.edges import student_loading
from trace_d2.edges.detector import StudentDetector
from trace_d2.edges.sources import build_edge_source
from trace_d2.edges.student import EdgeStudent
from trace_d2.edges.student_files import (
    DECODER_FILE,
    FILES,
    JSON_NAME,
    LORA_FILE,
    read_description,
    student_folder,
)
from trace_d2.edges.student_loading import load_student, save_student, student_to_train

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def edges(student: EdgeStudent) -> np.ndarray:
    return StudentDetector(student)(IMAGE, "dog").edges


@pytest.fixture
def saved(make_student, tmp_path):
    """A student, its folder."""
    student = make_student("sd3")
    save_student(student, tmp_path / "student")
    return student, tmp_path / "student"


@pytest.mark.parametrize("family", ["sd15", "sdxl", "pixart", "sd3", "flux", "trace-tiny"])
def test_round_trip_of_each_family(family, make_student, student_cfg, tmp_path) -> None:
    student = make_student(family)
    save_student(student, tmp_path / "student")
    loaded = load_student(tmp_path / "student", build_backbone(student_cfg(family)))
    state = student.state_dict()
    read = dict(loaded.named_parameters())
    assert all(torch.equal(read[name], value) for name, value in state.items())
    assert not any(p.requires_grad for p in loaded.parameters())
    np.testing.assert_allclose(edges(loaded), edges(student), atol=1e-5)
    merged = load_student(
        tmp_path / "student", build_backbone(student_cfg(family)), merge_lora=True
    )
    assert not any("lora" in name for name, _ in merged.named_parameters())
    np.testing.assert_allclose(edges(merged), edges(student), atol=1e-3)
    assert set(read) > set(state)


@pytest.mark.parametrize("name", ["cnn", "relative", "unet", "mask2former"])
def test_round_trip_of_each_decoder(name, make_student, student_cfg, tmp_path) -> None:
    student = make_student("flux", STUDENT__DECODER__NAME=name, STUDENT__BLOCKS=[1])
    save_student(student, tmp_path / "s")
    # Decoder, blocks and rank are the folder's, whatever the config says.
    cfg = student_cfg("flux", STUDENT__WEIGHTS=str(tmp_path / "s"), STUDENT__LORA__RANK=7)
    detector = StudentDetector.from_config(cfg)
    assert detector.student.decoder.name == name
    assert detector.student.decoder.settings == student.decoder.settings
    assert detector.student.blocks == (1,)
    np.testing.assert_allclose(detector(IMAGE, "dog").edges, edges(student), atol=1e-3)


def test_bfloat16_keeps_adapters_in_float32(make_student, student_cfg, tmp_path) -> None:
    keys = {"BACKBONE__DTYPE": "bfloat16"}
    student = make_student("sd3", **keys)
    save_student(student, tmp_path / "s")
    assert {t.dtype for t in load_file(tmp_path / "s" / LORA_FILE).values()} == {torch.float32}
    assert read_description(tmp_path / "s")["backbone"]["dtype"] == "bfloat16"
    loaded = load_student(tmp_path / "s", build_backbone(student_cfg("sd3", **keys)))
    for name, parameter in loaded.named_parameters():
        assert (".lora_" not in name) or parameter.dtype == torch.float32
    assert loaded.backbone.dtype == torch.bfloat16
    read = dict(loaded.named_parameters())
    assert all(torch.equal(read[name], value) for name, value in student.state_dict().items())
    np.testing.assert_allclose(edges(loaded), edges(student), atol=1e-3)


def test_what_it_belongs_to_is_written_down(saved) -> None:
    student, folder = saved
    described = read_description(folder)
    assert described["format"] == 1
    assert described["backbone"]["denoiser"] == "SD3Transformer2DModel"
    assert described["backbone"]["name"] == student.backbone.name.rsplit("/", 1)[-1]
    assert (described["grid"], described["resolution"], described["timestep"]) == ([4, 4], 32, 0)
    assert described["decoder"]["name"] == "relative"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == sorted(FILES)


def test_diffusers_and_peft_read_the_adapters(saved, student_cfg) -> None:
    student, folder = saved
    config = student_cfg("sd3")
    denoiser = build_backbone(config).denoiser
    denoiser.load_lora_adapter(
        str(folder / "lora"), prefix=None, adapter_name="mine", use_safetensors=True
    )
    settings = denoiser.peft_config["mine"]
    assert (settings.r, settings.lora_alpha) == (4, 8)  # alpha is no rank
    own = dict(student.backbone.denoiser.named_parameters())
    adapters = {n: p for n, p in denoiser.named_parameters() if ".lora_" in n}
    assert len(adapters) == sum(".lora_" in n for n in own)
    for name, parameter in adapters.items():
        assert torch.equal(parameter, own[name.replace(".mine.", ".trace.")])

    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    other = build_backbone(config).denoiser
    weights = load_file(folder / LORA_FILE)
    names = sorted({name.rsplit(".lora_", 1)[0] for name in weights})
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=names), other, "p")
    result = set_peft_model_state_dict(other, weights, adapter_name="p")
    assert result.unexpected_keys == []
    assert not [key for key in result.missing_keys if "lora" in key]


def test_alpha_acts_after_a_round_trip(make_student, student_cfg, tmp_path) -> None:
    found = {}
    for alpha in (2.0, 16.0):
        student = make_student("flux", STUDENT__LORA__ALPHA=alpha)
        save_student(student, tmp_path / "s")
        loaded = load_student(tmp_path / "s", build_backbone(student_cfg("flux")))
        found[alpha] = edges(loaded)
        np.testing.assert_allclose(found[alpha], edges(student), atol=1e-6)
    assert np.abs(found[2.0] - found[16.0]).max() > 1e-5


def test_saving_again_replaces_all_of_it(saved, make_student) -> None:
    _, folder = saved
    (folder / "stray.txt").write_text("x")
    other = make_student("sd3", STUDENT__DECODER__NAME="cnn", STUDENT__LORA__RANK=2)
    save_student(other, folder)
    assert read_description(folder)["decoder"]["name"] == "cnn"
    assert not (folder / "stray.txt").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["student"]


@pytest.mark.parametrize("step", ["write_bytes", "write_json"])
def test_an_interrupted_save_leaves_the_former_student(
    step, saved, make_student, student_cfg, tmp_path, monkeypatch
) -> None:
    student, folder = saved

    def stopped(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(student_loading, step, stopped)
        with pytest.raises(KeyboardInterrupt):
            save_student(make_student("sd3", STUDENT__BLOCKS=[0]), folder)
    loaded = load_student(folder, build_backbone(student_cfg("sd3")))
    np.testing.assert_allclose(edges(loaded), edges(student), atol=1e-5)
    save_student(student, folder)  # what was left over is no hindrance
    assert [p.name for p in tmp_path.iterdir()] == ["student"]


def test_a_save_that_ended_between_its_two_renames_is_found_again(saved, student_cfg) -> None:
    _, folder = saved
    folder.rename(folder.with_name("student.former"))
    shutil.copytree(folder.with_name("student.former"), folder.with_name("student.partial"))
    cfg = student_cfg("sd3", STUDENT__WEIGHTS=str(folder))
    with pytest.raises(FileNotFoundError, match=r"student\.former is the one"):
        student_folder(cfg)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(file, saved, student_cfg) -> None:
    _, folder = saved
    (folder / file).unlink()
    cfg = student_cfg("sd3", STUDENT__WEIGHTS=str(folder))
    with pytest.raises(FileNotFoundError, match=rf"{folder} is no student: it has no {file}"):
        student_folder(cfg)
    with pytest.raises(FileNotFoundError, match=r"MODEL\.TRACE\.STUDENT\.WEIGHTS"):
        build_edge_source(cfg)


def test_no_student_comes_with_most_backbones(student_cfg) -> None:
    with pytest.raises(ValueError, match=r"no distilled student comes with .*train one"):
        student_folder(student_cfg("sd3"))


def change(path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"student\.json is not valid JSON"),
        ("[1, 2]", r"student\.json is damaged"),
        ('{"format": 1}', r"student\.json is damaged \(it has no 'backbone'\)"),
        ('{"images": [], "annotations": []}', r"student\.json is damaged"),
        ('{"format": null}', r"student\.json is damaged"),
    ],
)
def test_damaged_or_foreign_json(text, message, saved, student_cfg) -> None:
    _, folder = saved
    (folder / JSON_NAME).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_student(folder, build_backbone(student_cfg("sd3")))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": 2, "version": "9.1"}, r"format 2, made by trace_d2 9\.1.*install a newer"),
        ({"decoder": {"name": "vit", "settings": {}}}, r"student\.json.*'vit'"),
        ({"decoder": {"name": "cnn", "settings": {"width": 3}}}, r"student\.json.*width"),
        ({"decoder": {"name": "cnn", "settings": {"layers": 10**9}}}, r"student\.json.*layers is"),
        ({"backbone": "sd3"}, r"student\.json is damaged"),
        ({"grid": 4}, r"student\.json is damaged"),
        ({"blocks": [-1]}, r"whole numbers from 0, not \[-1\]"),
    ],
)
def test_entries_that_cannot_be_used(entries, message, saved, student_cfg) -> None:
    _, folder = saved
    change(folder / JSON_NAME, **entries)
    with pytest.raises(ValueError, match=message):
        load_student(folder, build_backbone(student_cfg("sd3")))


def test_another_backbone(saved, student_cfg) -> None:
    _, folder = saved
    backbone = build_backbone(student_cfg("flux"))
    with pytest.raises(
        ValueError,
        match=r"was trained on \S+ \(SD3Transformer2DModel\).*\(FluxTransformer2DModel\): change "
        r"MODEL\.TRACE\.BACKBONE\.NAME or MODEL\.TRACE\.STUDENT\.WEIGHTS",
    ):
        load_student(folder, backbone)
    assert not any("lora" in name for name, _ in backbone.named_parameters())


def test_a_backbone_of_other_width_under_the_same_name(
    saved, student_cfg, tiny_diffusers, tmp_path
) -> None:
    student, folder = saved
    name = student.backbone.name.rsplit("/", 1)[-1]
    tiny_diffusers.save_tiny_pipeline("sd3", tmp_path / "other" / name, num_attention_heads=4)
    backbone = build_backbone(student_cfg("sd3", BACKBONE__NAME=str(tmp_path / "other" / name)))
    with pytest.raises(
        ValueError, match=r"safetensors has an adapter .* another backbone\. Change"
    ):
        load_student(folder, backbone)
    assert not any("lora" in n for n, _ in backbone.named_parameters())


@pytest.mark.parametrize("name", ["cnn", "unet", "mask2former"])
def test_another_grid(name, make_student, student_cfg, tmp_path) -> None:
    save_student(make_student("sd3", STUDENT__DECODER__NAME=name), tmp_path / "s")
    backbone = build_backbone(student_cfg("sd3", BACKBONE__RESOLUTION=64))
    said = r"grid of 4 x 4 tokens.*makes 8 x 8 \(square\): .*RESOLUTION 32"
    with pytest.raises(ValueError, match=said):
        load_student(tmp_path / "s", backbone)


def test_the_relative_decoder_goes_with_another_grid(saved, student_cfg) -> None:
    loaded = load_student(saved[1], build_backbone(student_cfg("sd3", BACKBONE__RESOLUTION=64)))
    assert loaded.grid == (8, 8)
    assert edges(loaded).shape == IMAGE.shape[:2]


@pytest.mark.parametrize("file", [LORA_FILE, DECODER_FILE])
@pytest.mark.parametrize("keep", [0, 4, 100, -20])
def test_truncated_weights(file, keep, saved, student_cfg) -> None:
    _, folder = saved
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:keep])
    with pytest.raises(ValueError, match=rf"{file.rsplit('/')[-1]} ") as caught:
        load_student(folder, build_backbone(student_cfg("sd3")))
    assert str(folder) in str(caught.value)


def test_weights_that_are_not_those_of_the_description(saved, student_cfg) -> None:
    _, folder = saved
    decoder = load_file(folder / DECODER_FILE)
    save_file({**decoder, "more": torch.zeros(1)}, folder / DECODER_FILE)
    with pytest.raises(
        ValueError, match=r"(?s)decoder\.safetensors does not fit its student\.json.*more"
    ):
        load_student(folder, build_backbone(student_cfg("sd3")))
    save_file(decoder, folder / DECODER_FILE)
    save_file({"transformer_blocks.0.lora_A.weight": torch.zeros(4, 4)}, folder / LORA_FILE)
    with pytest.raises(ValueError, match=r"has an adapter transformer_blocks\.0\.lora_A\.weight"):
        load_student(folder, build_backbone(student_cfg("sd3")))


def test_training_goes_on_from_a_folder(saved, student_cfg) -> None:
    student, folder = saved
    cfg = student_cfg("sd3", STUDENT__WEIGHTS=str(folder), STUDENT__GRADIENT_CHECKPOINTING=True)
    again = student_to_train(cfg)
    assert set(again.trainable()) == set(student.trainable())
    for name, parameter in again.trainable().items():
        assert torch.equal(parameter, student.trainable()[name])
    assert again.backbone.denoiser.is_gradient_checkpointing
    np.testing.assert_allclose(edges(again), edges(student), atol=1e-5)
    fresh = student_to_train(student_cfg("sd3"))
    assert not any(p.any() for n, p in fresh.trainable().items() if ".lora_B." in n)


def test_training_does_without_cudnn_attention(saved, student_cfg) -> None:
    for weights in ("", str(saved[1])):
        torch.backends.cuda.enable_cudnn_sdp(True)
        student_to_train(student_cfg("sd3", STUDENT__WEIGHTS=weights))
        assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gradients_on_cuda_are_finite(dtype, checkpointing, student_cfg) -> None:
    keys = {"BACKBONE__DTYPE": dtype, "STUDENT__GRADIENT_CHECKPOINTING": checkpointing}
    student = student_to_train(student_cfg("trace-tiny", DEVICE="cuda", **keys))
    pixels = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    output = student(pixels.cuda())
    (output.logits.square().mean() + output.reconstruction.square().mean()).backward()
    # Parameters of the last layers, which nothing reads, have no gradient.
    gradients = [p.grad for p in student.trainable().values() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_an_offloaded_backbone_takes_a_student(saved, student_cfg) -> None:
    student, folder = saved
    cfg = student_cfg("sd3", STUDENT__WEIGHTS=str(folder), BACKBONE__CPU_OFFLOAD=True)
    source = build_edge_source(cfg)
    for _ in range(2):
        np.testing.assert_allclose(source(IMAGE, "dog").edges, edges(student), atol=1e-3)


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("side", ["both", "A", "B"])
def test_adapters_of_some_layers_alone_are_refused(saved, student_cfg, side, metadata) -> None:
    _, folder = saved
    path = folder / LORA_FILE
    with safe_open(path, "pt") as file:
        noted = file.metadata() if metadata else {"format": "pt"}
    weights = load_file(path)
    layers = sorted({name.partition(".lora_")[0] for name in weights})
    gone = "" if side == "both" else f".lora_{side}"
    kept = {n: t for n, t in weights.items() if not n.startswith(f"{layers[0]}.lora_") or gone}
    if gone:
        kept = {n: t for n, t in weights.items() if not n.startswith(layers[0] + gone)}
    save_file(kept, path, metadata=noted)
    with pytest.raises(ValueError, match=r"pytorch_lora_weights\.safetensors is damaged.*copy it"):
        load_student(folder, build_backbone(student_cfg("sd3")))


@pytest.mark.parametrize("change", ["lacks", "more", "shape"])
def test_a_decoder_that_does_not_fit_is_refused(saved, student_cfg, change) -> None:
    _, folder = saved
    path = folder / DECODER_FILE
    weights = load_file(path)
    name = sorted(weights)[0]
    if change == "lacks":
        del weights[name]
    elif change == "more":
        weights["further.weight"] = torch.ones(2)
    else:
        weights[name] = torch.ones(1)
    save_file(weights, path)
    wanted = "further.weight" if change == "more" else name
    with pytest.raises(ValueError, match=rf"does not fit its student\.json \((.|\n)*{wanted}"):
        load_student(folder, build_backbone(student_cfg("sd3")))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": None},
        {"format": "1"},
        {"backbone": None},
        {"backbone": {"name": 3, "denoiser": "x"}},
        {"grid": [4]},
        {"grid": [4, "4"]},
        {"grid": {"a": 1, "b": 2}},
        {"blocks": ["a"]},
        {"blocks": 3},
        {"resolution": "32"},
        {"decoder": {"name": "relative", "settings": [1]}},
        {"decoder": {"name": "relative", "settings": {"channels": "many"}}},
    ],
)
def test_a_description_with_a_wrong_field_is_refused(saved, student_cfg, changes) -> None:
    _, folder = saved
    path = folder / JSON_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=r"student\.json"):
        load_student(folder, build_backbone(student_cfg("sd3")))
