"""The embedded weights: small enough, loadable as any folder, and they see instance edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from trace_d2.config import get_trace_cfg
from trace_d2.edges import EdgeDetector
from trace_d2.edges.baselines import color_gradient_edges
from trace_d2.model_zoo import TRACE_TINY
from trace_d2.scenes.oracle import boundaries
from trace_d2.scenes.procedural import THING_CLASSES, Scene, make_scene


def test_at_most_16_megabytes_with_a_card() -> None:
    files = [path for path in TRACE_TINY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16e6
    assert "no substitute for\nSD3.5" in (TRACE_TINY / "README.md").read_text()


@pytest.fixture(scope="module")
def detector() -> EdgeDetector:
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.BACKBONE.NAME = "trace-tiny"
    cfg.MODEL.TRACE.DEVICE = "cpu"
    cfg.MODEL.TRACE.EMERGENCE.FIXED_TIMESTEP = 500
    return EdgeDetector.from_config(cfg)


def contrast(scene: Scene, edges: np.ndarray) -> float:
    """Mean strength at the boundaries over that inside things, 4 pixels from any boundary."""
    truth = boundaries(scene.segment_ids) > 0
    things = scene.semantic() <= len(THING_CLASSES)
    inside = things & (ndimage.distance_transform_edt(~truth) >= 4)
    return float(edges[truth].mean() / edges[inside].mean())


def test_edges_tell_boundaries_from_texture(detector: EdgeDetector) -> None:
    """Colour gradients cannot: they are as strong inside a textured thing."""
    scenes = [make_scene(0, index) for index in range(6)]
    ours = [contrast(s, detector(s.image, key=str(i)).edges) for i, s in enumerate(scenes)]
    gradients = [contrast(s, color_gradient_edges(s.image)) for s in scenes]
    assert np.mean(ours) > 1.5
    assert np.mean(ours) > 1.3 * np.mean(gradients)


def test_larger_images_are_read_too(detector: EdgeDetector) -> None:
    scene = make_scene(0, 5, (160, 224))
    out = detector(scene.image, key="5")
    assert out.edges.shape == (160, 224)
    assert out.abdiv.shape == (32, 32)
