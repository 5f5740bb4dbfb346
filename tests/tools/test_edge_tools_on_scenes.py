"""The tools that detect edges with the real backbone, on two small scenes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trace_d2.io.edge_maps import quantise_edges, read_edges, read_ternary
from trace_d2.jobs.command_line import load_cfg

CONFIG = str(Path(__file__).parents[2] / "configs/edges/trace_tiny.yaml")
ON_CPU = ["MODEL.TRACE.DEVICE", "cpu"]


def test_trace_tiny_on_scenes(tmp_path, load_tool, small_scenes, capsys) -> None:
    """The real teacher; the labels agree with the edge strengths of the same threshold."""
    images = str(small_scenes / "images")
    arguments = ["--config-file", CONFIG, "--images", images, "--quiet", *ON_CPU]
    arguments += ["MODEL.TRACE.EMERGENCE.FIXED_TIMESTEP", "0"]
    output = tmp_path / "out"
    tool = load_tool("make_pseudo_edges")
    assert tool.main([*arguments, "--output", str(output), "--workers", "1"]) == 0
    remark = "trace-tiny, the backbone that comes with trace_d2, has never seen a photograph"
    assert f"note: {remark}" in capsys.readouterr().out
    assert remark in (output / "report.html").read_text()
    for path in (output / "pseudo_edges").iterdir():
        labels, edges = read_ternary(path), read_edges(output / "edges" / path.name)
        assert labels.shape == edges.shape == (64, 64)
        assert set(np.unique(labels)) >= {-1, 1}
        # Strengths are clipped before they are upsampled, ABDiv is not.
        assert ((labels == 1) | (edges <= 0.5)).all()
        assert ((labels == 1) == (edges > 0.5)).mean() > 0.95


def test_a_student_of_trace_tiny_on_scenes(tmp_path, load_tool, small_scenes, capsys) -> None:
    """The real student, untrained: the files hold what its detector gives."""
    from trace_d2.edges.detector import StudentDetector
    from trace_d2.edges.student import EdgeStudent
    from trace_d2.edges.student_loading import save_student

    weights = str(tmp_path / "student")
    opts = [*ON_CPU, "MODEL.TRACE.STUDENT.LORA.RANK", "2"]
    student = EdgeStudent.from_config(load_cfg(CONFIG, opts))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.trainable().values():
            parameter.normal_(std=0.05, generator=generator)
    save_student(student, weights)
    output, images = tmp_path / "out", small_scenes / "images"
    arguments = ["--config-file", CONFIG, "--images", str(images), "--output", str(output)]
    arguments += ["--weights", weights, "--workers", "1", "--quiet", *ON_CPU]
    tool = load_tool("predict_edges")
    assert tool.main(arguments) == 0
    assert "2 finished (0 of them before)" in capsys.readouterr().out
    cfg = load_cfg(CONFIG, [*ON_CPU, "MODEL.TRACE.STUDENT.WEIGHTS", weights])
    detector = StudentDetector.from_config(cfg)
    for path in images.iterdir():
        edges = detector(np.asarray(Image.open(path)), path.stem).edges
        found = read_edges(output / f"edges/{path.stem}.png")
        np.testing.assert_array_equal(found, quantise_edges(edges))
        assert found.std() > 0
    shutil.rmtree(Path(weights) / "lora")
    assert tool.main(arguments) == 2
    assert "is no student: it has no lora" in capsys.readouterr().err
