"""Calls of the denoiser: ours against those of diffusers' own pipelines, captured as they run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image
from torch import Tensor

from trace_d2.backbones.backbone import resize_image

TEXT_TO_IMAGE = (
    *("sd15", "sd21", "sdxl", "pixart-1024", "pixart-sigma"),
    *("sd3", "sd35-large", "flux", "flux-schnell"),
)
IMAGE_TO_IMAGE = tuple(family for family in TEXT_TO_IMAGE if "pixart" not in family)
GUIDED = tuple(family for family in TEXT_TO_IMAGE if "flux" not in family)
SIZES = ((32, 32), (16, 48))  # height, width in pixels
TOLERANCE = 1e-5


class Call(NamedTuple):
    """One call of a denoiser: its arguments that are tensors, by name, and what it predicted."""

    arguments: dict[str, Tensor]
    prediction: Tensor

    @property
    def latent(self) -> Tensor:
        return self.arguments["sample" if "sample" in self.arguments else "hidden_states"]

    @property
    def timestep(self) -> Tensor:
        return self.arguments["timestep"]


@contextmanager
def captured(denoiser: Any) -> Iterator[list[Call]]:
    """The calls of ``denoiser`` within."""
    calls: list[Call] = []

    def note(module, args, kwargs, output):
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        given.update(given.pop("added_cond_kwargs", None) or {})
        tensors = {name: x.clone() for name, x in given.items() if isinstance(x, Tensor)}
        calls.append(Call(tensors, output[0].clone()))

    handle = denoiser.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def differences(ours: Call, theirs: Call, place: int = 0) -> dict[str, float]:
    """The largest of each argument and of the prediction; of their batch, the one at ``place``."""
    assert ours.arguments.keys() == theirs.arguments.keys()
    pairs = {name: (tensor, theirs.arguments[name]) for name, tensor in ours.arguments.items()}
    found = {}
    for name, (our, their) in {**pairs, "prediction": (ours[1], theirs[1])}.items():
        if our.shape[0] == 1 and their.ndim == our.ndim:
            their = their[place : place + 1]
        assert their.shape in (our.shape, our.shape[1:]), name  # a timestep may have no batch
        found[name] = (our.double() - their.double()).abs().max().item()
    return found


def check(ours: Call, theirs: Call, place: int = 0) -> None:
    assert theirs.prediction.std() > 0.01
    found = differences(ours, theirs, place)
    assert max(found.values()) <= TOLERANCE, found


def run(pipeline: Any, **options: Any) -> list[Call]:
    """The calls of the pipeline's denoiser in a run on the empty prompt."""
    pipeline.set_progress_bar_config(disable=True)
    defaults = {"prompt": "", "guidance_scale": 1.0, "output_type": "latent"}
    if "use_resolution_binning" in inspect.signature(pipeline.__call__).parameters:
        # Else it draws pictures of one of few sizes, and scales them.
        defaults |= {"use_resolution_binning": False, "clean_caption": False}
    denoiser = pipeline.components.get("unet") or pipeline.components["transformer"]
    with captured(denoiser) as calls:
        pipeline(generator=torch.Generator().manual_seed(0), **{**defaults, **options})
    return calls


def our_call(backbone: Any, theirs: Call, size: tuple[int, int]) -> Call:
    """The backbone's call for the latent and the timestep of a pipeline's."""
    latent, timestep = theirs.latent[:1], theirs.timestep.reshape(-1)[:1]
    if isinstance(backbone.denoiser, diffusers.FluxTransformer2DModel):
        latent = FluxPipeline._unpack_latents(latent, *size, backbone.vae_reduction)
        timestep = timestep * 1000
    with captured(backbone.denoiser) as calls, torch.no_grad():
        backbone(latent, timestep)
    (call,) = calls
    return call


@pytest.mark.parametrize("family", TEXT_TO_IMAGE)
def test_text_to_image(family, tiny_pipeline, build_tiny):
    backbone = build_tiny(family)
    for height, width in SIZES:
        calls = run(tiny_pipeline(family)[0], height=height, width=width, num_inference_steps=3)
        assert len({call.timestep.flatten()[0].item() for call in calls}) >= 2
        for theirs in calls:
            check(our_call(backbone, theirs, (height, width)), theirs)


@pytest.mark.parametrize("family", GUIDED)
def test_what_pipelines_guide_away_from(family, tiny_pipeline, build_tiny):
    backbone = build_tiny(family, NULL_PROMPT="pipeline")
    (theirs, *_) = run(
        tiny_pipeline(family)[0],
        prompt="a cat",
        guidance_scale=5.0,
        height=32,
        width=32,
        num_inference_steps=2,
    )
    assert len(theirs.prediction) == 2
    check(our_call(backbone, theirs, (32, 32)), theirs, place=0)
    assert backbone.null_prompt_tensor("prompt_embeds", 1).any() == (family != "sdxl")


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_guidance_that_flux_is_told(guidance, tiny_pipeline, build_tiny):
    backbone = build_tiny("flux", GUIDANCE=guidance)
    options = {"height": 32, "width": 32, "num_inference_steps": 1}
    (theirs,) = run(tiny_pipeline("flux")[0], guidance_scale=guidance, **options)
    ours = our_call(backbone, theirs, (32, 32))
    assert ours.arguments["guidance"].tolist() == [guidance]
    check(ours, theirs)


@pytest.mark.parametrize("family", TEXT_TO_IMAGE)
def test_bfloat16(family, tiny_folder, build_tiny):
    backbone = build_tiny(family, DTYPE="bfloat16")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        tiny_folder(family), dtype=torch.bfloat16
    )
    (*_, theirs) = run(pipeline, height=16, width=48, num_inference_steps=3)
    ours = our_call(backbone, theirs, (16, 48))
    found = differences(ours, theirs)
    # The same numbers in another order of memory are multiplied with other rounding.
    assert found.pop("prediction") <= 0.02 * theirs.prediction.float().abs().max()
    if "flux" in family:  # told in thousandths, which this type rounds
        assert found.pop("timestep") <= 2**-9
    assert max(found.values()) == 0, found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", IMAGE_TO_IMAGE)
def test_image_to_image(family, size, tiny_pipeline, build_tiny, monkeypatch):
    plain, _ = tiny_pipeline(family)
    kind = getattr(diffusers, type(plain).__name__.replace("Pipeline", "Img2ImgPipeline"))
    extra = {"requires_safety_checker": False} if family in ("sd15", "sd21") else {}
    pipeline = kind(**plain.components, **extra)
    backbone = build_tiny(family, ASPECT="keep")
    image = np.random.default_rng(0).integers(0, 256, (2 * size[0], 2 * size[1], 3), np.uint8)
    pixels = backbone.to_pixels(image)
    height, width = pixels.shape[2:]
    assert (height < width) == (size[0] < size[1])
    generator = torch.Generator().manual_seed(1)
    shape = 1, backbone.denoiser_latent_channels, *backbone.latent_size((height, width))
    noise = torch.randn(shape, generator=generator)
    # The posterior's own noise is 0, so that its sample is its mode; then comes that of X_t.
    monkeypatch.setattr(
        "diffusers.models.autoencoders.vae.randn_tensor", lambda shape, **_: torch.zeros(shape)
    )
    monkeypatch.setattr(import_module(kind.__module__), "randn_tensor", lambda *_, **__: noise)
    options: dict[str, Any] = {"image": Image.fromarray(resize_image(image, (height, width)))}
    if "height" in inspect.signature(pipeline.__call__).parameters:  # it resizes by itself
        options = {"image": Image.fromarray(image), "height": height, "width": width}
    (theirs, *_) = run(pipeline, strength=0.6, num_inference_steps=10, **options)
    timestep = theirs.timestep.flatten()[0].item()
    if "flux" in family:
        timestep *= 1000
    assert 300 < timestep < 900
    with captured(backbone.denoiser) as ours, torch.no_grad():
        backbone.run(backbone.prepare(pixels, noise), [timestep])
    check(ours[0], theirs)


@pytest.mark.parametrize("steps", [4, 10])
@pytest.mark.parametrize("family", TEXT_TO_IMAGE)
def test_scheduled_timesteps(family, steps, tiny_pipeline, build_tiny):
    backbone = build_tiny(family)
    height, width = SIZES[1]
    pipeline = tiny_pipeline(family)[0]
    calls = run(pipeline, height=height, width=width, num_inference_steps=steps)
    scale = 1000 if "flux" in family else 1
    visited = sorted({scale * call.timestep.flatten()[0].item() for call in calls})
    found = backbone.scheduled_timesteps(steps, (height, width))
    assert found == pytest.approx(visited, rel=1e-5)
    assert len(found) == steps


def test_flux_shifts_by_the_size_of_the_image(build_tiny):
    backbone = build_tiny("flux")
    small, large = (backbone.scheduled_timesteps(5, (side, side)) for side in (32, 512))
    assert small[-1] == large[-1] == 1000
    assert all(a < b for a, b in zip(small[:-1], large[:-1], strict=True))


def test_a_scheduler_without_timesteps_of_its_own_is_named(build_tiny):
    backbone = build_tiny("flux")
    backbone.scheduler = diffusers.DDPMScheduler()
    with pytest.raises(ValueError, match=r"DDPMScheduler gives no .*EMERGENCE\.SPACING to uniform"):
        backbone.scheduled_timesteps(5, (32, 32))
