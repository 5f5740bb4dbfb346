"""Pseudo edges E at image size, what the student learns: ternary maps, and their files.

A label is 1 (edge), 0 (none) or -1 (ignored). A file is an 8-bit grey PNG of the image's size: 255
edge, 0 none, 128 ignored. It is no map of edge strengths: ``edges.files`` would take what is
ignored for an edge.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from trace_d2.io.atomic import write_bytes

EDGE, NONE, IGNORED = 1, 0, -1
"""The labels."""

_GREY = {EDGE: 255, NONE: 0, IGNORED: 128}
_INVALID = -2
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 2]
_REMEDY = "make it again with tools/make_pseudo_edges.py"


def ternary_edges(abdiv: np.ndarray, size: tuple[int, int], mode: str = "mean_std") -> np.ndarray:
    """``trace_d2.edges.pseudo_edges`` at the size of the image, from and to arrays.

    Args:
        abdiv: (h, w) float, ABDiv of the attention grid.
        size: (H, W) of the image.
        mode: see there.

    Returns:
        (H, W) int8 of 1, 0 and -1.

    Raises:
        ValueError: the mode is unknown, or the map is not of two axes.
    """
    # Imported here, as whoever only reads files does without PyTorch.
    import torch

    from trace_d2.edges.abdiv import pseudo_edges

    if abdiv.ndim != 2 or abdiv.size == 0:
        raise ValueError(f"ABDiv is a map (h, w), not of shape {abdiv.shape}")
    return pseudo_edges(torch.from_numpy(np.ascontiguousarray(abdiv)), mode, size).numpy()


def label_shares(labels: np.ndarray) -> tuple[float, float, float]:
    """The shares (0..1) of edge, none and ignored pixels in ``labels`` (H, W) int8."""
    edge, none = (float((labels == label).mean()) for label in (EDGE, NONE))
    return edge, none, float((labels == IGNORED).mean())


def write_ternary(path: str | Path, labels: np.ndarray) -> None:
    """Write ``labels`` (H, W) int8 of 1, 0 and -1 as a PNG, whole or not at all.

    Raises:
        ValueError: another shape or type, or other values.
        OSError: the disk does not take the file.
    """
    if labels.ndim != 2 or labels.size == 0 or labels.dtype != np.int8:
        raise ValueError(f"labels are int8 (H, W), not {labels.dtype} of shape {labels.shape}")
    known = np.isin(labels, list(_GREY))
    if not known.all():
        raise ValueError(f"labels are 1, 0 and -1, not {np.unique(labels[~known])[:8].tolist()}")
    pixels = np.full(labels.shape, _GREY[IGNORED], np.uint8)
    pixels[labels == EDGE] = _GREY[EDGE]
    pixels[labels == NONE] = _GREY[NONE]
    _, data = cv2.imencode(".png", pixels, _PNG)
    write_bytes(path, data.tobytes())


def read_ternary(path: str | Path) -> np.ndarray:
    """What ``write_ternary`` wrote: (H, W) int8 of 1, 0 and -1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not 8-bit grey, or has values besides 0, 128 and 255.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no pseudo edges at {path}: {_REMEDY}")
    data = path.read_bytes()
    # A truncated PNG may decode to a partly blank map, so its end marker must be there as well.
    whole = b"IEND" in data
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if whole else None
    if pixels is None:
        raise ValueError(f"{path} is not a complete PNG: {_REMEDY}")
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise ValueError(
            f"{path} holds {pixels.dtype} of shape {pixels.shape}, but pseudo edges are an 8-bit "
            f"grey PNG: {_REMEDY}"
        )
    table = np.full(256, _INVALID, np.int8)
    for label, grey in _GREY.items():
        table[grey] = label
    labels = table[pixels]
    if (labels == _INVALID).any():
        strange = np.unique(pixels[labels == _INVALID])[:8].tolist()
        raise ValueError(
            f"{path} has values {strange}, but pseudo edges are 0 (none), 128 (ignored) and 255 "
            f"(edge). Is it a map of strengths? {_REMEDY}"
        )
    return labels
