"""Edges without a network, to compare with: Canny, Sobel and the colour gradient.

Each takes an image (H, W, 3) uint8 RGB and gives edge strength (H, W) float32 in 0..1; ``sigma`` is
that of a Gaussian blur before, in pixels, 0 for none. Another image, or a setting out of its range,
is a ValueError. HED, which is one, is in ``hed``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np

from .settings import CannySettings
from .sources import EdgeOutput

_SOBEL_RANGE = 4 * 255.0  # the largest Sobel response to 8-bit values
_LAB_ROUNDING = 1e-3  # CIELAB units a pixel; 8-bit colours differ by more
_SCALE = 16  # OpenCV's Canny takes whole numbers; in sixteenths, weak gradients stay apart


def canny_edges(
    image: np.ndarray, sigma: float = 1.0, thresholds: int = 50, low: float = 0.4
) -> np.ndarray:
    """Canny's edges at many thresholds at once: the share of them at which a pixel is an edge.

    The edges at a higher threshold are among those at a lower one, so a threshold on this map is
    one of Canny's, and the search for the best threshold of a data set (ODS) finds Canny's best.
    High thresholds lie at (i / (thresholds + 1))^2, i = 1 .. ``thresholds``, of the largest
    gradient there is, as most gradients are weak; the square keeps them apart.

    Lines are one pixel wide. Of the image's channels, the one of the steepest gradient counts.

    Args:
        image, sigma: see above.
        thresholds: how many.
        low: the low threshold of the hysteresis as a share of the high one, 0..1.
    """
    check_image(image, sigma)
    if thresholds < 1 or not 0 <= low <= 1:
        raise ValueError(f"thresholds is 1 or more, low in 0..1; not {thresholds}, {low}")
    smooth = _blur(image.astype(np.float32), sigma)
    across, down = (
        np.rint(cv2.Sobel(smooth, cv2.CV_32F, *order, scale=_SCALE)).astype(np.int16)
        for order in ((1, 0), (0, 1))
    )
    passed = np.zeros(image.shape[:2], np.float32)
    for i in range(1, thresholds + 1):
        high = (i / (thresholds + 1)) ** 2 * _SOBEL_RANGE * _SCALE
        edges = cv2.Canny(across, down, low * high, high, L2gradient=True)
        if not edges.any():
            break
        passed += edges > 0
    return passed / np.float32(thresholds)


def fixed_canny_edges(image: np.ndarray, low: float = 100, high: float = 200) -> np.ndarray:
    """Canny's edges at fixed thresholds, 1 or 0, as OpenCV finds them by itself.

    That is ``cv2.Canny(grey, low, high)``: Sobel's gradients over 3 x 3 pixels, unscaled, so that a
    step of g grey levels has one of 4 g; their L1 norm; no blur before.

    Args:
        image: see above.
        low, high: of the hysteresis. OpenCV's own examples take 100 and 200.
    """
    check_image(image)
    return (cv2.Canny(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), low, high) > 0).astype(np.float32)


def sobel_edges(image: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Norm of the Sobel gradient of the grey image, scaled like ABDiv: its mu + sigma is 0.5."""
    check_image(image, sigma)
    grey = _blur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), sigma)
    norm = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    norm[norm < 1e-2] = 0  # rounding; values that differ by a grey level give more
    return _as_abdiv(norm)


def color_gradient_edges(image: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Strength of the colour gradient, scaled like ABDiv: its mu + sigma falls on 0.5.

    The norm of the Scharr gradient over the three channels of CIELAB.
    """
    check_image(image, sigma)
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab = _blur(lab, sigma)
    across = cv2.Scharr(lab, cv2.CV_32F, 1, 0, scale=1 / 32)
    down = cv2.Scharr(lab, cv2.CV_32F, 0, 1, scale=1 / 32)
    norm = np.sqrt((across**2 + down**2).sum(axis=2))
    norm[norm < _LAB_ROUNDING] = 0
    return _as_abdiv(norm)


FILTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "canny": canny_edges,
    "sobel": sobel_edges,
    "gradient": color_gradient_edges,
}
"""What finds edges, by its name among ``EDGE_SOURCES``."""


class FilterEdges:
    """One of ``FILTERS`` as an ``EdgeSource``."""

    def __init__(self, find: Callable[[np.ndarray], np.ndarray]) -> None:
        self.find = find

    @classmethod
    def from_config(cls, cfg: Any) -> FilterEdges:
        """The one that ``MODEL.TRACE.EDGES.SOURCE`` names; Canny's thresholds are ``CANNY``."""
        source = cfg.MODEL.TRACE.EDGES.SOURCE
        if source == "canny" and (fixed := CannySettings.from_config(cfg).canny):
            return cls(partial(fixed_canny_edges, low=fixed[0], high=fixed[1]))
        return cls(FILTERS[source])

    def __call__(self, image: np.ndarray, key: str) -> EdgeOutput:
        """Of ``image``, (H, W, 3) uint8 RGB; ``key`` decides nothing."""
        return EdgeOutput(self.find(image))


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image


def _as_abdiv(norm: np.ndarray) -> np.ndarray:
    import torch

    from .abdiv import normalise_edges

    return normalise_edges(torch.from_numpy(norm)).numpy()


def check_image(image: np.ndarray, sigma: float = 0.0) -> None:
    """Raise a ValueError unless ``image`` is (H, W, 3) uint8 and ``sigma`` 0 or more."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8, not {image.dtype} of {image.shape}")
    if sigma < 0:
        raise ValueError(f"sigma is 0 or more, not {sigma}")
