"""What the modules of TRACE need of a Detectron2 input dict: pixels, size and name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from torch import Tensor

from trace_d2.edges.sources import EdgeSource, FileEdges


def output_size(record: dict[str, Any]) -> tuple[int, int]:
    """(height, width) that is asked for: the record's own, or else that of its ``image``."""
    height, width = record["image"].shape[-2:]
    return int(record.get("height", height)), int(record.get("width", width))


def rgb_image(image: Tensor, input_format: str, size: tuple[int, int]) -> np.ndarray:
    """The image of a Detectron2 input dict as RGB, at the size of the output.

    Args:
        image: (C, h, w), uint8 or float in 0..255, as ``input_format`` says.
        input_format: ``cfg.INPUT.FORMAT``: BGR, RGB, L or YUV-BT.601.
        size: (height, width) in pixels.

    Returns:
        (height, width, 3) uint8.
    """
    rgb = convert_image_to_rgb(image.detach().permute(1, 2, 0), input_format)
    rgb = np.ascontiguousarray(np.clip(np.rint(rgb), 0, 255).astype(np.uint8))
    if rgb.shape[:2] == size:
        return rgb
    shrinks = size[0] * size[1] < rgb.shape[0] * rgb.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(rgb, (size[1], size[0]), interpolation=way)


def find_image_edges(
    record: dict[str, Any], source: EdgeSource, input_format: str, size: tuple[int, int]
) -> np.ndarray:
    """Edges of the image of a Detectron2 input dict, at the size of the output.

    The key of the noise is the stem of ``file_name``, or a hash of the pixels where it is missing.

    Args:
        record: with ``image`` and perhaps ``file_name``.
        source: what finds them.
        input_format: ``cfg.INPUT.FORMAT``.
        size: (height, width) in pixels.

    Returns:
        (height, width) float32 in 0..1.

    Raises:
        ValueError: edges are read from files, and the record has no ``file_name``; or the edges
            are not of that size.
    """
    name = record.get("file_name")
    if not name and isinstance(source, FileEdges):
        raise ValueError(
            'MODEL.TRACE.EDGES.SOURCE is "files", and the input dict has no "file_name" to find '
            "them by (DefaultPredictor gives none): add it, or set another SOURCE"
        )
    rgb = rgb_image(record["image"], input_format, size)
    key = Path(name).stem if name else hashlib.sha256(rgb.tobytes()).hexdigest()
    edges = np.asarray(source(rgb, key).edges, np.float32)
    if edges.shape != size:
        raise ValueError(
            f"the edge source gave {edges.shape} for an image of {size}: it must keep the size"
        )
    return edges
