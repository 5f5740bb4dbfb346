"""The one-pass predictor as a whole."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from trace_d2.backbones.noise_levels import clean_estimate
from trace_d2.edges.abdiv import upsample_edges
from trace_d2.edges.detector import StudentDetector
from trace_d2.edges.student import EdgeStudent

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
TIED = ("CNN", "UNET", "MASK2FORMER")


def inputs(student: EdgeStudent, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    side = student.backbone.resolution
    pixels = torch.rand(batch, 3, side, side, generator=generator) * 2 - 1
    shape = student.backbone.encode(pixels).shape
    return pixels, torch.randn(shape, generator=generator)


@pytest.mark.parametrize("family", ["sd15", "sdxl", "pixart", "sd3", "flux", "trace-tiny"])
@torch.no_grad()
def test_one_pass_at_timestep_zero(family, make_student) -> None:
    student = make_student(family).eval()
    pixels, noise = inputs(student)
    seen = []
    hook = student.backbone.register_forward_pre_hook(lambda _, args: seen.append(args))
    output = student(pixels, noise)
    assert len(seen) == 1
    assert not seen[0][1].any()
    hook.remove()
    assert output.logits.shape == pixels[:, 0].shape
    assert output.logits.dtype == torch.float32
    backbone, zero = student.backbone, torch.zeros(2, dtype=torch.int64)
    assert torch.equal(output.latent, backbone.encode(pixels))
    noised = backbone.add_noise(output.latent, noise, zero)
    expected = clean_estimate(backbone.scheduler, noised, backbone(noised, zero), zero)
    torch.testing.assert_close(output.reconstruction, expected)
    assert output.reconstruction.shape == output.latent.shape
    # Each image by itself; flow matching has no noise at timestep 0.
    alone = student(pixels[1:], noise[1:]).logits
    torch.testing.assert_close(alone, output.logits[1:], rtol=0, atol=1e-3)
    again = student(pixels, -noise).logits
    assert torch.equal(again, output.logits) == (family in ("sd3", "flux", "trace-tiny"))


@torch.no_grad()
def test_an_early_stop_changes_no_edge(make_student) -> None:
    student = make_student("sd3", STUDENT__BLOCKS=[0, 1]).eval()
    pixels, noise = inputs(student)
    whole = student(pixels, noise)
    finished = []
    student.backbone.denoiser.register_forward_hook(lambda *_: finished.append(1))
    early = student(pixels, noise, reconstruct=False)
    assert finished == []
    assert early.reconstruction is None
    assert torch.equal(early.logits, whole.logits)
    student.blocks = ()  # all are read: the pass runs to its end
    assert student(pixels, noise, reconstruct=False).logits.shape == (2, 32, 32)
    assert finished == [1]


@torch.no_grad()
def test_with_gradient_the_edges_are_the_same(make_student) -> None:
    student = make_student("flux").eval()
    pixels, noise = inputs(student)
    plain = student(pixels, noise).logits
    with torch.enable_grad():
        tracked = student(pixels, noise).logits
    assert tracked.requires_grad
    torch.testing.assert_close(tracked, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TIED)
@torch.no_grad()
def test_another_grid_is_refused_by_decoders_of_one(name, make_student) -> None:
    student = make_student("sd15", STUDENT__DECODER__NAME=name.lower()).eval()
    assert student(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 32, 32)
    with pytest.raises(
        ValueError, match=rf"'{name.lower()}' belongs to the grid \(8, 8\).* \(48, 32\).*CROP 0"
    ):
        student(torch.zeros(1, 3, 48, 32))


@torch.no_grad()
def test_the_relative_decoder_takes_other_sizes(make_student) -> None:
    student = make_student("sd15").eval()
    assert student.grid == (8, 8)
    assert student(torch.zeros(1, 3, 48, 32)).logits.shape == (1, 48, 32)


def test_the_state_dict_holds_what_is_trained(make_student) -> None:
    student = make_student("sd3")
    state = student.state_dict()
    assert set(state) == set(student.trainable())
    assert all(".lora_" in name or name.startswith("decoder.") for name in state)
    other = make_student("sd3")
    for parameter in other.trainable().values():
        parameter.data.zero_()
    frozen = {n: p.clone() for n, p in other.named_parameters() if not p.requires_grad}
    result = other.load_state_dict(state)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    for name, parameter in other.trainable().items():
        assert torch.equal(parameter, state[name])
    assert all(torch.equal(dict(other.named_parameters())[n], p) for n, p in frozen.items())
    short = {k: v for k, v in state.items() if "exit.bias" not in k}
    with pytest.raises(RuntimeError, match=r"Missing key.*decoder\.exit\.bias"):
        other.load_state_dict(short)
    wrapped = torch.nn.ModuleDict({"model": other})
    assert set(wrapped.state_dict()) == {f"model.{name}" for name in state}
    wrapped.load_state_dict(wrapped.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*model\.decoder"):
        wrapped.load_state_dict({})


def test_copies_are_apart(make_student) -> None:
    # An average of the weights is a copy of the model.
    student = make_student("pixart")
    twin = copy.deepcopy(student)
    for parameter in twin.trainable().values():
        parameter.data.zero_()
    assert set(twin.state_dict()) == set(student.state_dict())
    assert all(p.any() for n, p in student.trainable().items() if "lora" in n)


def test_the_frozen_part_never_trains(make_student) -> None:
    student = make_student("sd15").train()
    assert student.training
    assert student.decoder.training
    assert not student.backbone.vae.training
    assert {n for n, p in student.named_parameters() if p.requires_grad} == set(student.trainable())
    assert not any("vae" in name for name in student.trainable())


def test_offloading_is_refused_in_training(student_cfg) -> None:
    with pytest.raises(ValueError, match=r"MODEL\.TRACE\.BACKBONE\.CPU_OFFLOAD is for inference"):
        EdgeStudent.from_config(student_cfg("flux", BACKBONE__CPU_OFFLOAD=True))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("STUDENT__DECODER__NAME", "vit", r"MODEL\.TRACE\.STUDENT\.DECODER\.NAME is 'vit'"),
        ("STUDENT__DECODER__RELATIVE__WINDOW", 2, r"DECODER\.RELATIVE: WINDOW is odd"),
        ("STUDENT__LORA__RANK", 0, r"MODEL\.TRACE\.STUDENT\.LORA\.RANK must be 1 or more"),
        ("STUDENT__LORA__ALPHA", -2.0, r"LORA\.ALPHA must be 0 or more, not -2"),
        ("STUDENT__LORA__LAYERS", ["vae"], r"MODEL\.TRACE\.STUDENT\.LORA\.LAYERS"),
        ("STUDENT__BLOCKS", [-1], r"MODEL\.TRACE\.STUDENT\.BLOCKS"),
    ],
)
def test_bad_keys_are_named_when_it_is_built(key, value, message, student_cfg) -> None:
    with pytest.raises(ValueError, match=message):
        EdgeStudent.from_config(student_cfg("flux", **{key: value}))


def test_blocks_that_do_not_exist_are_named_at_the_first_pass(make_student) -> None:
    student = make_student("flux")
    student.blocks = (0, 40)
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"blocks \[40\] do not exist"):
        student(*inputs(student))


def test_alpha_zero_is_the_rank(student_cfg) -> None:
    student = EdgeStudent.from_config(student_cfg("flux", STUDENT__LORA__ALPHA=0.0))
    config = student.backbone.denoiser.peft_config["trace"]
    assert (config.r, config.lora_alpha) == (4, 4)


def test_the_detector_gives_edges_of_the_images_size(make_student) -> None:
    student = make_student("sd15")
    detector = StudentDetector(student, seed=3)
    output = detector(IMAGE, "dog")
    assert (output.edges.shape, output.edges.dtype) == (IMAGE.shape[:2], np.float32)
    assert output.edges.min() >= 0
    assert output.edges.max() <= 1
    assert (output.abdiv, output.timestep, output.curve) == (None, 0, {})
    np.testing.assert_array_equal(detector(IMAGE, "dog").edges, output.edges)
    assert not np.array_equal(detector(IMAGE, "cat").edges, output.edges)
    backbone = student.backbone
    pixels = backbone.to_pixels(IMAGE)
    noise = backbone.noise(backbone.encode(pixels), 3, "dog")
    with torch.no_grad():
        edges = student(pixels, noise).logits[0].sigmoid()
    np.testing.assert_allclose(output.edges, upsample_edges(edges, IMAGE.shape[:2]), atol=1e-6)


def test_the_aspect_may_be_kept(make_student) -> None:
    detector = StudentDetector(make_student("pixart", BACKBONE__ASPECT="keep"))
    assert detector(IMAGE, "a").edges.shape == (40, 56)
    assert detector(IMAGE[:1, :1], "b").edges.shape == (1, 1)


def test_its_gradient_is_the_same_after_edges_were_predicted(make_student) -> None:
    # Training shows sheets of edges in between.
    student = make_student("sd3").train()
    pixels, noise = inputs(student, 1)

    def backward() -> None:
        output = student.train()(pixels, noise)
        (output.logits.sum() + output.reconstruction.sum()).backward()

    backward()
    gradients = [p.grad.clone() for p in student.trainable().values()]
    StudentDetector(student)(IMAGE, "dog")
    student.zero_grad()
    backward()
    for parameter, gradient in zip(student.trainable().values(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
