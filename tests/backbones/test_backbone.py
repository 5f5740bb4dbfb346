"""Every family, loaded from a folder as a user's would be, against diffusers' own classes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import FluxPipeline
from torch.overrides import TorchFunctionMode

from trace_d2.attention import AttentionLayout
from trace_d2.backbones import BACKBONE_REGISTRY, REGISTERED_MODELS
from trace_d2.backbones.registry import FAMILY_FILES

FAMILIES = ("sd15", "sdxl", "pixart", "sd3", "flux")


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)


@pytest.fixture
def inputs():
    """X_t (3, 4, 8, 8) and three timesteps."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, 4, 8, 8, generator=generator), torch.tensor([0, 500, 999])


def _call_sd15(pipe, noised, timesteps):
    embeds, _ = pipe.encode_prompt("", "cpu", 1, False)
    return pipe.unet(noised, timesteps, embeds.repeat(3, 1, 1)).sample


def _call_sdxl(pipe, noised, timesteps):
    embeds, _, pooled, _ = pipe.encode_prompt("", do_classifier_free_guidance=False)
    time_ids = pipe._get_add_time_ids((32, 32), (0, 0), (32, 32), torch.float32, 16)
    conditions = {"text_embeds": pooled.repeat(3, 1), "time_ids": time_ids.repeat(3, 1)}
    return pipe.unet(noised, timesteps, embeds.repeat(3, 1, 1), added_cond_kwargs=conditions).sample


def _call_pixart(pipe, noised, timesteps):
    embeds, mask, _, _ = pipe.encode_prompt("", do_classifier_free_guidance=False)
    conditions = {"resolution": torch.full((3, 2), 32.0), "aspect_ratio": torch.ones(3, 1)}
    output = pipe.transformer(
        noised,
        encoder_hidden_states=embeds.repeat(3, 1, 1),
        encoder_attention_mask=mask.repeat(3, 1),
        timestep=timesteps,
        added_cond_kwargs=conditions,
    ).sample
    return output.chunk(2, dim=1)[0]


def _call_sd3(pipe, noised, timesteps):
    embeds, _, pooled, _ = pipe.encode_prompt("", "", "", do_classifier_free_guidance=False)
    return pipe.transformer(
        hidden_states=noised,
        timestep=timesteps,
        encoder_hidden_states=embeds.repeat(3, 1, 1),
        pooled_projections=pooled.repeat(3, 1),
    ).sample


def _call_flux(pipe, noised, timesteps):
    embeds, pooled, text_ids = pipe.encode_prompt("", "")
    packed = pipe.transformer(
        hidden_states=FluxPipeline._pack_latents(noised, 3, 4, 8, 8),
        encoder_hidden_states=embeds.repeat(3, 1, 1),
        pooled_projections=pooled.repeat(3, 1),
        timestep=timesteps / 1000,
        img_ids=FluxPipeline._prepare_latent_image_ids(3, 4, 4, "cpu", torch.float32),
        txt_ids=text_ids,
        guidance=torch.ones(3),
    ).sample
    return FluxPipeline._unpack_latents(packed, 16, 16, pipe.vae_scale_factor)


DIRECT_CALLS = {
    "sd15": _call_sd15,
    "sdxl": _call_sdxl,
    "pixart": _call_pixart,
    "sd3": _call_sd3,
    "flux": _call_flux,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_equals_a_direct_call(family, tiny_pipeline, build_tiny, inputs):
    pipeline, _ = tiny_pipeline(family)
    with torch.no_grad():
        expected = DIRECT_CALLS[family](pipeline, *inputs)
        actual = build_tiny(family)(*inputs)
    assert actual.shape == inputs[0].shape
    assert actual.std() > 0.01
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_timesteps_equals_one_by_one(family, build_tiny, inputs):
    backbone = build_tiny(family)
    noised, timesteps = inputs
    with torch.no_grad():
        together = backbone(noised, timesteps)
        apart = [backbone(noised[i : i + 1], timesteps[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_image_to_prediction(family, tiny_pipeline, build_tiny, image):
    vae = tiny_pipeline(family)[0].vae
    backbone = build_tiny(family)
    pixels = backbone.to_pixels(image)
    assert backbone.native_resolution == 32
    assert pixels.shape == (1, 3, 32, 32)
    assert pixels.dtype == torch.float32
    assert -1 <= pixels.min() < -0.5 < 0.5 < pixels.max() <= 1
    latent = backbone.encode(pixels)
    with torch.no_grad():
        mode = vae.encode(pixels).latent_dist.mode()
    shift = {"sd3": 0.06, "flux": 0.1}.get(family, 0.0)
    torch.testing.assert_close(latent, (mode - shift) * 0.5)
    noise = backbone.noise(latent, 0, "000001")
    noised = backbone.add_noise(latent, noise, torch.tensor([100, 400]))
    assert backbone(noised, torch.tensor([100, 400])).shape == (2, *latent.shape[1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16(family, build_tiny, inputs, image):
    exact, rounded = build_tiny(family), build_tiny(family, DTYPE="bfloat16")
    assert rounded.dtype == torch.bfloat16
    pixels = rounded.to_pixels(image)
    latent, expected = rounded.encode(pixels), exact.encode(pixels)
    assert rounded.vae.dtype == torch.bfloat16
    assert latent.dtype == torch.float32
    assert (latent - expected).square().mean() < 1e-3 * expected.var()
    with torch.no_grad():
        actual, expected = rounded(*inputs), exact(*inputs)
    assert actual.dtype == torch.bfloat16
    assert F.cosine_similarity(actual.float().flatten(), expected.flatten(), dim=0) > 0.99


def test_a_vae_that_overflows_in_float16_stays_in_float32(tiny_folder, tmp_path, build_tiny, image):
    """By ``force_upcast`` of its configuration, which is for float16 alone."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("sd15"), folder)
    path = folder / "vae" / "config.json"
    config = json.loads(path.read_text())
    for upcast, dtype in ((True, torch.float32), (False, torch.float16)):
        path.write_text(json.dumps({**config, "force_upcast": upcast}))
        backbone = build_tiny(folder, DTYPE="float16")
        assert backbone.dtype == torch.float16
        assert backbone.vae.dtype == dtype
    assert build_tiny(folder, DTYPE="bfloat16").vae.dtype == torch.bfloat16


class _SequenceLengths(TorchFunctionMode):
    """The lengths of square attention calls."""

    def __init__(self):
        super().__init__()
        self.lengths = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            query, key = (list(args) + [kwargs.get(k) for k in ("query", "key") if k in kwargs])[:2]
            if query.shape[-2] == key.shape[-2]:
                self.lengths.add(query.shape[-2])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("sd15", AttentionLayout(grids=((8, 16), (4, 8), (2, 4)))),
        ("sdxl", AttentionLayout(grids=((4, 8),))),
        ("pixart", AttentionLayout(grids=((4, 8),))),
        ("sd3", AttentionLayout(grids=((4, 8),), text_tokens=333)),
        ("flux", AttentionLayout(grids=((4, 8),), text_tokens=512, text_first=True)),
    ],
)
def test_the_layout_is_what_the_denoiser_computes(family, layout, build_tiny):
    backbone = build_tiny(family)
    latent = torch.zeros(1, 4, 8, 16)
    assert backbone.layout((8 * backbone.vae_reduction, 16 * backbone.vae_reduction)) == layout
    expected = {h * w + layout.text_tokens for h, w in layout.grids}
    if family == "sd3":
        # The dual attention of SD3.5 also runs on the image tokens alone.
        expected |= {h * w for h, w in layout.grids}
    with torch.no_grad(), _SequenceLengths() as seen:
        backbone(latent, torch.tensor([10]))
    assert seen.lengths == expected


def test_keeping_the_aspect_ratio(build_tiny):
    backbone = build_tiny("sd15", ASPECT="keep", RESOLUTION=64)
    assert backbone.size_multiple == 16
    assert backbone.to_pixels(np.zeros((30, 120, 3), np.uint8)).shape == (1, 3, 32, 128)
    assert backbone.to_pixels(np.zeros((1, 1, 3), np.uint8)).shape == (1, 3, 64, 64)
    assert backbone.to_pixels(np.zeros((400, 1, 3), np.uint8)).shape == (1, 3, 128, 32)


def test_wide_latents_run_in_every_family(build_tiny):
    for family in FAMILIES:
        backbone = build_tiny(family, ASPECT="keep")
        latent = backbone.encode(backbone.to_pixels(np.zeros((10, 40, 3), np.uint8)))
        assert latent.shape[3] == 4 * latent.shape[2]
        with torch.no_grad():
            assert backbone(latent, torch.tensor([10])).shape == latent.shape


def test_noise_is_fixed_by_seed_and_key_alone(build_tiny):
    backbone = build_tiny("flux")
    latent = torch.zeros(1, 4, 16, 16)
    first = backbone.noise(latent, 0, "cat")
    torch.manual_seed(99)
    torch.randn(5)
    assert torch.equal(backbone.noise(latent.bfloat16(), 0, "cat"), first)
    assert first.dtype == torch.float32
    assert not torch.equal(backbone.noise(latent, 1, "cat"), first)
    assert not torch.equal(backbone.noise(latent, 0, "dog"), first)
    assert abs(first.mean()) < 0.1
    assert abs(first.std() - 1) < 0.1


def test_add_noise_broadcasts_one_latent_over_timesteps(build_tiny):
    backbone = build_tiny("flux")
    latent, noise = torch.full((1, 4, 2, 2), 2.0), torch.full((1, 4, 2, 2), -1.0)
    noised = backbone.add_noise(latent, noise, torch.tensor([0, 250, 999]))
    torch.testing.assert_close(noised[:, 0, 0, 0], torch.tensor([2.0, 1.25, -0.997]))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_ahead_is_what_would_be_made(family, build_tiny, image):
    backbone = build_tiny(family)
    read = backbone.read(image, (3, "cat"))
    assert read.pixels.dtype == torch.uint8
    assert read.pixels.shape == (32, 32, 3)
    pixels, noise = backbone.place([read])
    assert torch.equal(pixels, backbone.to_pixels(image))
    ahead, made = backbone.prepare(pixels, noise), backbone.prepare(pixels, (3, "cat"))
    assert torch.equal(ahead.latent, made.latent)
    assert torch.equal(ahead.noise, made.noise)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_image_runs_at_every_timestep(family, build_tiny, image):
    backbone = build_tiny(family)
    read = [backbone.read(picture, (0, "a")) for picture in (image, image[::-1], image[:, ::-1])]
    with torch.no_grad():
        together = backbone.run(backbone.prepare(*backbone.place(read)), [0, 500])
        apart = [
            backbone.run(backbone.prepare(*backbone.place([one])), [t])
            for one in read
            for t in (0, 500)
        ]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_pass_waits_for_the_device(family, build_tiny, image):
    """On the meta device no number can be read; constants go there once."""
    backbone = build_tiny(family).to("meta")
    prepared = backbone.prepare(*backbone.place([backbone.read(image, (0, "a"))] * 2))
    first = backbone.run(prepared, [0, 500])
    assert first.device.type == "meta"
    assert len(first) == 4
    backbone.reconstruct(prepared, backbone.run(prepared, [0]))
    kept = dict(backbone._constants)
    for _ in range(2):
        backbone.run(prepared, [0, 500])
        backbone.reconstruct(prepared, backbone.run(prepared, [0]))
    assert backbone._constants == kept


def test_constants_of_inference_serve_training(build_tiny, image):
    backbone = build_tiny("sd15")
    pixels = backbone.to_pixels(image)
    with torch.inference_mode():
        backbone.run(backbone.prepare(pixels, (0, "a")), [0])
    prepared = backbone.prepare(pixels, (0, "a"))
    output = backbone.run(prepared, [0]).requires_grad_()
    _, estimate = backbone.reconstruct(prepared, output)
    estimate.square().mean().backward()
    assert output.grad.any()


def test_gradients_reach_an_adapter_but_no_frozen_weight(build_tiny, inputs):
    from peft import LoraConfig

    backbone = build_tiny("flux")
    backbone.denoiser.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    backbone(*inputs).square().mean().backward()
    grads = {name: p.grad for name, p in backbone.named_parameters() if p.requires_grad}
    assert grads
    assert all("lora" in name and grad.any() for name, grad in grads.items())


def test_latent_statistics_of_a_vae(build_tiny, image):
    backbone = build_tiny("sdxl")
    pixels = backbone.to_pixels(image)
    plain = backbone.encode(pixels)
    backbone.vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[2.0] * 4)
    mean = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    torch.testing.assert_close(backbone.encode(pixels), (plain / 0.5 - mean) * 0.5 / 2.0)


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_cpu_offload_gives_the_same_result(family, build_tiny, image, inputs):
    plain, offloaded = build_tiny(family), build_tiny(family, CPU_OFFLOAD=True)
    pixels = plain.to_pixels(image)
    assert torch.equal(offloaded.encode(pixels), plain.encode(pixels))
    with torch.no_grad():
        assert torch.equal(offloaded(*inputs), plain(*inputs))


@pytest.mark.parametrize("first", ["vae", "denoiser"])
def test_cpu_offload_moves_only_what_runs(first, build_tiny, inputs, image):
    # The meta device stands for an accelerator here: shapes go through, and a move shows.
    backbone = build_tiny("sd15", CPU_OFFLOAD=True)
    backbone._place(torch.device("meta"), "model")
    assert backbone.device.type == "meta"
    assert {p.device.type for p in backbone.parameters()} == {"cpu"}
    if first == "vae":
        backbone.encode(backbone.to_pixels(image))
    else:
        backbone(*inputs)
    where = {"vae": backbone.vae.device.type, "denoiser": backbone.denoiser.device.type}
    assert where.pop(first) == "meta"
    assert set(where.values()) == {"cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_with_and_without_offload(family, build_tiny, inputs, image):
    plain = build_tiny(family)
    pixels = plain.to_pixels(image)
    with torch.no_grad():
        latent, expected = plain.encode(pixels), plain(*inputs)
    for offload in ("model", "none"):
        backbone = build_tiny(family)
        backbone._place(torch.device("cuda"), offload)
        with torch.no_grad():
            torch.testing.assert_close(backbone.encode(pixels).cpu(), latent, atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(backbone(*inputs).cpu(), expected, atol=1e-3, rtol=1e-3)
        assert backbone.vae.device.type == ("cpu" if offload == "model" else "cuda")
        assert backbone.denoiser.device.type == "cuda"


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_to_pixels_refuses_what_is_no_rgb_image(image, build_tiny):
    with pytest.raises(ValueError, match="image"):
        build_tiny("flux").to_pixels(image)


def test_bad_calls_are_refused(build_tiny):
    backbone = build_tiny("flux")
    with pytest.raises(ValueError, match="one entry for each of the 2 latents"):
        backbone(torch.zeros(2, 4, 8, 8), torch.tensor([1]))
    with pytest.raises(ValueError, match="even sides; got 7 x 8"):
        backbone(torch.zeros(1, 4, 7, 8), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"0\.\.1000"):
        backbone.add_noise(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), torch.tensor([1001]))
    with pytest.raises(ValueError, match="ASPECT must be one of square, keep"):
        build_tiny("flux", ASPECT="wide")


def test_registered_models_name_families_that_exist():
    assert {model.family for model in REGISTERED_MODELS.values()} == {
        name for name, _ in BACKBONE_REGISTRY
    }
    resolutions = {
        name: model.native_resolution
        for name, model in REGISTERED_MODELS.items()
        if model.family in FAMILY_FILES
    }
    assert resolutions == {
        "sd15": 512,
        "sdxl": 1024,
        "pixart-alpha": 1024,
        "sd35-medium": 1024,
        "sd35-large": 1024,
        "flux1-dev": 1024,
        "trace-tiny": 128,
    }
