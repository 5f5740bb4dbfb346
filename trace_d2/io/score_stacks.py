"""Stacks of scores: what a semantic model says of every class, before a class is chosen.

A file is ``<stem>.npy``, floating (C, H', W') with the classes in the order of the categories, or
``<stem>.npz`` with one such array. H' x W' is any size of the aspect of the image, as the patches
that the model saw.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from .arrays import ArrayFile, array_file, opened_array
from .limits import check_size
from .photographs import Photograph, turned
from .remote import InputFile

SCORE_SUFFIXES = (".npy", ".npz")
"""Endings of files of scores."""

_WHAT, _REMEDY = "stack of scores", "write it again by np.save"


def read_scores(path: InputFile, count: int) -> np.ndarray:
    """Scores float32, or float16 as they are, (C, H', W') of ``count`` classes.

    Raises:
        FileNotFoundError, ValueError: see ``check_scores``, which looks at what the file says of
            itself before its values are read.
    """
    with _opened(path) as array:
        _check_kind(array.dtype, array.shape, count, path)
        check_size(array.shape[2], array.shape[1], path)
        array.check_length()
        scores = check_scores(array.values(), count, path)
    return scores if scores.dtype == np.float16 else _float32(scores, path)


def _float32(scores: np.ndarray, path: InputFile) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrow = scores.astype(np.float32)
    if scores.dtype != np.float32 and not np.isfinite(narrow).all():
        raise ValueError(
            f"{path} has scores as great as {float(np.abs(scores).max()):.3g}, more than float32 "
            "holds: scale them to what the model says"
        )
    return narrow


def check_scores(scores: np.ndarray, count: int, origin: object) -> np.ndarray:
    """``scores`` from ``origin``; a ValueError unless finite floats (``count``, H', W')."""
    _check_kind(scores.dtype, scores.shape, count, origin)
    if not np.isfinite(scores).all():
        bad = np.count_nonzero(~np.isfinite(scores))
        raise ValueError(
            f"{origin} has NaN or infinite values in {bad} of {scores.size} scores: repair the "
            "model, or write a low score there"
        )
    return scores


def check_probabilities(scores: np.ndarray, origin: object) -> None:
    """Raise a ValueError unless ``scores`` are in 0..1, up to rounding."""
    low, high = float(scores.min()), float(scores.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(
            f"{origin} has scores in {low:.4g}..{high:.4g}, which are no probabilities: leave "
            "MODEL.TRACE.SEMANTIC.SCORES at logits"
        )


def fit_scores(
    scores: np.ndarray, photograph: Photograph, path: InputFile
) -> tuple[np.ndarray, list[str]]:
    """``scores`` (C, H', W') in the frame of the photograph, and remarks on how they got there.

    Raises:
        ValueError: their aspect is that of the image neither as seen nor as stored.
    """
    height, width = photograph.pixels.shape[:2]
    rows, columns = scores.shape[1:]
    if is_of_aspect(rows, columns, height, width):
        return scores, []
    if photograph.orientation >= 5 and is_of_aspect(columns, rows, height, width):
        remark = f"{path.name} fits the image as stored: turned by EXIF {photograph.orientation}"
        whole = turned(np.moveaxis(scores, 0, -1), photograph.orientation)
        return np.ascontiguousarray(np.moveaxis(whole, -1, 0)), [remark]
    raise ValueError(
        f"{path} has scores of {columns}x{rows} cells, but the image {photograph.path} is "
        f"{width}x{height}: cut off what the model added, or resize them to the aspect of the image"
    )


def labels_of_scores(scores: np.ndarray, ids: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """The class of the greatest score at each pixel, scores bilinear between centres of cells.

    Args:
        scores: floating (C, H', W'), logits or probabilities.
        ids: of the classes, C of them, 0..255.
        shape: (H, W) of the image.

    Returns:
        uint8 (H, W) ids, in memory of one class at full resolution. Of equal scores the first wins.
    """
    size = (shape[1], shape[0])
    best = np.full((shape[0], shape[1]), -np.inf, np.float32)
    labels = np.zeros(best.shape, np.uint8)
    for identity, score in zip(ids, scores, strict=True):
        pixels = cv2.resize(score.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        better = pixels > best
        np.copyto(best, pixels, where=better)
        labels[better] = identity
    return labels


def is_of_aspect(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether one side is off by less than a cell: models round sides to whole patches."""
    return abs(rows - columns * height / width) < 1 or abs(columns - rows * width / height) < 1


def _check_kind(
    dtype: np.dtype[np.generic], shape: tuple[int, ...], count: int, origin: object
) -> None:
    if dtype.kind != "f" or len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"{origin} holds {dtype} of shape {shape}: scores are floating point, of shape (C, H, "
            "W) with a class a map"
        )
    if shape[0] != count:
        raise ValueError(
            f"{origin} has scores of {shape[0]} classes, but there are {count} categories: list "
            "the classes of the model in the order of its scores"
        )


@contextlib.contextmanager
def _opened(path: InputFile) -> Iterator[ArrayFile]:
    """The array of a ``.npy``, or the only one of a ``.npz``, before its values are read."""
    if path.suffix.lower() != ".npz":
        with opened_array(path, _WHAT, _REMEDY) as array:
            yield array
        return
    if not path.is_file():
        raise FileNotFoundError(f"no {_WHAT} at {path}: {_REMEDY}")
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise ValueError(f"{path} is not a readable .npz ({error}): {_REMEDY}") from error
        if len(names) != 1:
            raise ValueError(
                f"{path} has {len(names)} arrays ({', '.join(names[:4])}): save the scores alone"
            )
        try:
            with archive.open(names[0]) as member:
                yield array_file(member, str(path), _REMEDY)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise ValueError(f"{path} is not a readable .npz ({error}): {_REMEDY}") from error
