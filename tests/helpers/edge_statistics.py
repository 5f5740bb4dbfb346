"""Labels and strengths of edges by hand, and what is measured on them."""

from __future__ import annotations

import math

import numpy as np

from trace_d2.propagation.calibration import EdgeCalibration, EdgeStatistics

# Densities of borders and of ridges that are expected before anything is known.
BORDERS, RIDGES = 0.26, 16.6
PRIOR = math.log(BORDERS / RIDGES)


def halves(left: int = 1, right: int = 2) -> np.ndarray:
    """Labels of 100 x 100 pixels, a left half and a right one: an outline of 100 cells."""
    labels = np.full((100, 100), left)
    labels[:, 50:] = right
    return labels


def statistics_of(labels: np.ndarray, edges: np.ndarray) -> EdgeStatistics:
    statistics = EdgeStatistics()
    statistics.add(labels, labels > 0, edges.astype(np.float32))
    return statistics


def at(calibration: EdgeCalibration, *strengths: float) -> list[float]:
    """The log-odds of ``strengths``."""
    return calibration(np.array([strengths], np.float32)).log_odds[0].tolist()


def outlined(strength: float) -> np.ndarray:
    edges = np.zeros((100, 100))
    edges[:, 49] = strength
    return edges


def street(seed: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of 240 x 320 pixels, four boxes on a ground, and strengths around and across them.

    All have fainter edges of their own inside. In every third image, one box holds two objects.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros((240, 320), np.int32)
    edges = np.zeros((240, 320))
    for number, (top, left) in enumerate([(20, 20), (20, 180), (130, 20), (130, 180)], 1):
        bottom, right = top + int(rng.integers(70, 90)), left + int(rng.integers(90, 120))
        labels[top:bottom, left:right] = number
        strength = rng.uniform(0.7, 1)
        edges[top - 1 : bottom, [left - 1, right - 1]] = strength
        edges[[top - 1, bottom - 1], left - 1 : right] = strength
        for _ in range(4):
            row = int(rng.integers(top + 5, bottom - 5))
            start = int(rng.integers(left + 5, right - 45))
            edges[row, start : start + 40] = rng.uniform(0.1, 0.6)
        if number == 1 and seed % 3 == 0:
            middle = (left + right) // 2
            edges[top:bottom, middle] = rng.uniform(0.8, 1)
    return labels, np.maximum(edges, noise * rng.random(edges.shape)).astype(np.float32)


def calibration_of(images: list[tuple[np.ndarray, np.ndarray]]) -> EdgeCalibration:
    total = EdgeStatistics()
    for labels, edges in images:
        total += statistics_of(labels, edges)
    return total.calibrate()
