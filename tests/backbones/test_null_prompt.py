"""The null prompt: what it is, where it is kept, and that the text encoders are gone."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

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
    encode = null_prompt.encode_text

    def watch(pipeline, text, outputs, device):
        assert pipeline.transformer is None
        assert pipeline.vae is None
        seen.extend(weakref.ref(m) for m in (pipeline.text_encoder, pipeline.text_encoder_2))
        return encode(pipeline, text, outputs, device)

    monkeypatch.setattr(null_prompt, "encode_text", watch)
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
    with pytest.raises(ValueError, match=r"text encoders.*download the model again.*zeros"):
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


# ---- strictness --------------------------------------------------------------------------------


def _edit_weights(folder, part, change):
    path = next((folder / part).glob("*model.safetensors"))
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def _lack_half(weights):
    for name in sorted(weights)[::2]:
        del weights[name]


def _lack_one(weights):
    del weights[
        next(n for n in weights if n.endswith(("fc1.weight", ".wi_0.weight", ".wi.weight")))
    ]


def _hold_more(weights):
    name = next(n for n in weights if ".0." in n)
    weights[name.replace(".0.", ".7.")] = torch.ones(3)


def _other_shape(weights):
    name = next(n for n in weights if ".0." in n and weights[n].ndim == 2)
    weights[name] = weights[name][:, :-1].contiguous()


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_lack_half, r"lack \d+ of the model's tensors \(.*, \.\.\.\)"),
        (_lack_one, r"lack 1 of the model's tensors \(.*weight\)"),
        (_hold_more, r"hold 1 tensors that the model does not have \(.*\.7\."),
        (_other_shape, r"have 1 tensors of another shape than the model's \(.*weight\)"),
    ],
)
def test_text_encoders_are_loaded_as_strictly_as_the_denoiser(
    part, change, message, build_tiny, flux_copy, cache
):
    _edit_weights(flux_copy, part, change)
    with pytest.raises(ValueError, match=rf"{part}\b.*{message}"):
        build_tiny(flux_copy)
    assert not cache.exists()
    assert build_tiny(flux_copy, NULL_PROMPT="zeros").name == str(flux_copy)


@pytest.mark.parametrize("name", ["encoder.embed_tokens.weight", "shared.weight"])
def test_tied_weights_need_to_be_there_once(name, build_tiny, flux_copy, cache):
    expected = build_tiny("flux").null_prompt_tensor("prompt_embeds", 1)

    def tie(weights):
        kept = weights.pop("encoder.embed_tokens.weight", None)
        kept = weights.pop("shared.weight", kept)
        weights[name] = kept

    _edit_weights(flux_copy, "text_encoder_2", tie)
    assert torch.equal(build_tiny(flux_copy).null_prompt_tensor("prompt_embeds", 1), expected)


def test_other_halves_of_a_model_are_harmless(build_tiny, flux_copy, cache):
    def add(weights):
        prefix = "text_model." if any(n.startswith("text_model.") for n in weights) else ""
        weights[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
        weights["vision_model.embeddings.class_embedding"] = torch.ones(3)

    _edit_weights(flux_copy, "text_encoder", add)
    assert build_tiny(flux_copy).null_prompt_tensor("prompt_embeds", 1).any()


def test_an_embedding_that_is_no_number_is_not_kept(build_tiny, flux_copy, cache):
    def overflow(weights):
        weights["shared.weight"] = torch.full_like(weights["shared.weight"], torch.nan)

    _edit_weights(flux_copy, "text_encoder_2", overflow)
    with pytest.raises(ValueError, match=r"prompt_embeds .* no numbers: .*DTYPE to bfloat16"):
        build_tiny(flux_copy)
    assert not cache.exists()


def test_an_unknown_class_of_text_encoder_is_named(build_tiny, flux_copy, cache):
    path = flux_copy / "model_index.json"
    index = json.loads(path.read_text())
    index["text_encoder_2"] = ["transformers", "NoSuchEncoder"]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"has no NoSuchEncoder, its text_encoder_2.*zeros"):
        build_tiny(flux_copy)


# ---- the cache ---------------------------------------------------------------------------------


def test_files_of_the_cache_follow_the_umask(build_tiny, cache):
    for mask in (0o022, 0o002, 0o077):
        shutil.rmtree(cache, ignore_errors=True)
        before = os.umask(mask)
        try:
            build_tiny("flux")
        finally:
            os.umask(before)
        (file,) = cache.iterdir()
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_cache_that_cannot_be_read_is_made_again(build_tiny, cache, monkeypatch, caplog):
    first = build_tiny("flux").null_prompt_tensor("prompt_embeds", 1)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(NullPrompt, "load", refuse)
    with caplog.at_level(logging.WARNING):
        second = build_tiny("flux").null_prompt_tensor("prompt_embeds", 1)
    assert torch.equal(first, second)
    assert "computing the null prompt again: [Errno 13] Permission denied" in caplog.text


def test_a_cache_of_another_shape_is_made_again(build_tiny, cache, caplog):
    first = build_tiny("flux").null_prompt_tensor("prompt_embeds", 1)
    (file,) = cache.iterdir()
    for tensors in (
        {"prompt_embeds": torch.ones(3)},
        {"prompt_embeds": torch.tensor(1.0)},
        {"other": torch.ones(1)},
        {k: torch.full_like(t, torch.nan) for k, t in NullPrompt.load(file).tensors.items()},
    ):
        save_file(tensors, file)
        assert torch.equal(build_tiny("flux").null_prompt_tensor("prompt_embeds", 1), first)
    assert caplog.text.count("computing the null prompt again") == 4


def test_a_changed_text_encoder_is_another_cache_entry(build_tiny, cache, flux_copy):
    build_tiny(flux_copy)
    path = flux_copy / "text_encoder_2" / "model.safetensors"
    status = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    (flux_copy / "text_encoder" / "folder").mkdir()  # folders in it are no reason to fail
    build_tiny(flux_copy)
    build_tiny(flux_copy, DTYPE="bfloat16")
    assert len(list(cache.iterdir())) == 3


# ---- what the encoders need --------------------------------------------------------------------


def test_text_encoders_that_do_not_fit_the_device_run_on_the_cpu(
    build_tiny, cache, monkeypatch, caplog
):
    encode, devices = null_prompt.encode_text, []

    def full(pipeline, text, outputs, device):
        devices.append(str(device))
        if len(devices) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(pipeline, text, outputs, device)

    monkeypatch.setattr(null_prompt, "encode_text", full)
    backbone = build_tiny("sd3")
    assert devices == ["cpu", "cpu"]
    assert "has no room for the text encoders: they run on the CPU" in caplog.text
    monkeypatch.undo()
    expected = build_tiny("sd3").null_prompt_tensor("prompt_embeds", 1)
    assert torch.equal(backbone.null_prompt_tensor("prompt_embeds", 1), expected)
