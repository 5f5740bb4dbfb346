"""Edge maps as files, so that edges of any detector and kept edges go through the same reader.

Edge strength is in 0..1, and "edge" means above 0.5. A file is ``<stem>.png`` (grey, 8 or 16 bit,
scaled to 0..1) or ``<stem>.npy`` (floating point, H x W, in 0..1).
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np

from trace_d2.io.atomic import write_bytes

_LEVELS = 65535  # of a 16-bit PNG
_SLACK = 1e-4  # rounding that detectors leave outside 0..1


def find_edges(folder: str | Path, stem: str) -> Path:
    """The edge file of the image ``stem`` in ``folder``.

    Raises:
        FileNotFoundError: there is neither a ``.png`` nor a ``.npy``.
        ValueError: there are both, so it is unclear which one is meant.
    """
    choices = [Path(folder) / f"{stem}.png", Path(folder) / f"{stem}.npy"]
    found = [path for path in choices if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"no edge file at {choices[0]} (nor {choices[1].name}): write one, or run without "
            "--edges to use the backbone"
        )
    if len(found) > 1:
        raise ValueError(f"both {found[0]} and {found[1].name} exist: remove one of them")
    return found[0]


def read_edges(path: str | Path) -> np.ndarray:
    """Edge strength float32 (H, W) in 0..1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, not one value a pixel, NaN, or outside 0..1; the message
            names the file and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no edge file at {path}")
    return _read_array(path) if path.suffix == ".npy" else _read_png(path)


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
    levels = np.rint(edges * np.float32(_LEVELS)).astype(np.uint16)
    _, data = cv2.imencode(".png", levels, [cv2.IMWRITE_PNG_COMPRESSION, 2])
    write_bytes(path, data.tobytes())


def quantise_edges(edges: np.ndarray) -> np.ndarray:
    """``edges`` (H, W) in 0..1 rounded to what a 16-bit PNG holds, float32.

    Labels made from the rounded map equal those made from the file later.
    """
    return np.rint(np.asarray(edges, np.float32) * np.float32(_LEVELS)) / np.float32(_LEVELS)


def check_edges(edges: np.ndarray, origin: str | Path) -> np.ndarray:
    """``edges`` (H, W) as float32 in 0..1; rounding errors outside that range are clipped.

    Args:
        edges: edge strengths.
        origin: where they are from, for messages.

    Raises:
        ValueError: another shape, NaN, or values outside 0..1; the message says what to do.
    """
    if edges.ndim != 2 or edges.size == 0:
        raise ValueError(f"{origin}: edges must be of shape (H, W), not {edges.shape}")
    if not np.isfinite(edges).all():
        count = int((~np.isfinite(edges)).sum())
        raise ValueError(
            f"{origin} has NaN or infinite values in {count} of {edges.size} pixels: repair the "
            "detector, or write 0 there"
        )
    low, high = float(edges.min()), float(edges.max())
    if low < -_SLACK or high > 1 + _SLACK:
        raise ValueError(f"{origin} has values in {low:.4g}..{high:.4g}: scale them to 0..1")
    return np.clip(edges, 0, 1).astype(np.float32)


def _read_png(path: Path) -> np.ndarray:
    data = path.read_bytes()
    # A truncated PNG may decode to a partly blank map, so its end marker must be there as well.
    whole = b"IEND" in data
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if whole else None
    if decoded is None:
        raise ValueError(f"{path} is not a complete PNG: write it again")
    pixels: np.ndarray = decoded
    if pixels.ndim == 3:
        pixels = _one_channel(pixels, path)
    highest = {"uint8": 255, "uint16": _LEVELS}.get(pixels.dtype.name)
    if highest is None:
        raise ValueError(f"{path} holds {pixels.dtype}: save it as an 8- or 16-bit grey PNG")
    return pixels.astype(np.float32) / np.float32(highest)


def _one_channel(pixels: np.ndarray, path: Path) -> np.ndarray:
    """The grey values (H, W) of a colour PNG whose three colours agree; alpha is left out."""
    grey = pixels[..., 0]
    if any(not np.array_equal(grey, pixels[..., i]) for i in range(1, min(3, pixels.shape[2]))):
        raise ValueError(f"{path} is in colour: save the edges as a grey PNG of 8 or 16 bit")
    return grey


def _read_array(path: Path) -> np.ndarray:
    try:
        edges = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable .npy array ({error}): write it again"
        ) from error
    if edges.dtype.kind != "f":
        raise ValueError(
            f"{path} holds {edges.dtype}: save edge strengths in 0..1 as a floating-point array, "
            "or integers as a grey PNG"
        )
    return check_edges(edges, path)
