"""Painting of small pictures for the report page: masks, edges, segments."""

from __future__ import annotations

import base64
import colorsys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from trace_d2.io.categories import Category

_LONG_SIDE = 320  # pixels
_JPEG_QUALITY = 85
_UNKNOWN_COLOR = (40, 40, 40)
_GOLDEN_RATIO = 0.6180339887498949


def paint_masks(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Masks over a pale image, outlined and tinted, each in a colour of its own.

    Args:
        image: uint8 (H, W, 3) RGB.
        masks: (K, H, W) bool; they may overlap, small ones are painted over large ones.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    painted = np.repeat((0.5 * grey + 0.5 * 255).astype(np.uint8), 3, axis=2)
    order = np.argsort([-np.count_nonzero(mask) for mask in masks], kind="stable")
    for rank in order:
        color = np.array(_segment_color(int(rank) + 1), np.float32)
        painted[masks[rank]] = (0.5 * painted[masks[rank]] + 0.5 * color).astype(np.uint8)
    for rank in order:
        contours, _ = cv2.findContours(
            masks[rank].astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        dark = tuple(0.6 * channel for channel in _segment_color(int(rank) + 1))
        cv2.drawContours(painted, contours, -1, dark, 1)
    return painted


def paint_classes(semantic: np.ndarray, categories: Sequence[Category]) -> np.ndarray:
    """uint8 (H, W) category ids to uint8 (H, W, 3) RGB in the categories' colours."""
    table = np.full((256, 3), _UNKNOWN_COLOR, np.uint8)
    for category in categories:
        table[category.id] = category.color
    return table[semantic]


def paint_segments(image: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
    """Segments over a pale image, each in a colour of its own, with white borders.

    Args:
        image: uint8 (H, W, 3) RGB.
        segment_ids: int (H, W) from 0 = void, which stays dark; ids count up without large gaps.
    """
    last = int(segment_ids.max())
    colors = np.array([_UNKNOWN_COLOR, *map(_segment_color, range(1, last + 1))], np.float32)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    painted = (0.7 * colors[segment_ids] + 0.3 * grey).astype(np.uint8)
    border = np.zeros(segment_ids.shape, bool)
    border[:-1] |= segment_ids[:-1] != segment_ids[1:]
    border[:, :-1] |= segment_ids[:, :-1] != segment_ids[:, 1:]
    painted[border] = 255
    return painted


def paint_edges(edges: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Edge strength float32 (H, W) in 0..1 as white on black, uint8 of ``size`` (width, height).

    Thin edges fade when an image shrinks, so every pixel shows the strongest edge it stands for.
    """
    step = max(-(-edges.shape[0] // size[1]), -(-edges.shape[1] // size[0]))
    strongest = cv2.dilate(edges, np.ones((step, step), np.uint8)) if step > 1 else edges
    return np.rint(np.clip(nearest(strongest, size), 0, 1) * 255).astype(np.uint8)


def _segment_color(segment_id: int) -> tuple[int, int, int]:
    """Neighbouring ids get hues far apart."""
    hue = segment_id * _GOLDEN_RATIO % 1.0
    value = (1.0, 0.75, 0.55)[segment_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def shrink(image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """``image`` (H, W, 3) with a long side that fits the page, and its size (width, height)."""
    height, width = image.shape[:2]
    scale = min(1.0, _LONG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), size


def nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``array`` (H, W) at ``size`` (width, height), without mixing its values."""
    rows = ((np.arange(size[1]) + 0.5) * array.shape[0] / size[1]).astype(np.intp)
    columns = ((np.arange(size[0]) + 0.5) * array.shape[1] / size[0]).astype(np.intp)
    return array[np.ix_(rows, columns)]


def data_addresses(pictures: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Pictures, uint8 (H, W) or RGB (H, W, 3), as JPEGs in ``data:`` addresses."""
    addresses = {}
    for key, pixels in pictures.items():
        ordered = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1])
        _, data = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        text = base64.b64encode(data.tobytes()).decode("ascii")
        addresses[key] = f"data:image/jpeg;base64,{text}"
    return addresses
