"""Photographs of every kind as RGB of 8 bits, as people see them.

What Pillow leaves to its caller, or does wrong, is done here: PNG is checked whole first, samples
of 16 bits are scaled whether they are grey or not, and no limit of the process is touched, as
sizes are checked by ``check_size``.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from io import BytesIO
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from .json_files import shown
from .limits import check_size
from .png import SIGNATURE, PngFile, read_png, read_png_header
from .remote import InputFile

# In the order in which they are tried, and the module of Pillow that reads them. Others that it
# knows run programs (EPS) or are no photographs.
_FORMATS = {
    "JPEG": "Jpeg",
    "TIFF": "Tiff",
    "WEBP": "WebP",
    "BMP": "Bmp",
    "GIF": "Gif",
    "PPM": "Ppm",
    "JPEG2000": "Jpeg2K",
    "AVIF": "Avif",
}
_NOT_IT = (SyntaxError, IndexError, TypeError, struct.error)  # what plugins raise of other formats
_ORIENTATION, _BITS, _PHOTOMETRIC, _PLANES = 0x0112, 258, 262, 284  # tags
_EMPTY_EXIF = 14  # bytes of data that have no tag
_REMEDY = "repair or replace it, or take it off the list"
_CONVERT = "convert it to 8 bits a channel"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STEPS = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}  # on the way to RGB
_NARROW = (8, 10, 12)  # bits of samples that are often left as they are in 16
_DARK = 14  # bits of samples that may as well be a night
_WORDS = ("RGB", "RGBA")  # modes to which Pillow cuts 16 bits down


@dataclass(frozen=True)
class Photograph:
    """A photograph as people see it.

    Attributes:
        pixels: uint8 (H, W, 3) RGB, turned as the EXIF orientation says.
        orientation: that orientation, 1 (as stored) to 8.
        notes: remarks on how it was read, for the journal.
    """

    path: InputFile
    pixels: np.ndarray
    orientation: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenedImage:
    """A photograph of which only the header was read.

    Attributes:
        size: width and height in pixels, of the photograph as stored.
        read: decodes it. Raises ValueError where it cannot be.
        orientation: tells how it is to be turned, 1 (as stored) to 8. A PNG is read whole for that,
            and raises ValueError where it is damaged.
    """

    size: tuple[int, int]
    read: Callable[[], Photograph]
    orientation: Callable[[], int]

    def seen_size(self) -> tuple[int, int]:
        """Width and height in pixels as people see it; see ``orientation``."""
        return self.size if self.orientation() < 5 else self.size[::-1]


@contextlib.contextmanager
def opened_image(path: InputFile) -> Iterator[OpenedImage]:
    """A photograph, to be read within the block.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none that can be read, or too large.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}: {_REMEDY}")
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) == SIGNATURE:
            header = read_png_header(path, "image", _REMEDY)
            yield OpenedImage(
                header.size, partial(_read_png, path), lambda: _png_orientation(_png(path))[0]
            )
            return
        with _naming(path):
            image = _identified(file, path)
        with image:
            width, height = image.size
            check_size(width, height, path)
            read = partial(_read_other, image, path)
            yield OpenedImage((width, height), read, lambda: _orientation(image)[0])


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """``array`` (H, W, ...) as stored, turned and mirrored as EXIF ``orientation`` 1..8 says."""
    if orientation in (2, 4):
        return array[:, ::-1] if orientation == 2 else array[::-1]
    if orientation in (5, 7):
        transposed = array.swapaxes(0, 1)
        return transposed if orientation == 5 else transposed[::-1, ::-1]
    quarter_turns = {1: 0, 3: 2, 6: 3, 8: 1}
    return np.rot90(array, quarter_turns[orientation])


@contextlib.contextmanager
def _naming(path: InputFile) -> Iterator[None]:
    """Name the file in whatever Pillow raises of a damaged one: it has no error of its own.

    Those of the machine, as a disk that fails, are let through.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = shown(str(error)) or type(error).__name__
        raise ValueError(f"{path} cannot be read ({reason}): {_REMEDY}") from error


def _identified(file: BinaryIO, path: InputFile) -> Any:
    """What ``Image.open`` gives, without the limit on pixels that holds for the whole process."""
    file.seek(0)
    head = file.read(16)
    if not head:
        raise ValueError("it is empty")
    for name, module in _FORMATS.items():
        with contextlib.suppress(ModuleNotFoundError):  # AVIF, in older releases
            import_module(f"PIL.{module}ImagePlugin")
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept is not None and accept(head) is not True):
            continue
        file.seek(0)
        with contextlib.suppress(*_NOT_IT):
            return factory(file, str(path))
    if head.startswith(_TIFF):
        raise ValueError(f"a TIFF of samples or of a packing that is not read: {_CONVERT}")
    raise ValueError("it is of no kind that is known: " + ", ".join(("PNG", *_FORMATS)))


def _read_png(path: InputFile) -> Photograph:
    file = _png(path)
    pixels, notes = _of_opencv(file.decode())
    orientation, remarks = _png_orientation(file)
    return _photograph(path, pixels, orientation, orientation, [*notes, *remarks])


def _png(path: InputFile) -> PngFile:
    return read_png(path, "image", _REMEDY, animated=True)


def _png_orientation(file: PngFile) -> tuple[int, list[str]]:
    """As ``_orientation``."""
    metadata = file.metadata()
    if metadata is None:
        return 1, []
    with _naming(file.path):
        return _orientation(PngImagePlugin.PngImageFile(BytesIO(metadata)))


def _read_other(image: Any, path: InputFile) -> Photograph:
    orientation, notes = _orientation(image)
    if image.mode == "F":
        raise ValueError(f"{path} holds floating-point pixels: {_CONVERT}")
    if image.format == "TIFF" and image.tag_v2.next:
        notes.append("the TIFF has several pages: the first is read")
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        notes.append("a CMYK JPEG without Adobe's mark: it is taken to be inverted, as Adobe's are")
    full = 0
    with _naming(path):
        if _by_opencv(image, path):
            content = np.frombuffer(path.read_bytes(), np.uint8)
            decoded = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
            if decoded is None:
                raise ValueError("its pixels are damaged")
            pixels, remarks = _of_opencv(decoded)
            left = 1 if image.format == "TIFF" else orientation  # OpenCV turns TIFF
        else:
            bits = image.tag_v2.get(_BITS, (0,))[0] if image.format == "TIFF" else 0
            full = 2**bits - 1 if bits in range(9, 16) else 0
            pixels = np.asarray(_loaded(image))
            left, _ = _orientation(image)  # Pillow has turned TIFF by now
            remarks = []
    if image.mode.startswith("I"):
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"{path} has values outside 0..65535: {_CONVERT}")
        pixels, remarks = _scaled(pixels, full)
        if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # white is 0
            pixels = 255 - pixels
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return _photograph(path, pixels, orientation, left, [*notes, *remarks])


def _photograph(
    path: InputFile, pixels: np.ndarray, orientation: int, left: int, notes: list[str]
) -> Photograph:
    """Of ``pixels`` uint8 (H, W, 3) RGB that are still to be turned as ``left`` says."""
    return Photograph(path, np.ascontiguousarray(turned(pixels, left)), orientation, tuple(notes))


def _loaded(image: Any) -> Any:
    """The opened image, decoded: as RGB, or in a mode of whole numbers of more than 8 bits."""
    image.load()
    if image.mode.startswith("I"):
        return image
    # By way of RGBA, else Pillow warns of palettes with transparency.
    if image.mode in _STEPS:
        image = image.convert(_STEPS[image.mode])
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies


def _by_opencv(image: Any, path: InputFile) -> bool:
    """Whether Pillow would cut the samples of the opened image down, or refuse its size."""
    if image.format == "PPM":
        return image.mode == "RGB" and image.tile[0][3] == ("RGB", 65535)
    if image.format != "TIFF":
        return False
    words = image.mode in _WORDS and image.tag_v2.get(_BITS, (8,))[0] == 16
    if words and image.tag_v2.get(_PLANES, 1) != 1:
        raise ValueError(f"16 bits a channel, and a plane each: {_CONVERT}")
    limit = Image.MAX_IMAGE_PIXELS
    large = limit is not None and image.size[0] * image.size[1] > limit
    return words or (large and image.mode in ("L", *_WORDS))


def _of_opencv(decoded: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """uint8 (H, W, 3) RGB of what OpenCV decodes, without transparency, and remarks."""
    colours = decoded[..., :3] if decoded.ndim == 3 else decoded
    notes: list[str] = []
    if colours.dtype == np.uint16:
        colours, notes = _scaled(colours)
    code = cv2.COLOR_BGR2RGB if colours.ndim == 3 else cv2.COLOR_GRAY2RGB
    return cv2.cvtColor(np.ascontiguousarray(colours), code), notes


def _scaled(levels: np.ndarray, full: int = 0) -> tuple[np.ndarray, list[str]]:
    """``levels`` of 0..65535 as uint8, and remarks.

    Args:
        full: the value of white; 0: not said. It is that of the narrowest usual samples that
            ``levels`` fit, as cameras write 12 bits into 16 without scaling them.
    """
    highest, notes = int(levels.max()), []
    if not full and highest:
        bits = next((bits for bits in _NARROW if highest < 2**bits), 16)
        full = 2**bits - 1
        if bits < 16:
            notes.append(f"no sample of the image is above {highest}: read as {bits} bits, not 16")
        elif highest < 2**_DARK:
            notes.append(
                f"no sample of the image is above {highest} of {full}: it is dark, or has "
                f"{_DARK} bits and must be scaled"
            )
    full = max(full, 1)
    table = (np.arange(full + 1) * 255 + full // 2) // full
    return np.take(table.astype(np.uint8), levels), notes


def _orientation(image: Any) -> tuple[int, list[str]]:
    """The orientation 1..8 of an opened image, and remarks."""
    try:
        # Of all kinds alike: PNG has a way of its own, which wants pixels to decode.
        tags = Image.Image.getexif(image)
        written = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
        damaged = not tags and len(written) > _EMPTY_EXIF
    except Exception:  # of any kind, as damage is; the pixels are another matter
        tags, damaged = Image.Exif(), True
    if damaged:
        return 1, ["its EXIF data are damaged: the image is read as it is stored"]
    found = tags.get(_ORIENTATION, 1)
    return (found if found in range(1, 9) else 1), []
