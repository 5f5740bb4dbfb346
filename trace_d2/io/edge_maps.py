"""Edge maps as files, so that edges of any detector and kept edges go through the same reader.

Edge strength is in 0..1, and "edge" means above 0.5. A file is ``<stem>.png`` (grey, 8 or 16 bit,
scaled to 0..1) or ``<stem>.npy`` (floating point, H x W, in 0..1).

Pseudo edges, what the student learns, are no strengths but labels: 1 (edge), 0 (none) or -1
(ignored). Their file is an 8-bit grey PNG of the image's size: 255 edge, 0 none, 128 ignored.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import overload

import numpy as np

from .arrays import ArrayFile, opened_array
from .atomic import write_bytes, write_png
from .fans import file_of, has_parts
from .limits import check_size
from .png import GREY, read_png, read_png_header
from .remote import InputFile, InputFolder, input_file
from .subfolders import files_by_stem, has_folder

EDGE, NONE, IGNORED = 1, 0, -1
"""The labels of pseudo edges."""

FAINT = 1 / 60
"""Edges that are weaker everywhere cut nothing: to the calibration they are all alike."""

SCALE = "0/1 masks and 8-bit values in 16-bit files must be scaled to the whole range"
"""What to do about those that are so by mistake."""

_EDGE_ABOVE = 0.5
INVERTED = "is the map inverted? Edges are bright"
"""What the remark on a map of which most is edge ends with."""

_INVERTED = 0.5  # share of the pixels that are edges
_EDGES, _WRITE_AGAIN = "edge file", "write it again"
_LEVELS = 65535  # of a 16-bit PNG
_SLACK = 1e-4  # rounding that detectors leave outside 0..1
_GREY = np.array((0, 255, 128), np.uint8)  # at NONE, EDGE and, from the end, IGNORED
_REMEDY = "make it again with tools/make_pseudo_edges.py"


def edge_paths(folder: str | InputFolder, stem: str) -> list[InputFile]:
    """The files that may hold the edges of the image ``stem`` in ``folder``."""
    return [file_of(folder, f"{stem}{ending}") for ending in (".png", ".npy")]


def edge_stems(folder: str | InputFolder) -> dict[str, list[str]]:
    """The edge files below ``folder``, by stem; a ValueError if two differ in the case of their
    endings alone, of which ``find_edges`` would take one."""
    found = files_by_stem(folder, (".png", ".npy"))
    for files in found.values():
        if len(files) > 1 and len(set(map(str.lower, files))) < len(files):
            raise ValueError(f"{' and '.join(files)} in {folder} are of one image: remove one")
    return found


def edge_stem(folder: str | InputFolder, image: str | Path) -> str:
    """The stem below ``folder`` of the edges of ``image``, any path of which the end is mirrored.

    They are looked for in the most of the image's folders that ``folder`` has as well.
    """
    path = Path(image)
    folders = list(path.parent.parts[bool(path.anchor) :])
    while ".." in folders:
        del folders[0]
    if has_parts(folder):  # where images' folders lie below many of them
        stems = ["/".join((*folders[start:], path.stem)) for start in range(len(folders) + 1)]
        return next((stem for stem in stems if has_edges(folder, stem)), stems[-1])
    while folders and not has_folder(folder, "/".join(folders)):
        del folders[0]
    return "/".join((*folders, path.stem))


def has_edges(folder: str | InputFolder, stem: str) -> bool:
    """Whether there is an edge file of the image ``stem`` in ``folder``."""
    return any(path.is_file() for path in edge_paths(folder, stem))


@overload
def find_edges(folder: str | Path, stem: str) -> Path: ...
@overload
def find_edges(folder: str | InputFolder, stem: str) -> InputFile: ...
def find_edges(folder: str | InputFolder, stem: str) -> InputFile:
    """The edge file of the image ``stem`` in ``folder``."""
    choices = edge_paths(folder, stem)
    found = [path for path in choices if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"no edge file at {choices[0]} (nor {choices[1].name}): write one, or run without "
            "--edges to use the backbone"
        )
    if len(found) > 1:
        raise ValueError(f"both {found[0]} and {found[1].name} exist: remove one of them")
    return found[0]


def read_edges(path: str | InputFile) -> np.ndarray:
    """Edge strength float32 (H, W) in 0..1."""
    path = input_file(path)
    if path.suffix.lower() == ".npy":
        return _read_array(path)
    pixels = read_png(path, _EDGES, _WRITE_AGAIN).decode()
    if pixels.ndim == 3:
        colours, alpha = pixels[..., :3], pixels[..., 3:]
        if (colours != colours[..., :1]).any():
            raise ValueError(f"{path} is in colour: save the edges as a grey PNG of 8 or 16 bit")
        if alpha.size and alpha.min() < alpha.max() and colours.min() == colours.max():
            raise ValueError(f"{path} holds nothing but transparency: save the edges as a grey PNG")
        pixels = colours[..., 0]
    strengths = pixels.astype(np.float32)
    strengths /= np.float32(np.iinfo(pixels.dtype).max)
    return strengths


def edge_size(path: str | InputFile) -> tuple[int, int]:
    """Width and height in pixels that a file of edges says it has; nothing else is read."""
    path = input_file(path)
    if path.suffix.lower() != ".npy":
        return read_png_header(path, _EDGES, _WRITE_AGAIN).size
    with _opened_array(path) as array:
        return array.shape[1], array.shape[0]


def edge_remarks(edges: np.ndarray) -> list[str]:
    """What is peculiar about ``edges`` (H, W) in 0..1, for the journal: they may be wrong."""
    low, high = float(edges.min()), float(edges.max())
    if edges.size > 1 and low == high:
        return [f"the edges are {high:.3g} everywhere and cut nothing"]
    if high < FAINT:
        return [f"the edges are nowhere stronger than {high:.2g} of 1 and cut nothing: {SCALE}"]
    if looks_inverted(edges):
        return [f"{_share(edges):.0%} of the pixels are edges: {INVERTED}"]
    return []


def looks_inverted(edges: np.ndarray) -> bool:
    """Whether most pixels of ``edges`` (H, W) in 0..1 are edges."""
    return _share(edges) > _INVERTED


def _share(edges: np.ndarray) -> float:
    return np.count_nonzero(edges > _EDGE_ABOVE) / edges.size


def write_edges(path: str | Path, edges: np.ndarray) -> None:
    """Write ``edges`` (H, W) in 0..1 as a 16-bit PNG, or as float32 where ``path`` ends in .npy.

    What ``read_edges`` gives back is ``quantise_edges(edges)`` for a PNG and ``edges`` for .npy.
    """
    path = Path(path)
    edges = check_edges(np.asarray(edges), path)
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, edges, allow_pickle=False)
        write_bytes(path, buffer.getvalue())
        return
    write_png(path, _levels(edges).astype(np.uint16), fast=True)


def quantise_edges(edges: np.ndarray) -> np.ndarray:
    """``edges`` (H, W) in 0..1 rounded to what a 16-bit PNG holds, float32.

    Labels made from the rounded map equal those made from the file later.
    """
    levels = _levels(np.asarray(edges, np.float32))
    levels /= np.float32(_LEVELS)
    return levels


def _levels(edges: np.ndarray) -> np.ndarray:
    """``edges`` float32 (H, W) in 0..1 as whole numbers in 0..65535, float32."""
    levels = edges * np.float32(_LEVELS)
    return np.rint(levels, out=levels)


def check_edges(edges: np.ndarray, origin: str | InputFile) -> np.ndarray:
    """``edges`` (H, W) from ``origin`` as float32 in 0..1; rounding errors outside are clipped.

    What is so already is given back as it is.
    """
    if edges.ndim != 2 or edges.size == 0:
        raise ValueError(f"{origin}: edges must be of shape (H, W), not {edges.shape}")
    low, high = float(edges.min()), float(edges.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        count = int((~np.isfinite(edges)).sum())
        raise ValueError(
            f"{origin} has NaN or infinite values in {count} of {edges.size} pixels: repair the "
            "detector, or write 0 there"
        )
    if low < -_SLACK or high > 1 + _SLACK:
        raise ValueError(f"{origin} has values in {low:.4g}..{high:.4g}: scale them to 0..1")
    if low < 0 or high > 1:
        edges = np.clip(edges, 0, 1)
    return edges.astype(np.float32, copy=False)


def write_ternary(path: str | Path, labels: np.ndarray) -> None:
    """Write pseudo edges ``labels`` (H, W) int8 of 1, 0 and -1 as a PNG, whole or not at all."""
    if labels.ndim != 2 or labels.size == 0 or labels.dtype != np.int8:
        raise ValueError(f"labels are int8 (H, W), not {labels.dtype} of shape {labels.shape}")
    strange = np.setdiff1d(labels, (EDGE, NONE, IGNORED))
    if strange.size:
        raise ValueError(f"labels are 1, 0 and -1, not {strange[:8].tolist()}")
    write_png(path, _GREY[labels], fast=True)


def read_ternary(path: str | Path) -> np.ndarray:
    """What ``write_ternary`` wrote: (H, W) int8 of 1, 0 and -1."""
    path = Path(path)
    file = read_png(path, "pseudo edges", _REMEDY)
    if file.header.colour != GREY or file.header.bits > 8:
        raise ValueError(
            f"{path} is of mode {file.header.mode}, but pseudo edges are an 8-bit grey PNG: "
            f"{_REMEDY}"
        )
    pixels = file.decode()
    strange = np.setdiff1d(pixels, _GREY)
    if strange.size:
        raise ValueError(
            f"{path} has values {strange[:8].tolist()}, but pseudo edges are 0 (none), 128 "
            f"(ignored) and 255 (edge). Is it a map of strengths? {_REMEDY}"
        )
    return (pixels == _GREY[EDGE]).astype(np.int8) - (pixels == _GREY[IGNORED])


def label_shares(labels: np.ndarray) -> tuple[float, float, float]:
    """The shares (0..1) of edge, none and ignored pixels in ``labels`` (H, W) int8."""
    edge, none, ignored = (float((labels == label).mean()) for label in (EDGE, NONE, IGNORED))
    return edge, none, ignored


def _read_array(path: InputFile) -> np.ndarray:
    with _opened_array(path) as array:
        return np.ascontiguousarray(check_edges(array.values(), path))


@contextlib.contextmanager
def _opened_array(path: InputFile) -> Iterator[ArrayFile]:
    """An edge file ``.npy`` of floats (H, W), whose values are still to be read."""
    with opened_array(path, _EDGES, _WRITE_AGAIN) as array:
        if array.dtype.kind != "f":
            raise ValueError(
                f"{path} holds {array.dtype}: save edge strengths in 0..1 as a floating-point "
                "array, or integers as a grey PNG"
            )
        if len(array.shape) != 2 or min(array.shape) < 1:
            raise ValueError(
                f"{path}: edges must be of shape (H, W), not {array.shape}: {_WRITE_AGAIN}"
            )
        check_size(array.shape[1], array.shape[0], path)
        array.check_length()
        yield array
