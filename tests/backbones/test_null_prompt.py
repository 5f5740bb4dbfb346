"""The null prompt: what it is, where it is kept, and that the text encoders are gone."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import weakref

import pytest
import torch

from trace_d2.backbones import NullPrompt, null_prompt

ENCODE_ARGUMENTS = {
    "sd15": {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False},
    "sdxl": {"do_classifier_free_guidance": False},
    "pixart": {"do_classifier_free_guidance": False},
    "sd3": {"prompt_2": "", "prompt_3": "", "do_classifier_free_guidance": False},
    "flux": {"prompt_2": ""},
}
# Where encode_prompt returns prompt_embeds and the family's second tensor.
ENCODED = {
    "sd15": {"prompt_embeds": 0},
    "sdxl": {"prompt_embeds": 0, "pooled_prompt_embeds": 2},
    "pixart": {"prompt_embeds": 0, "prompt_attention_mask": 1},
    "sd3": {"prompt_embeds": 0, "pooled_prompt_embeds": 2},
    "flux": {"prompt_embeds": 0, "pooled_prompt_embeds": 1},
}
TOKENS = {"sd15": 77, "sdxl": 77, "pixart": 120, "sd3": 333, "flux": 512}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACE_D2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "null_prompts"


@pytest.fixture
def no_encoding(monkeypatch):
    def refuse(*_):
        raise AssertionError("text encoders were loaded")

    monkeypatch.setattr(null_prompt, "_encode", refuse)


@pytest.fixture
def flux_copy(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder("flux"), tmp_path / "flux")


@pytest.mark.parametrize("family", ENCODED)
def test_it_is_what_the_pipeline_encodes(family, tiny_pipeline, build_tiny, cache):
    pipeline, _ = tiny_pipeline(family)
    with torch.no_grad():
        encoded = pipeline.encode_prompt(prompt="", **ENCODE_ARGUMENTS[family])
    backbone = build_tiny(family)
    for key, place in ENCODED[family].items():
        actual = backbone.null_prompt_tensor(key, 2)
        assert actual.shape[0] == 2
        assert torch.equal(actual[:1], encoded[place])
        assert encoded[place].any()
    assert backbone.null_prompt_tensor("prompt_embeds", 1).shape[1] == TOKENS[family]


@pytest.mark.parametrize("family", ENCODED)
def test_zeros_have_the_shape_of_the_encoded_prompt(family, build_tiny, no_encoding, cache):
    backbone = build_tiny(family, NULL_PROMPT="zeros")
    assert not backbone.null_prompt_tensor("prompt_embeds", 1).any()
    assert backbone.null_prompt_tensor("prompt_embeds", 1).shape[1] == TOKENS[family]
    if family == "pixart":
        assert backbone.null_prompt_tensor("prompt_attention_mask", 1).sum() == 1
    assert not cache.exists()


def test_the_text_encoders_are_gone_afterwards(build_tiny, cache, monkeypatch):
    seen = []
    encode = null_prompt.encode_empty_string

    def watch(pipeline, outputs, device):
        assert pipeline.transformer is None
        assert pipeline.vae is None
        seen.extend(weakref.ref(m) for m in (pipeline.text_encoder, pipeline.text_encoder_2))
        return encode(pipeline, outputs, device)

    monkeypatch.setattr(null_prompt, "encode_empty_string", watch)
    backbone = build_tiny("flux")
    gc.collect()
    assert len(seen) == 2
    assert all(reference() is None for reference in seen)
    assert {type(m).__name__ for m in backbone.children()} == {
        "FluxTransformer2DModel",
        "AutoencoderKL",
    }


def test_the_cache_is_used_instead_of_the_encoders(build_tiny, cache, monkeypatch):
    first = build_tiny("flux").null_prompt_tensor("prompt_embeds", 1)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(null_prompt, "_encode", lambda *_: pytest.fail("encoders were loaded"))
    assert torch.equal(build_tiny("flux").null_prompt_tensor("prompt_embeds", 1), first)


def test_other_text_encoders_are_another_cache_entry(build_tiny, cache, flux_copy, tiny_diffusers):
    first = build_tiny(flux_copy).null_prompt_tensor("prompt_embeds", 1)
    tiny_diffusers.save_tiny_pipeline("flux", flux_copy, seed=1)
    second = build_tiny(flux_copy).null_prompt_tensor("prompt_embeds", 1)
    assert not torch.equal(first, second)
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_cache_file_is_computed_again(build_tiny, cache, caplog):
    first = build_tiny("flux").null_prompt_tensor("prompt_embeds", 1)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-10])
    with caplog.at_level(logging.WARNING):
        second = build_tiny("flux").null_prompt_tensor("prompt_embeds", 1)
    assert torch.equal(first, second)
    assert "not a whole safetensors file" in caplog.text
    assert NullPrompt.load(file).tensors["prompt_embeds"].shape == (1, 512, 16)


def test_an_unwritable_cache_costs_only_the_next_run(build_tiny, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TRACE_D2_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert build_tiny("flux").null_prompt_tensor("prompt_embeds", 1).any()
    assert "set TRACE_D2_CACHE" in caplog.text


def test_a_file_in_the_folder_comes_first(build_tiny, cache, flux_copy, no_encoding):
    own = NullPrompt(
        {"prompt_embeds": torch.full((1, 1, 16), 2.0), "pooled_prompt_embeds": torch.ones(1, 16)}
    )
    own.save(flux_copy / "null_prompt.safetensors")
    backbone = build_tiny(flux_copy)
    assert torch.equal(backbone.null_prompt_tensor("prompt_embeds", 3), torch.full((3, 1, 16), 2.0))
    zeros = build_tiny(flux_copy, NULL_PROMPT="zeros").null_prompt_tensor("prompt_embeds", 1)
    assert torch.equal(zeros, torch.zeros(1, 1, 16))
    assert not cache.exists()


def test_a_file_that_does_not_fit_is_refused(build_tiny, flux_copy):
    path = flux_copy / "null_prompt.safetensors"
    pooled = torch.zeros(1, 16)
    NullPrompt({"prompt_embeds": torch.zeros(1, 1, 15), "pooled_prompt_embeds": pooled}).save(path)
    with pytest.raises(ValueError, match=r"\(1, 1, 15\), the denoiser takes \(1, 1, 16\)"):
        build_tiny(flux_copy)
    NullPrompt({"prompt_embeds": torch.zeros(1, 1, 16)}).save(path)
    with pytest.raises(ValueError, match="pooled_prompt_embeds"):
        build_tiny(flux_copy)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        build_tiny(flux_copy)


def test_without_text_encoders_both_remedies_are_named(build_tiny, flux_copy, cache):
    shutil.rmtree(flux_copy / "text_encoder_2")
    with pytest.raises(FileNotFoundError, match=r"text_encoder_2.*zeros.*null_prompt.safetensors"):
        build_tiny(flux_copy)
    index = json.loads((flux_copy / "model_index.json").read_text())
    index["text_encoder"] = [None, None]
    (flux_copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"text_encoder.*zeros.*null_prompt.safetensors"):
        build_tiny(flux_copy)
    assert build_tiny(flux_copy, NULL_PROMPT="zeros").name == str(flux_copy)


def test_damaged_text_encoders_name_the_remedy(build_tiny, flux_copy, cache):
    path = flux_copy / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"text encoders.*download them again.*zeros"):
        build_tiny(flux_copy)


def test_an_unknown_choice_is_refused(build_tiny):
    with pytest.raises(ValueError, match="NULL_PROMPT must be one of encoded, zeros"):
        build_tiny("flux", NULL_PROMPT="none")


def test_saving_leaves_no_half_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        NullPrompt.zeros({"prompt_embeds": (1, 1, 4)}).save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
