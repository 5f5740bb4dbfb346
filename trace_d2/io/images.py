"""What a label is made from: the photograph, its semantic mask and, where given, its edges.

Labels live in the frame people see: the photograph turned as its EXIF orientation says, which is
also how Detectron2 reads it. A mask or an edge map that fits only the photograph as stored (made
by a tool that ignores EXIF) is turned along with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from trace_d2.io.categories import UNKNOWN, Category
from trace_d2.io.edge_maps import find_edges, quantise_edges, read_edges

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

_EXIF_ORIENTATION = 0x0112
_PNG_BIT_DEPTH = 24  # byte of a PNG file that holds the bits a sample


@dataclass(frozen=True)
class Photograph:
    """A photograph as people see it.

    Attributes:
        pixels: uint8 (H, W, 3) RGB, turned as the EXIF orientation says.
        orientation: that orientation, 1 (as stored) to 8.
    """

    path: Path
    pixels: np.ndarray
    orientation: int


@dataclass(frozen=True)
class Inputs:
    """What every result is made from, in the frame of the photograph.

    Attributes:
        edges: float32 (H, W) in 0..1, or None.
        notes: remarks for the journal.
    """

    photograph: Photograph
    edges: np.ndarray | None
    notes: tuple[str, ...]

    def with_edges(self, edges: np.ndarray) -> Self:
        """The same inputs with ``edges`` float32 (H, W) in 0..1.

        They are rounded to 16 bits, kept or not, so that kept edges give the same labels again.
        Edges of one strength everywhere say nothing, whatever the strength: they become 0.
        """
        if edges.size > 1 and edges.min() == edges.max():
            note = f"the edges are {edges.flat[0]:.3g} everywhere and cut nothing"
            return replace(self, edges=np.zeros_like(edges), notes=(*self.notes, note))
        return replace(self, edges=quantise_edges(edges))

    def with_edge_file(self, path: Path) -> Self:
        """The same inputs with the edges of a file."""
        edges, remarks = fit_to_photograph(read_edges(path), self.photograph, path)
        return replace(self, notes=(*self.notes, *remarks)).with_edges(edges)


@dataclass(frozen=True)
class Sample(Inputs):
    """All that one label is made from, in the frame of the photograph.

    Attributes:
        semantic: uint8 (H, W), category ids, 255 = unknown.
    """

    semantic: np.ndarray


def load_sample(
    image: str | Path,
    semantic: str | Path,
    edges_folder: str | Path | None,
    categories: Sequence[Category],
    categories_name: str,
) -> Sample:
    """Read and check all inputs of one image.

    Args:
        edges_folder: holds ``<stem>.png`` or ``<stem>.npy``; None: no edges.
        categories, categories_name: what the mask may hold, and where they are from, for messages.
    """
    photograph = read_image(image)
    mask = read_semantic(semantic)
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256])  # far faster than numpy's bincount
    strange = set(np.flatnonzero(counts).tolist()) - {UNKNOWN, *(c.id for c in categories)}
    if strange:
        raise ValueError(
            f"{semantic} has class values {sorted(strange)} that the categories "
            f"({categories_name}) lack: add them there, or write {UNKNOWN} where the class is "
            "unknown"
        )
    mask, notes = fit_to_photograph(mask, photograph, semantic)
    if (mask == UNKNOWN).all():
        notes.append("the mask is all unknown: a label without segments")
    sample = Sample(photograph, None, tuple(notes), mask)
    if edges_folder is None:
        return sample
    return sample.with_edge_file(find_edges(edges_folder, Path(image).stem))


@contextlib.contextmanager
def opened_image(path: Path, what: str, remedy: str) -> Iterator[Image.Image]:
    """A file, called ``what`` in messages, opened by Pillow, to be read within the block."""
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}: {remedy}")
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {remedy}") from error


def read_image(path: str | Path) -> Photograph:
    """Read a photograph of any kind that Pillow knows as RGB.

    16-bit samples are scaled to 8 bits, grey becomes three equal channels, CMYK and palettes are
    converted, transparency is dropped (as Detectron2 does), and of several frames the first counts.
    """
    path = Path(path)
    with opened_image(path, "image", "repair or replace it, or take it off the list") as image:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        pixels = _to_rgb(image, path)
    orientation = orientation if orientation in range(1, 9) else 1
    turned = np.ascontiguousarray(_turn(pixels, orientation))
    return Photograph(path, turned, orientation)


def read_semantic(path: str | Path) -> np.ndarray:
    """Category ids uint8 (H, W), 255 = unknown, of an 8-bit grey or palette PNG."""
    path = Path(path)
    with opened_image(path, "semantic mask", "write the mask again") as image:
        pixels = np.array(image)
        mode, kind = image.mode, image.format
    if mode not in ("1", "L", "P"):
        raise ValueError(
            f"{path} is a mask of mode {mode}: save it as an 8-bit palette or grey PNG whose "
            f"pixels are category ids, {UNKNOWN} for unknown"
        )
    if mode == "L" and kind == "PNG":
        # Pillow stretches grey of 2 and 4 bits to 0..255; the ids are the values in the file.
        with open(path, "rb") as file:
            bits = file.read(_PNG_BIT_DEPTH + 1)[-1]
        if bits in (2, 4):
            pixels //= 255 // (2**bits - 1)
    return pixels.astype(np.uint8)


def fit_to_photograph(
    array: np.ndarray, photograph: Photograph, path: str | Path
) -> tuple[np.ndarray, list[str]]:
    """``array`` (H, W) in the frame of the photograph, and remarks on how it got there."""
    height, width = photograph.pixels.shape[:2]
    stored = (width, height) if photograph.orientation >= 5 else (height, width)
    name = Path(path).name
    if array.shape == (height, width):
        if photograph.orientation != 1 and array.shape == stored:
            return array, [f"{name} is taken to be turned already, as the image is seen"]
        return array, []
    if array.shape == stored:
        remark = f"{name} fits the image as stored: turned by EXIF {photograph.orientation}"
        return np.ascontiguousarray(_turn(array, photograph.orientation)), [remark]
    raise ValueError(
        f"{path} is {array.shape[1]}x{array.shape[0]} pixels, but the image {photograph.path} is "
        f"{width}x{height}: make it again at the size of the image"
    )


def _to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    """uint8 (H, W, 3) of an opened image, as stored."""
    if image.mode == "F":
        raise ValueError(f"{path} holds floating-point pixels: convert it to 8 bits a channel")
    if not image.mode.startswith("I"):
        # By way of RGBA, else Pillow warns of palettes with transparency.
        steps = ("RGBA", "RGB") if image.mode == "P" else ("RGB",)
        for mode in steps:
            image = image.convert(mode)
        return np.asarray(image)
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"{path} has values outside 0..65535: convert it to 8 bits a channel")
    grey = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """``array`` (H, W, ...) as stored, turned and mirrored as EXIF ``orientation`` 1..8 says."""
    if orientation in (2, 4):
        return array[:, ::-1] if orientation == 2 else array[::-1]
    if orientation in (5, 7):
        transposed = array.swapaxes(0, 1)
        return transposed if orientation == 5 else transposed[::-1, ::-1]
    quarter_turns = {1: 0, 3: 2, 6: 3, 8: 1}
    return np.rot90(array, quarter_turns[orientation])
