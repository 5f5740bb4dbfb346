"""Edge files: what is written comes back, and what is wrong is named."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from trace_d2.io.edge_maps import (
    check_edges,
    edge_size,
    edge_stems,
    find_edges,
    quantise_edges,
    read_edges,
    read_ternary,
    write_edges,
    write_ternary,
)


def test_a_png_comes_back_as_its_16_bit_rounding(tmp_path: Path) -> None:
    edges = np.random.default_rng(0).random((7, 9), dtype=np.float32)
    write_edges(tmp_path / "a.png", edges)
    back = read_edges(tmp_path / "a.png")
    assert back.dtype == np.float32
    assert np.array_equal(back, quantise_edges(edges))
    assert np.abs(back - edges).max() <= 0.51 / 65535


def test_an_array_comes_back_as_it_was(tmp_path: Path) -> None:
    edges = np.random.default_rng(1).random((3, 5), dtype=np.float32)
    write_edges(tmp_path / "a.npy", edges)
    assert np.array_equal(read_edges(tmp_path / "a.npy"), edges)


@given(hnp.arrays(np.float32, (4, 3), elements=st.floats(0, 1, width=32)))
@settings(max_examples=25, deadline=None)
def test_rounding_twice_changes_nothing(edges: np.ndarray) -> None:
    once = quantise_edges(edges)
    assert np.array_equal(quantise_edges(once), once)


def test_8_and_16_bits_scale_to_the_same_strengths(tmp_path: Path) -> None:
    levels = np.array([[0, 51, 255]], np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "b.png")
    assert np.array_equal(read_edges(tmp_path / "a.png"), np.float32([[0, 0.2, 1]]))
    assert np.array_equal(read_edges(tmp_path / "b.png"), read_edges(tmp_path / "a.png"))
    # Edges of 8 bits keep their strengths when they are rounded to 16.
    every = np.arange(256, dtype=np.float32) / np.float32(255)
    assert np.array_equal(quantise_edges(every), every)


def test_one_bit_and_grey_rgb_are_read(tmp_path: Path) -> None:
    grey = np.array([[0, 255], [255, 0]], np.uint8)
    Image.fromarray(grey).convert("1").save(tmp_path / "bit.png")
    Image.fromarray(grey).convert("RGB").save(tmp_path / "rgb.png")
    for name in ("bit", "rgb"):
        assert np.array_equal(read_edges(tmp_path / f"{name}.png"), np.float32([[0, 1], [1, 0]]))


def test_colour_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is in colour: save"):
        read_edges(tmp_path / "a.png")


@pytest.mark.parametrize("keep", [0, 30, -20])
def test_a_truncated_png_is_refused(tmp_path: Path, keep: int) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue()[:keep])
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(.*\): write it again"):
        read_edges(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.0, np.nan]], "NaN or infinite values in 1 of 2 pixels"),
        ([[0.0, np.inf]], "NaN or infinite"),
        ([[0.0, 255.0]], r"values in 0\.\.255: scale them to 0\.\.1"),
        ([[-0.5, 0.5]], r"values in -0\.5\.\.0\.5"),
        ([0.5, 0.5], r"shape \(H, W\), not \(2,\)"),
    ],
)
def test_bad_arrays_are_named(tmp_path: Path, values: list, message: str) -> None:
    np.save(tmp_path / "a.npy", np.array(values))
    with pytest.raises(ValueError, match=message) as caught:
        read_edges(tmp_path / "a.npy")
    assert str(tmp_path / "a.npy") in str(caught.value)


def test_integers_and_damage_in_npy_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="holds uint8: save"):
        read_edges(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    whole = (tmp_path / "a.npy").read_bytes()
    for content in (b"", whole[:-2], whole + b"\0", b"no array at all"):
        (tmp_path / "b.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"b\.npy is not a readable \.npy"):
            read_edges(tmp_path / "b.npy")


@pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floats_of_every_width_and_order(tmp_path: Path, dtype: str, order: str) -> None:
    edges = np.random.default_rng(0).random((3, 5)).astype(dtype)
    np.save(tmp_path / "a.npy", np.asarray(edges, order=order))
    back = read_edges(tmp_path / "a.npy")
    assert edge_size(tmp_path / "a.npy") == (5, 3)
    assert (back.dtype, back.flags.c_contiguous) == (np.float32, True)
    assert np.array_equal(back, edges.astype(np.float32))


OTHER_ARRAYS = {
    "object": np.array([[None, "x"]], object),
    "complex128": np.zeros((2, 2), complex),
    "bool": np.zeros((2, 2), bool),
    r"\[\('x', '<f4'\)\]": np.zeros((2, 2), [("x", "<f4")]),
}


@pytest.mark.parametrize("name", OTHER_ARRAYS)
def test_arrays_of_other_kinds_are_named(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "a.npy", OTHER_ARRAYS[name], allow_pickle=True)
    for reader in (read_edges, edge_size):
        with pytest.raises(ValueError, match=rf"a\.npy holds {name}: save edge strengths"):
            reader(tmp_path / "a.npy")


def test_an_archive_named_npy_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", edges=np.zeros((2, 2)))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a\.npy is not a readable .*np\.savez.*: write it again"):
        read_edges(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", ["(12000, 12000)", "(2**40, 9)", "(10**6, 10**6)", "(-2, 2)",
                                   "(2, 2, 2)", "()", "(True, 4)", "(((((1,", "'x'"])  # fmt: skip
def test_no_memory_is_taken_for_what_a_header_says(tmp_path: Path, shape: str) -> None:
    shape = str(eval(shape)) if "**" in shape else shape
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    content = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(64)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy"):
        read_edges(tmp_path / "a.npy")


def test_edges_in_the_transparency_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[1, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png holds nothing but transparency: save"):
        read_edges(tmp_path / "a.png")
    pixels[2, :, :3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_edges(tmp_path / "a.png")[2].tolist() == [1] * 4


def test_palettes_of_grey_are_strengths(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255, 51, 51, 51])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_edges(tmp_path / "a.png"), np.float32([[0, 1, 0.2]]))


@pytest.mark.parametrize("reader", [read_edges, read_ternary])
def test_damaged_and_lossy_maps_are_refused(tmp_path: Path, reader: object) -> None:
    write_ternary(tmp_path / "a.png", np.tile(LABELS, (9, 9)))
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[content.index(b"IDAT") + 10] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(it is damaged: the checksum"):
        reader(tmp_path / "a.png")
    Image.new("L", (8, 8)).save(tmp_path / "a.png", "JPEG")
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(it is a JPEG, not a PNG\)"):
        reader(tmp_path / "a.png")


def test_rounding_errors_outside_the_range_are_clipped() -> None:
    clipped = check_edges(np.array([[-1e-6, 1 + 1e-6]]), "here")
    assert clipped.tolist() == [[0.0, 1.0]]


def test_find_edges(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no edge file at .*a\.png \(nor a\.npy\)"):
        find_edges(tmp_path, "a")
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    assert find_edges(tmp_path, "a") == tmp_path / "a.npy"
    write_edges(tmp_path / "a.png", np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"both .*a\.png and a\.npy exist: remove one"):
        find_edges(tmp_path, "a")
    assert edge_stems(tmp_path) == {"a": ["a.npy", "a.png"]}
    (tmp_path / "c.png").touch()
    (tmp_path / "c.PNG").touch()
    if len(list(tmp_path.glob("c.*"))) == 2:  # where the disk tells them apart
        with pytest.raises(ValueError, match=r"c\.PNG and c\.png in .* are of one image"):
            edge_stems(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no edge file at .*b\.png"):
        read_edges(tmp_path / "b.png")


LABELS = np.array([[1, 0, -1], [-1, -1, 0]], np.int8)


def test_pseudo_edges_come_back_as_they_were(tmp_path) -> None:
    write_ternary(tmp_path / "a.png", LABELS)
    pixels = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(pixels, [[255, 0, 128], [128, 128, 0]])
    labels = read_ternary(tmp_path / "a.png")
    assert labels.dtype == np.int8
    np.testing.assert_array_equal(labels, LABELS)


def test_other_labels_are_not_written(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"labels are 1, 0 and -1, not \[2\]"):
        write_ternary(tmp_path / "a.png", LABELS + np.int8(1))
    with pytest.raises(ValueError, match=r"int8 \(H, W\), not int64 of shape \(2, 3\)"):
        write_ternary(tmp_path / "a.png", LABELS.astype(int))
    assert not list(tmp_path.iterdir())


def test_bad_pseudo_edges_are_named(tmp_path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(FileNotFoundError, match=r"no pseudo edges at .*a\.png: make it again"):
        read_ternary(path)
    write_ternary(path, LABELS)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(
        ValueError, match=r"a\.png cannot be read \(it is cut short.*: make it again"
    ):
        read_ternary(path)
    cv2.imwrite(str(path), np.array([[0, 128, 7, 255]], np.uint8))
    with pytest.raises(ValueError, match=r"a\.png has values \[7\], but pseudo edges are 0"):
        read_ternary(path)
    write_edges(path, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"a\.png is of mode I;16, but"):
        read_ternary(path)
    cv2.imwrite(str(path), np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"of mode RGB, but pseudo edges are an 8-bit grey"):
        read_ternary(path)
