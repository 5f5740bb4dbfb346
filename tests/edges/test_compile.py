"""``MODEL.TRACE.BACKBONE.COMPILE``: compiled teachers and students find what eager ones do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trace_d2.edges.detector import EdgeDetector, StudentDetector
from trace_d2.edges.student import EdgeStudent
from trace_d2.edges.student_loading import save_student

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def compiled(monkeypatch) -> list[str]:
    """Classes of the modules that were compiled, by a backend that takes no time."""
    names: list[str] = []
    compile_module = nn.Module.compile

    def record(module: nn.Module) -> None:
        names.append(type(module).__name__)
        compile_module(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", record)
    torch._dynamo.reset()
    yield names
    torch._dynamo.reset()


def test_a_compiled_teacher(student_cfg, compiled) -> None:
    keys = {"EMERGENCE__STRIDE": 400, "BACKBONE__NULL_PROMPT": "zeros"}
    expected = EdgeDetector.from_config(student_cfg("sd3", **keys))(IMAGE, "a")
    assert compiled == []
    teacher = EdgeDetector.from_config(student_cfg("sd3", BACKBONE__COMPILE=True, **keys))
    for _ in range(2):  # the first pass of a network runs eagerly
        found = teacher(IMAGE, "a")
        assert found.timestep == expected.timestep
        np.testing.assert_allclose(found.abdiv, expected.abdiv, atol=1e-5)
    assert set(compiled) == {"JointTransformerBlock"}


@pytest.mark.parametrize("merge", [True, False])
def test_a_compiled_student(merge, student_cfg, make_student, compiled, tmp_path) -> None:
    save_student(make_student("flux"), tmp_path / "student")
    keys = {"STUDENT__WEIGHTS": str(tmp_path / "student"), "STUDENT__MERGE_LORA": merge}
    expected = StudentDetector.from_config(student_cfg("flux", **keys))(IMAGE, "a").edges
    student = StudentDetector.from_config(student_cfg("flux", BACKBONE__COMPILE=True, **keys))
    for _ in range(3):
        np.testing.assert_allclose(student(IMAGE, "a").edges, expected, atol=1e-5)
    assert set(compiled) == {"FluxTransformerBlock", "FluxSingleTransformerBlock"}


def test_a_student_in_training_is_not_compiled(student_cfg) -> None:
    with pytest.raises(ValueError, match=r"BACKBONE\.COMPILE is for inference: set it to False"):
        EdgeStudent.from_config(student_cfg("flux", BACKBONE__COMPILE=True))


def test_a_pytorch_that_cannot_is_told(student_cfg, monkeypatch) -> None:
    monkeypatch.setattr("trace_d2.backbones.backbone.CAN_WATCH_COMPILED", False)
    with pytest.raises(ValueError, match=r"BACKBONE\.COMPILE needs a newer PyTorch"):
        EdgeDetector.from_config(student_cfg("sd3", BACKBONE__COMPILE=True))
