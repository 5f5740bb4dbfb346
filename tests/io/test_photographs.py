"""Photographs of every depth, frame and size, whole or damaged."""

from __future__ import annotations

import errno
import io
import resource
import struct
import time
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from trace_d2.io.coco_panoptic import read_panoptic_png, write_panoptic_png
from trace_d2.io.images import read_image, read_semantic

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (4, 6, 3), np.uint8)
LEVELS = np.stack([np.arange(24, dtype=np.uint16).reshape(4, 6) * 2849] * 3, axis=2)
LEVELS[0, 0] = (0, 257, 65535)
DAMAGED_EXIF = "its EXIF data are damaged: the image is read as it is stored"


def write_levels(path: Path, levels: np.ndarray) -> Path:
    """16-bit samples, (H, W) or (H, W, 3) RGB."""
    assert cv2.imwrite(str(path), levels if levels.ndim == 2 else levels[..., ::-1])
    return path


def tiff(levels: np.ndarray, bits: int, values: bytes = b"", **tags: int) -> bytes:
    """An uncompressed TIFF; ``tags`` are orientation, photometric, planes, the side of a tile."""
    height, width = levels.shape[:2]
    channels = 1 if levels.ndim == 2 else levels.shape[2]
    planes = tags.get("planes", 1)
    values = values or (levels if planes == 1 else np.moveaxis(levels, 2, 0)).tobytes()
    strips = channels if planes == 2 else 1
    places = [8 + i * len(values) // strips for i in range(strips)]
    content = b"II*\0" + struct.pack("<I", 0) + values
    entries = []

    def entry(tag: int, *numbers: int) -> None:
        nonlocal content
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, content = struct.pack("<I", len(content)), content + packed
        entries.append(struct.pack("<HHI", tag, 4, len(numbers)) + packed)

    side, sizes = tags.get("tile"), [len(values) // strips] * strips
    layout = [(273, *places), (278, height), (279, *sizes)]
    if side:
        layout = [(322, side), (323, side), (324, *places), (325, *sizes)]
    for tag, *numbers in sorted((
        (256, width), (257, height), (258, *[bits] * channels), (259, 1),
        (262, tags.get("photometric", 1 if channels == 1 else 2)),
        (274, tags.get("orientation", 1)), (277, channels), (284, planes), *layout,
    )):  # fmt: skip
        entry(tag, *numbers)
    start = struct.pack("<I", len(content))
    head = content[:4] + start + content[8:]
    return head + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("ending", ["png", "tif", "ppm"])
def test_colour_of_16_bits_is_scaled_as_grey_is(tmp_path: Path, ending: str) -> None:
    photograph = read_image(write_levels(tmp_path / f"a.{ending}", LEVELS))
    assert np.array_equal(photograph.pixels, (LEVELS.astype(np.uint32) * 255 + 32767) // 65535)
    assert photograph.notes == ()


def test_transparency_of_16_bits_is_dropped(tmp_path: Path) -> None:
    with_alpha = np.concatenate([LEVELS[..., ::-1], LEVELS[..., :1] // 2], axis=2)
    assert cv2.imwrite(str(tmp_path / "a.png"), with_alpha)
    write_levels(tmp_path / "b.png", LEVELS)
    with_alpha, without = (read_image(tmp_path / f"{name}.png").pixels for name in "ab")
    assert np.array_equal(with_alpha, without)


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("ending", ["png", "tif", "pgm", "ppm"])
def test_samples_that_were_not_scaled_are_not_nearly_black(
    tmp_path: Path, ending: str, bits: int
) -> None:
    samples = RNG.integers(0, 2**bits, (8, 8, 3)).astype(np.uint16)
    samples[0, 0] = 2**bits - 1
    if ending == "pgm":
        samples = samples[..., 0]
    photograph = read_image(write_levels(tmp_path / f"a.{ending}", samples))
    expected = np.rint(samples * (255 / (2**bits - 1)))
    assert np.array_equal(photograph.pixels, expected if expected.ndim == 3 else _grey(expected))
    highest = 2**bits - 1
    note = f"no sample of the image is above {highest}: read as {bits} bits, not 16"
    assert photograph.notes == (note,)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def test_what_may_be_a_night_is_left_as_it_is_and_noted(tmp_path: Path) -> None:
    samples = np.array([[0, 257, 16383]], np.uint16)
    photograph = read_image(write_levels(tmp_path / "a.png", samples))
    assert photograph.pixels[0, :, 0].tolist() == [0, 1, 64]
    assert "it is dark, or has 14 bits" in photograph.notes[0]
    black = read_image(write_levels(tmp_path / "b.png", np.zeros((2, 2), np.uint16)))
    assert not black.pixels.any()
    assert black.notes == ()


def test_packed_12_bits_are_12_bits_however_dark(tmp_path: Path) -> None:
    samples = np.array([[0, 100, 800, 1000]], np.uint16)
    packed = bytes.fromhex("000064" + "3203e8")
    (tmp_path / "a.tif").write_bytes(tiff(samples, 12, packed))
    photograph = read_image(tmp_path / "a.tif")
    assert photograph.pixels[0, :, 0].tolist() == [0, 6, 50, 62]
    assert photograph.notes == ()


def test_white_is_zero(tmp_path: Path) -> None:
    samples = np.array([[0, 32639, 65535]], np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(samples, 16, photometric=0))
    assert read_image(tmp_path / "a.tif").pixels[0, :, 0].tolist() == [255, 128, 0]


def test_planes_of_16_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(LEVELS, 16, planes=2))
    with pytest.raises(ValueError, match=r"a\.tif .*a plane each: convert it to 8 bits a channel"):
        read_image(tmp_path / "a.tif")


def test_tiff_of_several_pages_and_of_tiles(tmp_path: Path) -> None:
    first = Image.fromarray(RGB)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    photograph = read_image(tmp_path / "a.tif")
    assert np.array_equal(photograph.pixels, RGB)
    assert photograph.notes == ("the TIFF has several pages: the first is read",)
    tile = np.zeros((16, 16, 3), np.uint8)
    tile[:4, :6] = RGB
    (tmp_path / "b.tif").write_bytes(tiff(RGB, 8, tile.tobytes(), tile=16))
    photograph = read_image(tmp_path / "b.tif")
    assert np.array_equal(photograph.pixels, RGB)
    assert photograph.notes == ()


def test_tiff_that_is_not_read_is_told_to_be_converted(tmp_path: Path) -> None:
    values = (RGB / np.float32(255)).tobytes()
    (tmp_path / "a.tif").write_bytes(tiff(RGB, 32, values))
    with pytest.raises(ValueError, match=r"a\.tif .*a TIFF of samples .*: convert it to 8 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_is_turned_once(tmp_path: Path, orientation: int, bits: int) -> None:
    (tmp_path / "a.png").write_bytes(_encoded("PNG", exif=_exif(orientation)))
    samples = RGB if bits == 8 else RGB.astype(np.uint16) * 257
    (tmp_path / "a.tif").write_bytes(tiff(samples, bits, orientation=orientation))
    photograph = read_image(tmp_path / "a.tif")
    assert photograph.orientation == orientation
    assert np.array_equal(photograph.pixels, read_image(tmp_path / "a.png").pixels)


def _exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def _encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_costs_a_note_not_the_photograph(tmp_path: Path, kind: str) -> None:
    options = {} if kind == "JPEG" else {"lossless": True}
    damaged = _encoded(kind, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(9), **options)
    path = tmp_path / "a.img"
    path.write_bytes(damaged)
    photograph = read_image(path)
    assert photograph.notes == (DAMAGED_EXIF,)
    path.write_bytes(_encoded(kind, **options))
    assert np.array_equal(photograph.pixels, read_image(path).pixels)
    assert photograph.orientation == 1


def test_exif_of_no_orientation_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(self: Image.Image) -> Image.Exif:
        raise struct.error("unpack requires a buffer of 4 bytes")

    (tmp_path / "a.jpg").write_bytes(_encoded("JPEG"))
    monkeypatch.setattr(Image.Image, "getexif", damaged)
    assert read_image(tmp_path / "a.jpg").notes == (DAMAGED_EXIF,)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA"])
def test_transparent_pixels_keep_their_colours(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    if mode in ("LA", "PA", "RGBA"):
        image.putalpha(Image.fromarray(np.zeros((4, 6), np.uint8)))
    kind = "tif" if mode == "PA" else "png"
    image.save(tmp_path / f"a.{kind}")
    expected = Image.fromarray(RGB).convert(mode.removesuffix("A")).convert("RGB")
    assert np.array_equal(read_image(tmp_path / f"a.{kind}").pixels, np.asarray(expected))


def test_cmyk_jpeg_without_the_mark_of_adobe_is_noted(tmp_path: Path) -> None:
    flat = Image.new("RGB", (8, 8), (200, 40, 90)).convert("CMYK")
    flat.save(tmp_path / "a.jpg", quality=95)
    marked = (tmp_path / "a.jpg").read_bytes()
    start = marked.index(b"\xff\xee")
    end = start + 2 + int.from_bytes(marked[start + 2 : start + 4], "big")
    (tmp_path / "b.jpg").write_bytes(marked[:start] + marked[end:])
    assert read_image(tmp_path / "a.jpg").notes == ()
    assert "taken to be inverted" in read_image(tmp_path / "b.jpg").notes[0]


def test_a_flipped_bit_of_a_png_photograph_is_seen(tmp_path: Path) -> None:
    content = bytearray(_encoded("PNG"))
    content[content.index(b"IDAT") + 20] ^= 4
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(.*checksum of its part IDAT"):
        read_image(tmp_path / "a.png")


def test_programs_are_not_run_by_images(tmp_path: Path) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\nshowpage\n"
    (tmp_path / "a.png").write_bytes(script)
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(it is of no kind that is known"):
        read_image(tmp_path / "a.png")


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read \(it is empty\): repair"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("error", [struct.error, KeyError, IndexError, MemoryError, OverflowError])
def test_whatever_pillow_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def load(self: Image.Image) -> None:
        raise error

    (tmp_path / "a.jpg").write_bytes(_encoded("JPEG"))
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", load)
    with pytest.raises(ValueError, match=rf"a\.jpg cannot be read \({error.__name__}\): repair"):
        read_image(tmp_path / "a.jpg")


def test_errors_of_the_disk_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: Image.Image) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a.jpg").write_bytes(_encoded("JPEG"))
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", load)
    with pytest.raises(OSError, match="Input/output error"):
        read_image(tmp_path / "a.jpg")


def test_large_images_are_read_whatever_the_limit_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.arange(24, dtype=np.int32).reshape(4, 6)
    write_panoptic_png(tmp_path / "ids.png", ids)
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "mask.png")
    for kind, ending in (("PNG", "png"), ("JPEG", "jpg"), ("BMP", "bmp"), ("TIFF", "tif")):
        (tmp_path / f"a.{ending}").write_bytes(_encoded(kind))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)  # 24 are three times as many
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        assert np.array_equal(read_panoptic_png(tmp_path / "ids.png"), ids)
        assert np.array_equal(read_semantic(tmp_path / "mask.png"), ids)
        for ending in ("png", "bmp", "tif"):
            assert np.array_equal(read_image(tmp_path / f"a.{ending}").pixels, RGB)
        assert read_image(tmp_path / "a.jpg").pixels.shape == RGB.shape
    assert Image.MAX_IMAGE_PIXELS == 7


def bomb(kind: str) -> bytes:
    """A small file that says it is 30,000 x 30,000 pixels."""
    side = 30000
    if kind == "PNG":
        head = b"IHDR" + struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)
        head = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
        return b"\x89PNG\r\n\x1a\n" + head + _encoded("PNG")[33:]
    content = bytearray(_encoded(kind))
    order, place = {
        "JPEG": (">2H", content.find(b"\xff\xc0") + 5),
        "GIF": ("<2H", 6),
        "BMP": ("<2I", 18),
    }[kind]
    struct.pack_into(order, content, place, side, side)
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_small_file_of_any_size_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.img").write_bytes(bomb(kind))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(
        ValueError, match=r"a\.img is 30000x30000 pixels, and more than 268,435,456"
    ):
        read_image(tmp_path / "a.img")
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
