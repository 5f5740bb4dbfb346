"""PNG files, checked whole before a pixel of them counts.

Decoders differ in what they let pass: pixel data of a wrong checksum, rows that are missing, files
of other formats that are named ``.png``. In a mask each of them is other ids without a word. So
the checksum of every chunk is looked at first, and the pixels are decoded by libpng, which misses
no row, from the chunks that hold them alone, so that no colour profile and no gamma changes them.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from .json_files import shown
from .limits import check_size
from .remote import InputFile, input_file

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
"""Colour types."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_MODES = {GREY: "L", RGB: "RGB", PALETTE: "P", GREY_ALPHA: "LA", RGBA: "RGBA"}
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_BITS = {GREY: (1, 2, 4, 8, 16), PALETTE: (1, 2, 4, 8)}  # the others have 8 or 16
_HEAD = struct.Struct(">8sI4s2I5BI")  # up to the end of the first chunk, IHDR
_SIZE_AND_KIND = struct.Struct(">I4s")
_NUMBER = struct.Struct(">I")
_MOST_INFLATED = 1032  # bytes that deflate makes of one
_LARGE = 2**28  # bytes of pixels
_AT_ONCE = 2**20
_SUSPICIOUS = 100  # times as many bytes of pixels as in the file
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_OTHERS = {
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\x93NUMPY": "array of numpy",
    b"PK\x03\x04": "zip archive",
    b"P5": "PGM",
    b"P6": "PPM",
}


@dataclass(frozen=True)
class PngHeader:
    """What a PNG says of itself.

    Attributes:
        width, height: pixels.
        bits: a sample, 1 to 16.
        colour: one of the colour types.
    """

    width: int
    height: int
    bits: int
    colour: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    @property
    def mode(self) -> str:
        """For messages, about as Pillow calls it: ``L``, ``I;16``, ``RGB;16``."""
        if self.colour == GREY and self.bits in (1, 16):
            return "1" if self.bits == 1 else "I;16"
        return _MODES[self.colour] + (";16" if self.bits == 16 else "")


@dataclass(frozen=True)
class PngFile:
    """A PNG whose chunks are whole.

    Attributes:
        chunks: kind and place of each, with its length and checksum.
    """

    path: InputFile
    header: PngHeader
    content: bytes
    chunks: tuple[tuple[bytes, slice], ...]
    remedy: str

    def decode(self) -> np.ndarray:
        """Its (first) picture as OpenCV has it: uint8, or uint16 of 16 bits; transparency is kept.

        (H, W) of grey, scaled to the whole range if it has less than 8 bits; else (H, W, 3) BGR, or
        (H, W, 4) BGRA.
        """
        if all(kind in _PIXELS for kind, _ in self.chunks):
            return self._decode(self.content)
        return self._decode(SIGNATURE + self._joined(_PIXELS))

    def indices(self) -> np.ndarray:
        """The samples uint8 (H, W) of grey or palette as they are in the file, of 1 to 8 bits."""
        content = self.content
        if self.header.colour == PALETTE:
            # Indices lie there as grey does, so let them pass for it.
            head = content[12:25] + bytes([GREY]) + content[26:29]
            rest = self._joined((b"IDAT", b"IEND"))
            checksum = _NUMBER.pack(zlib.crc32(head))
            pixels = self._decode(SIGNATURE + content[8:12] + head + checksum + rest)
        else:
            pixels = self.decode()
        if self.header.bits < 8:
            pixels //= 255 // (2**self.header.bits - 1)
        return pixels

    def metadata(self) -> bytes | None:
        """A PNG without pixels that has what is said of the picture; None if nothing is."""
        if not any(kind in _METADATA for kind, _ in self.chunks):
            return None
        end = struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))
        return SIGNATURE + self._joined((b"IHDR", *_METADATA)) + end

    def _joined(self, kinds: tuple[bytes, ...]) -> bytes:
        return b"".join(self.content[place] for kind, place in self.chunks if kind in kinds)

    def _decode(self, content: bytes) -> np.ndarray:
        try:
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:  # no memory, or beyond OpenCV's own limits
            raise _unreadable(self.path, error.err, self.remedy) from error
        if pixels is None or pixels.shape[:2] != (self.header.height, self.header.width):
            raise _unreadable(self.path, "its pixels are damaged", self.remedy)
        return pixels


def read_png_header(path: str | InputFile, what: str, remedy: str) -> PngHeader:
    """The header of a PNG, called ``what`` in messages; see ``read_png``."""
    path = input_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}: {remedy}")
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
    return _header(head, path, remedy)


def read_png(path: str | InputFile, what: str, remedy: str, animated: bool = False) -> PngFile:
    """A PNG file, called ``what`` in messages, with all its chunks whole.

    Args:
        animated: let one pass that holds several pictures; the first counts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no PNG, damaged or too large; the message ends with the ``remedy``.
    """
    path = input_file(path)
    header = read_png_header(path, what, remedy)
    content = path.read_bytes()
    try:
        chunks = tuple(_walk(content))
        _check_chunks(header, content, chunks, animated)
    except _DamageError as error:
        raise _unreadable(path, str(error), remedy) from None
    return PngFile(path, header, content, chunks, remedy)


class _DamageError(Exception):
    pass


def _unreadable(path: InputFile, reason: str, remedy: str) -> ValueError:
    return ValueError(f"{path} cannot be read ({reason}): {remedy}")


def _header(head: bytes, path: InputFile, remedy: str) -> PngHeader:
    if not head.startswith(SIGNATURE):
        raise _unreadable(path, _what_else(head), remedy)
    if len(head) < _HEAD.size:
        raise _unreadable(path, "it ends in its header", remedy)
    _, length, kind, width, height, bits, colour, packing, filters, interlace, checksum = (
        _HEAD.unpack(head)
    )
    if kind != b"IHDR" or length != 13 or checksum != zlib.crc32(head[12:29]):
        raise _unreadable(path, "its header is damaged", remedy)
    known = colour in _CHANNELS and bits in _BITS.get(colour, (8, 16))
    if not known or packing or filters or interlace > 1:
        raise _unreadable(path, "its header says what no PNG is", remedy)
    check_size(width, height, path)
    return PngHeader(width, height, bits, colour)


def _what_else(head: bytes) -> str:
    if not head:
        return "it is empty"
    name = next((name for start, name in _OTHERS.items() if head.startswith(start)), None)
    if head[8:12] == b"WEBP":
        name = "WebP"
    return f"it is a {name}, not a PNG" if name else "it is not a PNG"


def _walk(content: bytes) -> list[tuple[bytes, slice]]:
    """The chunks up to the end marker; what lies behind it does not count."""
    chunks: list[tuple[bytes, slice]] = []
    view, start = memoryview(content), len(SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        if start + 12 > len(content):
            raise _DamageError("it is cut short: its end marker is missing")
        length, kind = _SIZE_AND_KIND.unpack_from(content, start)
        end = start + 12 + length
        if end > len(content):
            raise _DamageError("it is cut short")
        if zlib.crc32(view[start + 4 : end - 4]) != _NUMBER.unpack_from(content, end - 4)[0]:
            name = shown(kind.decode("latin-1"))
            raise _DamageError(f"it is damaged: the checksum of its part {name} is wrong")
        chunks.append((kind, slice(start, end)))
        start = end
    return chunks


def _check_chunks(
    header: PngHeader, content: bytes, chunks: tuple[tuple[bytes, slice], ...], animated: bool
) -> None:
    view = memoryview(content)
    parts = [view[at.start + 8 : at.stop - 4] for kind, at in chunks if kind == b"IDAT"]
    packed = sum(map(len, parts))
    needed = header.height * ((header.width * header.bits * _CHANNELS[header.colour] + 7) // 8)
    if needed > packed * _MOST_INFLATED or (
        # Before memory is taken for them; others have as many bytes as they say, or about.
        needed > max(_LARGE, packed * _SUSPICIOUS) and _inflated(parts) < needed
    ):
        raise _DamageError("it is cut short: it has too few bytes for its pixels")
    if sum(kind == b"IHDR" for kind, _ in chunks) > 1:
        raise _DamageError("it has two headers")
    if not animated and any(kind == b"acTL" for kind, _ in chunks):
        raise _DamageError("it is an animation of several pictures")


def _inflated(parts: list[memoryview]) -> int:
    """How many bytes the pixel data are, of which no more than a few are held at once."""
    stream, count = zlib.decompressobj(), 0
    try:
        for part in parts:
            left: bytes | memoryview = part
            while left:
                count += len(stream.decompress(left, _AT_ONCE))
                left = stream.unconsumed_tail
    except zlib.error as error:
        raise _DamageError(f"its pixels are damaged: {error}") from error
    return count
