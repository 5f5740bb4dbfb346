"""What a label is made from: the photograph, its semantic mask and, where given, its edges.

Labels live in the frame people see: the photograph turned as its EXIF orientation says, which is
also how Detectron2 reads it. A mask or an edge map that fits only the photograph as stored (made
by a tool that ignores EXIF) is turned along with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from trace_d2.io.categories import TEXT_SUFFIXES, UNKNOWN, Category
from trace_d2.io.edge_maps import (
    FAINT,
    edge_remarks,
    edge_size,
    find_edges,
    quantise_edges,
    read_edges,
)
from trace_d2.io.listing import spread
from trace_d2.io.photographs import Photograph, opened_image, turned
from trace_d2.io.png import GREY, PALETTE, read_png, read_png_header
from trace_d2.io.regions import row_bands
from trace_d2.io.remote import InputFile, fetch_together, input_file
from trace_d2.io.score_stacks import SCORE_SUFFIXES, fit_scores, labels_of_scores, read_scores

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

_MASKS_LOOKED_AT = 16
_WRITE_AGAIN = "write the mask again"
_VOID = (0xFFFFFF, 0xE0E0C0)  # white, and the cream of VOC: unknown, in masks of colours
_TRANSPARENT = -1


@dataclass(frozen=True)
class Inputs:
    """What every result is made from, in the frame of the photograph.

    Attributes:
        edges: float32 (H, W) in 0..1, or None.
        notes: remarks for the journal.
        made: the result, where a network had to see one before; else None.
        before: the result that it saw, where that is to be shown.
    """

    photograph: Photograph
    edges: np.ndarray | None
    notes: tuple[str, ...]
    made: Any = field(default=None, kw_only=True)
    before: Any = field(default=None, kw_only=True)

    def with_edges(self, edges: np.ndarray) -> Self:
        """The same inputs with ``edges`` float32 (H, W) in 0..1.

        They are rounded to 16 bits, kept or not, so that kept edges give the same labels again.
        Edges of one strength everywhere say nothing, whatever the strength: they become 0.
        """
        inputs = replace(self, notes=(*self.notes, *edge_remarks(edges)))
        if edges.size > 1 and edges.min() == edges.max():
            return replace(inputs, edges=np.zeros_like(edges))
        return replace(inputs, edges=quantise_edges(edges))

    def with_edge_file(self, path: InputFile) -> Self:
        """The same inputs with the edges of a file."""
        edges, remarks = fit_to_photograph(read_edges(path), self.photograph, path)
        return replace(self, notes=(*self.notes, *remarks)).with_edges(edges)

    @property
    def blunt(self) -> bool:
        """Whether there are edges, and all are too weak to cut anything of their own."""
        return self.edges is not None and float(self.edges.max()) < FAINT


class UnknownClassError(ValueError):
    """A semantic mask has values or colours that no category has."""


@dataclass(frozen=True)
class Sample(Inputs):
    """All that one label is made from, in the frame of the photograph.

    Attributes:
        semantic: uint8 (H, W), category ids, 255 = unknown.
        scores: floating (C, H', W') in the order of the categories, whose greatest the mask is;
            None where the mask was given.
    """

    semantic: np.ndarray
    scores: np.ndarray | None = field(default=None, kw_only=True)


def load_sample(
    image: str | InputFile,
    semantic: str | InputFile,
    edges: str | InputFile | None,
    categories: Sequence[Category],
    categories_name: str,
) -> Sample:
    """Read and check all inputs of one image.

    Args:
        semantic: a file of a mask, or of scores (``score_stacks``).
        edges: a file of edges, or the folder that holds ``<stem>.png`` or ``<stem>.npy``; None: no
            edges.
        categories, categories_name: what the mask may hold, and where they are from, for messages.
    """
    image, semantic = input_file(image), input_file(semantic)
    if edges is not None:
        edges = input_file(edges)
        if isinstance(edges, Path) and edges.is_dir():
            edges = find_edges(edges, image.stem)
    masks = [] if semantic.suffix.lower() in SCORE_SUFFIXES else [semantic]
    photograph = read_image(image, masks if edges is None else [*masks, edges])
    scores = None
    if masks:
        mask = read_known_mask(semantic, categories, categories_name)
        mask, remarks = fit_to_photograph(mask, photograph, semantic)
    else:
        scores = read_scores(semantic, len(categories))
        scores, remarks = fit_scores(scores, photograph, semantic)
        ids = [category.id for category in categories]
        mask = labels_of_scores(scores, ids, photograph.pixels.shape[:2])
    notes = [*photograph.notes, *remarks]
    if (mask == UNKNOWN).all():
        notes.append("the mask is all unknown (255)")
    sample = Sample(photograph, None, tuple(notes), mask, scores=scores)
    return sample if edges is None else sample.with_edge_file(edges)


def read_known_mask(
    path: str | InputFile, categories: Sequence[Category], categories_name: str
) -> np.ndarray:
    """As ``read_class_mask``; an UnknownClassError for values that no category has as its id."""
    mask = read_class_mask(path, categories, categories_name)
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256])  # far faster than numpy's bincount
    strange = set(np.flatnonzero(counts).tolist()) - {UNKNOWN, *(c.id for c in categories)}
    if strange:
        raise UnknownClassError(
            f"{path} has class values {sorted(strange)} that the categories "
            f"({categories_name}) lack: add them there, or write {UNKNOWN} where the class is "
            f"unknown{_counted_from(categories_name)}"
        )
    return mask


def check_masks(
    paths: Sequence[InputFile], categories: Sequence[Category], categories_name: str
) -> None:
    """Raise an UnknownClassError if most of some masks, from all over ``paths``, are of others.

    What else is wrong with one is told when its turn comes.
    """
    looked_at, strange = spread(paths, _MASKS_LOOKED_AT), []
    for path in looked_at:
        try:
            read_known_mask(path, categories, categories_name)
        except UnknownClassError as error:
            strange.append(error)
        except (OSError, ValueError):
            continue
    if len(strange) > max(2, len(looked_at) / 2):
        raise UnknownClassError(
            f"{len(strange)} of {len(looked_at)} semantic masks looked at are of other categories: "
            f"{strange[0]}"
        )


def read_image(path: str | InputFile, beside: Iterable[str | InputFile] = ()) -> Photograph:
    """Read a photograph of any usual kind as RGB.

    16-bit samples are scaled to 8 bits, grey becomes three equal channels, CMYK and palettes are
    converted, transparency is dropped (as Detectron2 does), and of several frames the first counts.

    Args:
        beside: masks and edges of it, PNG or ``.npy``. What they say of their size is compared
            before anything is decoded: a small file may claim any size.
    """
    path, others = input_file(path), list(map(input_file, beside))
    fetch_together([path, *others])
    with opened_image(path) as opened:
        for other in others:
            if other.is_file():  # else its own reader says what is missing
                size = edge_size(other) if other.suffix.lower() == ".npy" else _png_size(other)
                check_fit(size, opened.size, other, path)
        return opened.read()


def image_pixels(path: InputFile) -> int:
    """How many pixels an image of this machine says it has; 0 where that is not known."""
    if not isinstance(path, Path):
        return 0
    try:
        with opened_image(path) as opened:
            return opened.size[0] * opened.size[1]
    except (OSError, ValueError):  # which its reader will tell
        return 0


def read_class_mask(
    path: str | InputFile, categories: Sequence[Category], categories_name: str
) -> np.ndarray:
    """As ``read_semantic``, and of an RGB or RGBA PNG whose pixels have the categories' colours.

    White and VOC's cream (224, 224, 192) that no category has, and what is wholly transparent, are
    unknown.

    Raises:
        ValueError: as ``read_semantic``, or a pixel has a colour that no category has.
    """
    path = input_file(path)
    if read_png_header(path, "semantic mask", _WRITE_AGAIN).mode not in ("RGB", "RGBA"):
        return read_semantic(path)
    pixels = read_png(path, "semantic mask", _WRITE_AGAIN).decode()
    ids_of = dict.fromkeys(_VOID, UNKNOWN) | {_TRANSPARENT: UNKNOWN}
    ids_of |= {int.from_bytes(bytes(c.color), "big"): c.id for c in categories}
    mask, unknown = np.empty(pixels.shape[:2], np.uint8), set[int]()
    for rows in row_bands(mask.shape):
        codes = pixels[rows, :, 2::-1].astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        if pixels.shape[2] == 4:
            codes[pixels[rows, :, 3] == 0] = _TRANSPARENT
        found, places = np.unique(codes, return_inverse=True)
        unknown |= set(found.tolist()) - ids_of.keys()
        table = np.array([ids_of.get(code, UNKNOWN) for code in found.tolist()], np.uint8)
        mask[rows] = table[places].reshape(codes.shape)
    if unknown:
        strange = [f"#{code:06x}" for code in sorted(unknown)]
        raise UnknownClassError(
            f"{path} has colours that no category has ({', '.join(strange[:5])}): give "
            f'each category its colour in {categories_name} (a line NAME R,G,B, or "color" in '
            "JSON), or save masks as 8-bit palette or grey PNGs whose pixels are category ids"
        )
    return mask


def _counted_from(categories_name: str) -> str:
    """What one is to know of a text whose lines may stand for other ids than they seem to."""
    if Path(categories_name).suffix.lower() not in TEXT_SUFFIXES:
        return ""
    return ". Lines without ids count from zero: if zero is background, let the first line say so"


def read_semantic(path: str | InputFile, size: tuple[int, int] | None = None) -> np.ndarray:
    """Category ids uint8 (H, W), 255 = unknown, of a grey or palette PNG of up to 8 bits.

    Args:
        size: (H, W) that it must have; compared before anything is decoded.
    """
    path = input_file(path)
    file = read_png(path, "semantic mask", _WRITE_AGAIN)
    if size is not None and file.header.size != size[::-1]:
        width, height = file.header.size
        raise ValueError(
            f"{path} is {width}x{height} pixels, and should be {size[1]}x{size[0]}: {_WRITE_AGAIN}"
        )
    if file.header.colour not in (GREY, PALETTE) or file.header.bits > 8:
        raise ValueError(
            f"{path} is a mask of mode {file.header.mode}: save it as an 8-bit palette or grey PNG "
            f"whose pixels are category ids, {UNKNOWN} for unknown"
        )
    return file.indices()


def check_fit(
    size: tuple[int, int], whole: tuple[int, int], path: str | InputFile, image: str | InputFile
) -> None:
    """Raise a ValueError unless ``size`` is that of the image, turned by a quarter or not.

    Args:
        size: width and height in pixels that ``path`` says it has.
        whole: those of ``image``.
    """
    if size not in (whole, whole[::-1]):
        raise _misfit(size, whole, path, image)


def fit_to_photograph(
    array: np.ndarray, photograph: Photograph, path: str | InputFile
) -> tuple[np.ndarray, list[str]]:
    """``array`` (H, W) in the frame of the photograph, and remarks on how it got there."""
    height, width = photograph.pixels.shape[:2]
    stored = (width, height) if photograph.orientation >= 5 else (height, width)
    name = input_file(path).name
    if array.shape == (height, width):
        if photograph.orientation != 1 and array.shape == stored:
            return array, [f"{name} is taken to be turned already, as the image is seen"]
        return array, []
    if array.shape == stored:
        remark = f"{name} fits the image as stored: turned by EXIF {photograph.orientation}"
        return np.ascontiguousarray(turned(array, photograph.orientation)), [remark]
    raise _misfit(array.shape[::-1], (width, height), path, photograph.path)


def _png_size(path: InputFile) -> tuple[int, int]:
    return read_png_header(path, "mask", "make it again").size


def _misfit(
    size: tuple[int, ...], whole: tuple[int, int], path: str | InputFile, image: str | InputFile
) -> ValueError:
    return ValueError(
        f"{path} is {size[0]}x{size[1]} pixels, but the image {image} is {whole[0]}x{whole[1]}: "
        "make it again at the size of the image"
    )
