"""Colour gradients: the edges that need no model, to compare with."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from .abdiv import normalise_edges

# CIELAB units a pixel; 8-bit colours differ by more.
_ROUNDING = 1e-3


def color_gradient_edges(image: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Strength of the colour gradient, scaled like ABDiv: its mu + sigma falls on 0.5.

    The norm of the Scharr gradient over the three channels of CIELAB, after a Gaussian blur.

    Args:
        image: (H, W, 3) uint8, RGB.
        sigma: of the blur, in pixels.

    Returns:
        (H, W) float32 in 0..1.
    """
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab = cv2.GaussianBlur(lab, (0, 0), sigma)
    across = cv2.Scharr(lab, cv2.CV_32F, 1, 0, scale=1 / 32)
    down = cv2.Scharr(lab, cv2.CV_32F, 0, 1, scale=1 / 32)
    norm = np.sqrt((across**2 + down**2).sum(axis=2))
    norm[norm < _ROUNDING] = 0
    return normalise_edges(torch.from_numpy(norm)).numpy()
