from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from torch import nn

from trace_d2.edges.sources import EdgeOutput, build_edge_source
from trace_d2.modeling import TraceEdgePredictor


@pytest.fixture(scope="module")
def cfg(make_cfg):
    cfg = make_cfg()
    cfg.MODEL.META_ARCHITECTURE = "TraceEdgePredictor"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.TRACE.BACKBONE.NAME = "trace-tiny"
    cfg.MODEL.TRACE.BACKBONE.RESOLUTION = 64
    cfg.MODEL.TRACE.EMERGENCE.FIXED_TIMESTEP = 300
    cfg.INPUT.MIN_SIZE_TEST = 96
    cfg.freeze()
    return cfg


@pytest.fixture(scope="module")
def model(cfg):
    return build_model(cfg).eval()


IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)  # RGB


def chw(rgb: np.ndarray) -> torch.Tensor:
    """As data loaders give it: BGR, channels first."""
    return torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1)))


def test_edges_are_those_of_the_detector(cfg, model):
    assert isinstance(model, TraceEdgePredictor)
    records = [
        {"image": chw(IMAGE), "file_name": "a/dog.jpg", "height": 48, "width": 64},
        {"image": chw(IMAGE).float(), "file_name": "b/dog.png"},
        {"image": chw(IMAGE), "height": 30, "width": 50},
    ]
    first, second, third = (one["edges"] for one in model(records))
    assert first.dtype == torch.float32
    expected = build_edge_source(cfg)(IMAGE, "dog").edges
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, expected)
    assert third.shape == (30, 50)
    # Without a name the pixels are the key, so that the noise is the same each time.
    assert torch.equal(third, model([records[2]])[0]["edges"])


def test_the_default_predictor_gives_edges_at_the_size_of_its_image(cfg):
    found = DefaultPredictor(cfg)(np.ascontiguousarray(IMAGE[..., ::-1]))["edges"]
    assert found.shape == (48, 64)
    assert found.min() >= 0
    assert found.max() <= 1


def test_checkpoints_hold_no_diffusion_weights_and_load_again(cfg, model, tmp_path):
    assert sum(value.numel() for value in model.state_dict().values()) == 256
    assert list(model.parameters()) == []
    DetectionCheckpointer(model, str(tmp_path)).save("edges")
    DetectionCheckpointer(model).load(str(tmp_path / "edges.pth"))
    other = TraceEdgePredictor(edge_source=model.edge_source, source_name="teacher sd15")
    with pytest.raises(ValueError, match=r"'teacher trace-tiny'.*'teacher sd15'"):
        DetectionCheckpointer(other).load(str(tmp_path / "edges.pth"))


def test_a_checkpoint_of_another_model_is_refused(model, tmp_path):
    DetectionCheckpointer(nn.Linear(2, 2), str(tmp_path)).save("linear")
    with pytest.raises(ValueError, match="not one of a TraceEdgePredictor"):
        DetectionCheckpointer(model).load(str(tmp_path / "linear.pth"))


def test_a_source_with_weights_is_part_of_the_checkpoint():
    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, image: np.ndarray, stem: str) -> EdgeOutput:
            return EdgeOutput(np.full(image.shape[:2], float(self.scale), np.float32))

    model = TraceEdgePredictor(edge_source=Student(), source_name="student")
    assert set(model.state_dict()) == {"edge_source_tag", "edge_source.scale"}
    assert model([{"image": chw(IMAGE)}])[0]["edges"].unique().tolist() == [0.5]


def test_a_source_that_changes_the_size_is_an_error():
    small = EdgeOutput(np.zeros((2, 2), np.float32))
    model = TraceEdgePredictor(edge_source=lambda image, stem: small, source_name="x")
    with pytest.raises(ValueError, match=r"gave \(2, 2\)"):
        model([{"image": chw(IMAGE)}])
