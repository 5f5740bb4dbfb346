"""Images that are made ready ahead and looked at together, by teacher and student."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trace_d2.backbones.backbone import square_layout
from trace_d2.backbones.passes import ImagePasses, ReadyImage, _split, to_host
from trace_d2.edges import EdgeDetector, StudentDetector
from trace_d2.edges.detector import AbdivSettings, EmergenceSettings
from trace_d2.edges.emergence import search_trajectory
from trace_d2.edges.sources import EdgeOutput, FileEdges, OneByOne, batched


def picture(seed: int, height: int = 20, width: int = 28) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


PICTURES = [picture(0), picture(1, 33, 12), picture(2, 12, 33), picture(3), picture(4, 1, 1)]


def counted(source: ImagePasses[EdgeOutput]) -> list[int]:
    """The images of each pass, as they run."""
    passes: list[int] = []
    find = source.find

    def count(images: Sequence[ReadyImage]) -> list[EdgeOutput]:
        passes.append(len(images))
        return find(images)

    source.find = count
    return passes


def ready(source: ImagePasses[EdgeOutput]) -> list[ReadyImage]:
    """The pictures, made ready by another thread."""
    with ThreadPoolExecutor(1) as reader:
        keys = [f"key {rank}" for rank in range(len(PICTURES))]
        return list(reader.map(source.ready, PICTURES, keys))


def compare(source: ImagePasses[EdgeOutput], passes: list[int]) -> None:
    expected = [source(image, f"key {rank}") for rank, image in enumerate(PICTURES)]
    ran = counted(source)
    found = source.detect(ready(source))
    assert ran == passes
    for one, other in zip(found, expected, strict=True):
        assert one.edges.dtype == other.edges.dtype == np.float32
        np.testing.assert_allclose(one.edges, other.edges, atol=1e-4)
        assert one.timestep == other.timestep
        assert one.curve == pytest.approx(other.curve, rel=1e-3, abs=1e-6)
        assert (one.abdiv is None) == (other.abdiv is None)
        if one.abdiv is not None:
            np.testing.assert_allclose(one.abdiv, other.abdiv, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", ["sd15", "pixart", "sd3", "flux"])
def test_the_teacher_finds_in_a_batch_what_it_finds_one_by_one(
    family: str, build_tiny: Callable[..., Any]
) -> None:
    settings = EmergenceSettings(stride=300)
    compare(EdgeDetector(build_tiny(family), settings, batch=3, seed=1), [3, 2])


def test_so_it_does_at_a_fixed_timestep(build_tiny: Callable[..., Any]) -> None:
    settings = EmergenceSettings(fixed_timestep=400, batch=4)
    compare(EdgeDetector(build_tiny("flux"), settings, batch=9), [4, 1])


def test_images_of_one_size_share_a_pass(build_tiny: Callable[..., Any]) -> None:
    backbone = build_tiny("flux", ASPECT="keep")
    compare(EdgeDetector(backbone, EmergenceSettings(stride=500), batch=5), [2, 1, 1, 1])


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_the_student_finds_in_a_batch_what_it_finds_one_by_one(
    family: str, make_student: Callable[..., Any]
) -> None:
    compare(StudentDetector(make_student(family), seed=1, batch=2), [2, 2, 1])


def test_whole_trajectories_fit_into_a_pass_or_images_are_alone(
    build_tiny: Callable[..., Any],
) -> None:
    backbone = build_tiny("sd3")

    def batch(asked: int, maps: int = 1000, **settings: Any) -> int:
        memory_mb = maps * 4 * square_layout(backbone).tokens ** 2 / 2**20
        settings = EmergenceSettings(memory_mb=memory_mb, **settings)
        return EdgeDetector(backbone, settings, batch=asked).batch

    assert batch(0) == 1  # on the CPU
    assert batch(8) == 8
    assert batch(8, maps=40) == 4  # of ten timesteps
    assert batch(8, maps=9) == 1
    assert batch(8, batch=20) == 2
    assert batch(8, maps=5, fixed_timestep=0) == 5


@pytest.mark.parametrize("error", [ValueError("no good"), torch.OutOfMemoryError("too much")])
def test_what_fails_fails_alone(
    error: Exception, build_tiny: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    source = EdgeDetector(build_tiny("flux"), EmergenceSettings(fixed_timestep=0), batch=5)
    expected = [source(image, f"key {rank}").edges for rank, image in enumerate(PICTURES)]
    plain, memory = source.find, isinstance(error, torch.OutOfMemoryError)

    def find(images: Sequence[ReadyImage]) -> list[EdgeOutput]:
        if any(image.size == (33, 12) for image in images) or (memory and len(images) > 1):
            raise error
        return plain(images)

    source.find = find
    with caplog.at_level(logging.INFO):
        found = source.detect(ready(source))
    assert found.pop(1) is error
    del expected[1]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.edges, other, atol=1e-4)
    assert source.batch == (1 if memory else 5)
    assert ("EDGES.BATCH to fewer" if memory else "each has one of its own") in caplog.text


def test_maps_that_are_not_finite_are_said(build_tiny: Callable[..., Any]) -> None:
    source = EdgeDetector(build_tiny("flux"), EmergenceSettings(stride=300), batch=2)
    images = ready(source)[:2]
    images[1].read.noise.fill_(torch.nan)
    first, second = source.detect(images)
    assert first.timestep in (300, 600, 900)
    assert isinstance(second, FloatingPointError)
    assert "timestep 300 or the one before is not finite" in str(second)


def test_any_source_can_be_given_several_images(tmp_path: Any) -> None:
    def source(image: np.ndarray, key: str) -> EdgeOutput:
        if key == "b":
            raise OSError("gone")
        return EdgeOutput(np.zeros(image.shape[:2], np.float32))

    one_by_one = batched(source)
    assert isinstance(one_by_one, OneByOne)
    assert isinstance(batched(FileEdges(tmp_path)), OneByOne)
    images = [one_by_one.ready(picture(0), key) for key in "abc"]
    first, second, third = one_by_one.detect(images)
    assert first.edges.shape == third.edges.shape == (20, 28)
    assert isinstance(second, OSError)
    assert one_by_one(picture(0), "a").edges.shape == (20, 28)


def test_the_search_waits_for_no_number() -> None:
    """On the meta device, where no tensor has one."""

    def read(timesteps: Sequence[int]) -> Tensor:
        return torch.rand(len(timesteps), 6, 6, device="meta")

    attention, changes = search_trajectory(read, range(0, 1000, 100), "kl", 3)
    assert (attention.shape, changes.shape) == ((6, 6), (9,))
    assert attention.device == changes.device == torch.device("meta")


class ReachedError(Exception):
    """The one copy back."""


def copied_back(source: ImagePasses[EdgeOutput]) -> list[tuple[int, ...]]:
    """Shapes of what comes back of the pictures, on the meta device: no number can be read there.

    That it is reached says that nothing before waits for the device.
    """
    copied: list[Tensor] = []

    def stop(tensors: Sequence[Tensor]) -> list[np.ndarray]:
        copied.extend(tensors)
        raise ReachedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trace_d2.edges.detector.to_host", stop)
        with pytest.raises(ReachedError):
            source.find(ready(source))
    assert {tensor.device.type for tensor in copied} == {"meta"}
    return [tuple(tensor.shape) for tensor in copied]


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_the_teachers_way_to_its_results_waits_for_no_number(
    family: str, build_tiny: Callable[..., Any]
) -> None:
    backbone = build_tiny(family).to("meta")
    grid = square_layout(backbone).largest
    source = EdgeDetector(backbone, EmergenceSettings(stride=300), batch=5)
    copied = copied_back(source)
    assert copied[:3] == [(20, 28), grid, (3,)]
    assert len(copied) == 3 * len(PICTURES)


@pytest.mark.parametrize("decoder", ["relative", "cnn"])
def test_the_students_way_to_its_results_waits_for_no_number(
    decoder: str, make_student: Callable[..., Any]
) -> None:
    student = make_student("sd3", STUDENT__DECODER__NAME=decoder).to("meta")
    copied = copied_back(StudentDetector(student, batch=5))
    assert copied == [picture.shape[:2] for picture in PICTURES]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_results_come_back_from_a_gpu_as_they_are() -> None:
    tensors = [torch.rand(3, 5, device="cuda").T, torch.rand(7, device="cuda").double()]
    for array, tensor in zip(to_host(tensors), tensors, strict=True):
        np.testing.assert_array_equal(array, tensor.cpu().numpy())


def test_bytes_become_arrays_again() -> None:
    tensors = [torch.rand(3, 1), torch.rand(5).double(), torch.empty(0), torch.arange(4)]
    joined = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in tensors]).numpy()
    for array, tensor in zip(_split(joined, tensors), tensors, strict=True):
        assert array.dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(array, tensor.numpy())


def test_settings_of_the_teacher_hold_for_batches(build_tiny: Callable[..., Any]) -> None:
    source = EdgeDetector(
        build_tiny("flux"),
        EmergenceSettings(stride=250, metric="jsd"),
        AbdivSettings(8, "upper_band"),
        batch=5,
    )
    compare(source, [5])
