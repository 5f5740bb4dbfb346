"""PNG files: whole ones of every kind, and each way to be damaged."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trace_d2.io.png import GREY, PALETTE, RGB, read_png, read_png_header

NOISE = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG of ``rows``, each with its filter byte, and ``more`` chunks before them."""
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"".join((b"\x89PNG\r\n\x1a\n", head, *more, pixels, chunk(b"IEND")))


def grey(pixels: np.ndarray, *more: bytes) -> bytes:
    rows = np.concatenate((np.zeros((len(pixels), 1), np.uint8), pixels), axis=1)
    return png(pixels.shape[1], pixels.shape[0], 8, GREY, rows.tobytes(), *more)


def read(folder: Path, content: bytes):
    (folder / "a.png").write_bytes(content)
    return read_png(folder / "a.png", "mask", "write it again")


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def test_header_and_pixels(tmp_path: Path) -> None:
    file = read(tmp_path, grey(NOISE))
    assert (file.header.width, file.header.height) == (40, 30)
    assert (file.header.bits, file.header.colour, file.header.mode) == (8, GREY, "L")
    assert file.header == read_png_header(tmp_path / "a.png", "mask", "")
    assert np.array_equal(file.decode(), NOISE)
    assert np.array_equal(file.indices(), NOISE)


def test_rgb_comes_as_bgr(tmp_path: Path) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    file = read(tmp_path, encoded(Image.fromarray(rgb)))
    assert file.header.colour == RGB
    assert np.array_equal(file.decode(), rgb[..., ::-1])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_indices_of_palettes_and_of_packed_grey(tmp_path: Path, bits: int) -> None:
    ids = np.random.default_rng(bits).integers(0, 2**bits, (7, 13)).astype(np.uint8)
    image = Image.fromarray(ids)
    image.putpalette(np.random.default_rng(2).integers(0, 256, 3 * 2**bits).tolist())
    file = read(tmp_path, encoded(image, bits=bits, transparency=0))
    assert (file.header.bits, file.header.colour) == (bits, PALETTE)
    assert np.array_equal(file.indices(), ids)
    wide = np.zeros((7, -(-13 * bits // 8) * 8 // bits), np.uint8)
    wide[:, :13] = ids
    packed = np.packbits(np.unpackbits(wide[..., None], axis=2)[..., 8 - bits :], axis=None)
    rows = np.insert(packed.reshape(7, -1), 0, 0, axis=1).tobytes()
    assert np.array_equal(read(tmp_path, png(13, 7, bits, GREY, rows)).indices(), ids)


def test_profiles_gamma_and_interlace_change_no_pixel(tmp_path: Path) -> None:
    gamma = chunk(b"gAMA", struct.pack(">I", 10000))
    key = chunk(b"tRNS", b"\0\7")
    file = read(tmp_path, grey(NOISE, gamma, key, chunk(b"tEXt", b"Comment\0made here")))
    assert np.array_equal(file.decode(), NOISE)
    assert file.metadata() is not None
    # Adam7 by hand: the seven passes of 8 x 8 pixels.
    square = NOISE[:8, :8]
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    passes = [square[y::dy, x::dx] for y, x, dy, dx in (*starts, (1, 0, 2, 1))]
    rows = b"".join(b"\0" + row.tobytes() for one in passes for row in one)
    head = chunk(b"IHDR", struct.pack(">2I5B", 8, 8, 8, GREY, 0, 0, 1))
    content = png(8, 8, 8, GREY, rows)
    assert np.array_equal(read(tmp_path, content[:8] + head + content[33:]).indices(), square)


def test_every_flipped_bit_is_seen(tmp_path: Path) -> None:
    whole = grey(NOISE[:6, :6] // 64)
    for place in range(len(whole)):
        for bit in range(8):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            with pytest.raises(ValueError, match=r"a\.png (cannot be read|is \d+x\d+ pixels)"):
                read(tmp_path, bytes(content)).decode()


@pytest.mark.parametrize("keep", [0, 7, 20, 33, 60, -1, -12, -20])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(.*\): write it again"):
        read(tmp_path, grey(NOISE)[:keep])


def test_missing_rows_are_refused_though_checksums_are_right(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in NOISE[:20])
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(its pixels are damaged\)"):
        read(tmp_path, png(40, 30, 8, GREY, rows)).indices()


OTHERS = {"JPEG": "JPEG", "WEBP": "WebP", "GIF": "GIF", "BMP": "BMP", "TIFF": "TIFF", "PPM": "PGM"}


@pytest.mark.parametrize(("kind", "name"), OTHERS.items())
def test_other_formats_are_named(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.png cannot be read \(it is a {name}, not a PNG\)"):
        read(tmp_path, encoded(Image.fromarray(NOISE), format=kind))


def test_an_animation_is_refused_where_one_picture_is_meant(tmp_path: Path) -> None:
    frames = [Image.fromarray(NOISE), Image.fromarray(255 - NOISE)]
    content = encoded(frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"a\.png cannot be read \(it is an animation"):
        read(tmp_path, content)
    first = read_png(tmp_path / "a.png", "image", "", animated=True)
    assert np.array_equal(first.decode(), NOISE)


def test_sizes_are_refused_before_pixels_are_decoded(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"a\.png is 30000x30000 pixels, and more than 268,435,456"
    ):
        read(tmp_path, png(30000, 30000, 8, GREY, b""))
    with pytest.raises(ValueError, match="too few bytes for its pixels"):
        read(tmp_path, png(16000, 16000, 8, GREY, b"\0" * 1000))


def test_missing_rows_of_large_pictures_are_found_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trace_d2.io.png._LARGE", 1000)
    rows = bytes(301 * 300)
    assert not read(tmp_path, png(300, 300, 8, GREY, rows)).decode().any()
    with pytest.raises(ValueError, match="too few bytes for its pixels"):
        read(tmp_path, png(300, 301, 8, GREY, rows[:-301]))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no mask at .*b\.png: write it again"):
        read_png(tmp_path / "b.png", "mask", "write it again")
