"""Reading photographs and masks of every kind into one frame."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image, ImageOps

from trace_d2.io.categories import Category, parse_category_lines
from trace_d2.io.images import (
    image_pixels,
    load_sample,
    read_class_mask,
    read_image,
    read_semantic,
)

CATEGORIES = (Category(1, "cat", True, (255, 0, 0)), Category(2, "sky", False, (0, 0, 255)))
RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_rgb_and_rgba_are_the_same_photograph(tmp_path: Path) -> None:
    alpha = np.full((4, 6, 1), 7, np.uint8)
    save(tmp_path / "a.png", RGB)
    save(tmp_path / "b.png", np.concatenate([RGB, alpha], axis=2))
    for name in ("a", "b"):
        pixels = read_image(tmp_path / f"{name}.png").pixels
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, RGB)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    save(tmp_path / "a.png", RGB[..., 0])
    assert np.array_equal(read_image(tmp_path / "a.png").pixels, np.repeat(RGB[..., :1], 3, axis=2))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, ending: str) -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    save(tmp_path / f"a.{ending}", levels)
    pixels = read_image(tmp_path / f"a.{ending}").pixels
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert pixels.shape == (1, 4, 3)


def test_palette_with_transparency_and_cmyk(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(8)
    palette.save(tmp_path / "a.png", transparency=bytes([0] * 8))
    assert np.array_equal(read_image(tmp_path / "a.png").pixels, np.asarray(palette.convert("RGB")))
    flat = np.full((8, 8, 3), (200, 40, 90), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "b.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "b.jpg").pixels.astype(int) - flat).max() <= 6


def test_floating_point_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"a\.tif holds floating-point pixels: convert"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    path = save(tmp_path / "a.png", RGB, exif=exif(orientation))
    photograph = read_image(path)
    assert photograph.orientation == orientation
    with Image.open(path) as image:
        assert np.array_equal(photograph.pixels, np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_truncated_and_unreadable_images(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    whole = save(tmp_path / f"a.{ending}", noise).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not an image"):
        (tmp_path / f"b.{ending}").write_bytes(content)
        with pytest.raises(ValueError, match=rf"b\.{ending} cannot be read .*: repair or replace"):
            read_image(tmp_path / f"b.{ending}")
    with pytest.raises(FileNotFoundError, match=r"no image at .*c\.png"):
        read_image(tmp_path / "c.png")


def test_a_mask_is_read_as_indices(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [3, 254, 255]], np.uint8)
    palette = Image.fromarray(ids)
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    palette.save(tmp_path / "p.png")
    save(tmp_path / "g.png", ids)
    for name in ("p", "g"):
        assert np.array_equal(read_semantic(tmp_path / f"{name}.png"), ids)


@pytest.mark.parametrize(("mode", "bits"), [("P", 1), ("P", 2), ("P", 4)])
def test_a_packed_palette_is_read_as_indices(tmp_path: Path, mode: str, bits: int) -> None:
    ids = np.arange(2**bits, dtype=np.uint8)[None]
    image = Image.fromarray(ids)
    image.putpalette([7] * 3 * 2**bits)
    image.convert(mode).save(tmp_path / "a.png", bits=bits)
    assert np.array_equal(read_semantic(tmp_path / "a.png"), ids)


def test_grey_of_four_bits_is_not_stretched(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    image = Image.fromarray(np.array([[0, 3, 15]], np.uint8))
    image.putpalette([0] * 48)
    image.save(buffer, "PNG", bits=4)
    header, data = palette_to_grey(buffer.getvalue())
    (tmp_path / "a.png").write_bytes(header + data)
    assert read_semantic(tmp_path / "a.png").tolist() == [[0, 3, 15]]


def palette_to_grey(png: bytes) -> tuple[bytes, bytes]:
    """The same samples as a grey PNG: another colour type, no palette."""
    header = png[16:25] + b"\0" + png[26:29]
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return png[:16] + header + checksum, png[png.index(b"IDAT") - 4 :]


def test_masks_in_colour_or_of_16_bits_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", RGB)
    save(tmp_path / "b.png", RGB[..., 0].astype(np.uint16))
    for name, mode in (("a", "RGB"), ("b", "I;16")):
        with pytest.raises(ValueError, match=rf"{name}\.png is a mask of mode {mode}: save it as"):
            read_semantic(tmp_path / f"{name}.png")


def test_masks_of_colours_are_read_by_the_colours_of_the_categories(tmp_path: Path) -> None:
    lines = ["background:0,0,0::", "cup:128,0,0::", "plate 0 128 0"]
    categories = parse_category_lines(lines, "labelmap.txt")
    colours = np.array([[[0, 0, 0], [128, 0, 0], [0, 128, 0], [255, 255, 255], [224, 224, 192]]])
    path = save(tmp_path / "a.png", colours.astype(np.uint8))
    assert read_class_mask(path, categories, "labelmap.txt").tolist() == [[0, 1, 2, 255, 255]]
    clear = np.dstack([colours, [[255, 0, 255, 255, 255]]]).astype(np.uint8)
    path = save(tmp_path / "a.png", clear)
    assert read_class_mask(path, categories, "labelmap.txt").tolist() == [[0, 255, 2, 255, 255]]
    path = save(tmp_path / "a.png", np.array([[[1, 2, 3]]], np.uint8))
    with pytest.raises(ValueError, match=r"colours that no category has \(#010203\): give each"):
        read_class_mask(path, categories, "labelmap.txt")
    path = save(tmp_path / "a.png", np.array([[2, 1]], np.uint8))
    assert read_class_mask(path, categories, "labelmap.txt").tolist() == [[2, 1]]


def test_ids_beyond_a_text_hint_at_a_missing_background(tmp_path: Path) -> None:
    save(tmp_path / "a.png", RGB)
    path = save(tmp_path / "mask.png", np.full((4, 6), 2, np.uint8))
    categories = parse_category_lines(["cup", "plate"], "classes.txt")
    with pytest.raises(ValueError, match="if zero is background, let the first line say so"):
        load_sample(tmp_path / "a.png", path, None, categories, "classes.txt")


def sample_of(folder: Path, mask: np.ndarray, orientation: int = 1, edges: object = None):
    """``load_sample`` of a 4 x 6 (as stored) photograph."""
    save(folder / "a.png", RGB, exif=exif(orientation))
    (folder / "masks").mkdir(exist_ok=True)
    save(folder / "masks/a.png", mask)
    edge_folder = None
    if edges is not None:
        edge_folder = folder / "edges"
        edge_folder.mkdir(exist_ok=True)
        np.save(edge_folder / "a.npy", edges)
    return load_sample(folder / "a.png", folder / "masks/a.png", edge_folder, CATEGORIES, "f.json")


def test_a_mask_of_another_size_names_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"masks/a\.png is 5x4 pixels, .*a\.png is 6x4: make"):
        sample_of(tmp_path, np.ones((4, 5), np.uint8))


def test_edges_of_another_size_name_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.npy is 4x4 pixels, .*a\.png is 6x4"):
        sample_of(tmp_path, np.ones((4, 6), np.uint8), edges=np.zeros((4, 4)))


def test_unknown_class_values_are_named(tmp_path: Path) -> None:
    mask = np.ones((4, 6), np.uint8)
    mask[0, :2] = (9, 77)
    with pytest.raises(ValueError, match=r"a\.png has class values \[9, 77\] .*\(f\.json\) lack"):
        sample_of(tmp_path, mask)


def test_a_mask_in_the_stored_frame_is_turned_along(tmp_path: Path) -> None:
    stored = np.where(np.arange(24).reshape(4, 6) % 5 == 0, 1, 2).astype(np.uint8)
    turned = np.rot90(stored, 3)
    first = sample_of(tmp_path, stored, orientation=6, edges=stored / 2)
    assert first.photograph.pixels.shape == (6, 4, 3)
    assert np.array_equal(first.semantic, turned)
    assert np.array_equal(first.edges > 0.6, turned == 2)
    assert "a.png fits the image as stored: turned by EXIF 6" in first.notes
    second = sample_of(tmp_path, turned, orientation=6)
    assert np.array_equal(second.semantic, turned)
    assert second.notes == ()


def test_a_mask_that_fits_both_frames_is_taken_as_seen(tmp_path: Path) -> None:
    mask = np.where(np.arange(24).reshape(4, 6) < 9, 1, 2).astype(np.uint8)
    sample = sample_of(tmp_path, mask, orientation=3)
    assert np.array_equal(sample.semantic, mask)
    assert sample.notes == ("a.png is taken to be turned already, as the image is seen",)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_constant_edges_cut_nothing_and_are_noted(tmp_path: Path, strength: float) -> None:
    sample = sample_of(tmp_path, np.ones((4, 6), np.uint8), edges=np.full((4, 6), strength))
    assert not sample.edges.any()
    assert sample.notes == (f"the edges are {strength:.3g} everywhere and cut nothing",)


def test_an_all_unknown_mask_is_noted(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, np.full((4, 6), 255, np.uint8))
    assert sample.notes == ("the mask is all unknown (255)",)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP"])
def test_masks_of_other_formats_are_refused_whatever_their_name(tmp_path: Path, kind: str) -> None:
    ids = np.repeat(np.array([[18, 20, 22]], np.uint8), 8, axis=1).repeat(8, axis=0)
    Image.fromarray(ids).save(tmp_path / "a.png", kind)
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(it is a \w+, not a PNG\)"):
        read_semantic(tmp_path / "a.png")


def test_a_flipped_bit_of_a_mask_is_seen(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 3, (40, 50)).astype(np.uint8)
    content = save(tmp_path / "a.png", ids).read_bytes()
    start = content.index(b"IDAT") + 4
    for place in range(start, content.index(b"IEND") - 4, 7):
        damaged = bytearray(content)
        damaged[place] ^= 16
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.png cannot be read .*: write the mask again"):
            read_semantic(tmp_path / "a.png")


def claims(path: Path, side: int) -> Path:
    """A PNG of 4 x 6 pixels that says it has ``side`` x ``side``."""
    content = save(path, RGB[..., 0]).read_bytes()
    head = b"IHDR" + struct.pack(">2I", side, side) + content[24:29]
    checksum = struct.pack(">I", zlib.crc32(head))
    path.write_bytes(content[:12] + head + checksum + content[33:])
    return path


@pytest.mark.parametrize("claimed", ["a.png", "masks/a.png", "edges/a.png"])
def test_sizes_are_compared_before_anything_is_decoded(tmp_path: Path, claimed: str) -> None:
    sample_of(tmp_path, np.ones((4, 6), np.uint8))
    (tmp_path / "edges").mkdir()
    save(tmp_path / "edges/a.png", RGB[..., 0])
    files = [tmp_path / name for name in ("a.png", "masks/a.png", "edges")]
    claims(tmp_path / claimed, 14000)  # not decoded: it would be found to be cut short
    with pytest.raises(ValueError, match=r"is (6x4|14000x14000) pixels, but the image .* is "):
        load_sample(*files, CATEGORIES, "f.json")
    claims(tmp_path / claimed, 30000)
    with pytest.raises(
        ValueError, match=r"a\.png is 30000x30000 pixels, and more than 268,435,456"
    ):
        load_sample(*files, CATEGORIES, "f.json")


@pytest.mark.parametrize("strongest", [1 / 255, 255 / 65535, 2 / 255, 0.0166])
def test_edges_too_faint_to_cut_are_noted(tmp_path: Path, strongest: float) -> None:
    edges = np.zeros((4, 6), np.float32)
    edges[1] = strongest
    sample = sample_of(tmp_path, np.ones((4, 6), np.uint8), edges=edges)
    assert sample.blunt
    assert len(sample.notes) == 1
    assert "and cut nothing: 0/1 masks and 8-bit values in 16-bit files must be" in sample.notes[0]
    edges[1] = 0.02
    sample = sample_of(tmp_path, np.ones((4, 6), np.uint8), edges=edges)
    assert not sample.blunt
    assert sample.notes == ()


def test_edges_that_seem_inverted_are_noted(tmp_path: Path) -> None:
    edges = np.ones((4, 6), np.float32)
    edges[1] = 0
    sample = sample_of(tmp_path, np.ones((4, 6), np.uint8), edges=edges)
    assert sample.notes == ("75% of the pixels are edges: is the map inverted? Edges are bright",)
    assert sample_of(tmp_path, np.ones((4, 6), np.uint8), edges=1 - edges).notes == ()


def test_a_photograph_read_with_a_remark_is_noted(tmp_path: Path) -> None:
    sample_of(tmp_path, np.ones((4, 6), np.uint8))
    save(tmp_path / "a.png", RGB[..., 0].astype(np.uint16))
    sample = load_sample(tmp_path / "a.png", tmp_path / "masks/a.png", None, CATEGORIES, "f.json")
    assert "read as 8 bits, not 16" in sample.notes[0]


def test_masks_of_colours_are_read_band_by_band(tmp_path: Path) -> None:
    categories = parse_category_lines([f"c{n} {40 * n} 0 9" for n in range(6)], "labelmap.txt")
    mask = np.random.default_rng(0).integers(0, 6, (20, 30)).astype(np.uint8)
    colours = np.stack([40 * mask, 0 * mask, 0 * mask + 9], axis=2)
    path = save(tmp_path / "a.png", colours)
    with patch("trace_d2.io.regions._AT_ONCE", 90):
        np.testing.assert_array_equal(read_class_mask(path, categories, "labelmap.txt"), mask)
        colours[0, 0], colours[19, 29] = (1, 3, 9), (1, 2, 9)
        save(path, colours)
        with pytest.raises(ValueError, match="#010209, #010309"):
            read_class_mask(path, categories, "labelmap.txt")


def test_what_an_image_says_of_its_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((3, 5), np.uint8))
    assert image_pixels(path) == 15
    path.write_bytes(b"no image")
    assert image_pixels(path) == image_pixels(tmp_path / "none.png") == 0
