from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from trace_d2.config import get_trace_cfg
from trace_d2.edges import EdgeDetector, build_edge_source, check_edge_source
from trace_d2.edges.sources import EDGE_SOURCES, EdgeOutput, edge_calibration
from trace_d2.io.edge_maps import write_edges
from trace_d2.propagation.calibration import EdgeCalibration

IMAGE = np.zeros((6, 9, 3), np.uint8)


def config(**keys):
    cfg = get_trace_cfg()
    for key, value in keys.items():
        cfg.MODEL.TRACE.EDGES[key] = value
    return cfg


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_files_are_found_by_stem(tmp_path, suffix):
    edges = np.linspace(0, 1, 54).reshape(6, 9)
    write_edges(tmp_path / f"dog.{suffix}", edges)
    source = build_edge_source(config(SOURCE="files", DIR=str(tmp_path)))
    found = source(IMAGE, "dog").edges
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, edges, atol=1e-5)
    with pytest.raises(FileNotFoundError, match=r"cat\.png"):
        source(IMAGE, "cat")


def test_a_file_of_another_size_is_named(tmp_path):
    write_edges(tmp_path / "dog.png", np.zeros((6, 8)))
    source = build_edge_source(config(SOURCE="files", DIR=str(tmp_path)))
    with pytest.raises(ValueError, match=r"dog.png is 6 x 8 .* 6 x 9"):
        source(IMAGE, "dog")


@pytest.mark.parametrize("build", [check_edge_source, build_edge_source])
def test_wrong_keys_are_named_before_anything_is_loaded(build, tmp_path):
    with pytest.raises(ValueError, match=r"MODEL.TRACE.EDGES.SOURCE is 'cany'.*teacher, files"):
        build(config(SOURCE="cany"))
    with pytest.raises(ValueError, match=r"MODEL.TRACE.EDGES.DIR is empty"):
        build(config(SOURCE="files"))
    with pytest.raises(FileNotFoundError, match=r"MODEL.TRACE.EDGES.DIR.*absent"):
        build(config(SOURCE="files", DIR=str(tmp_path / "absent")))


def tiny(device="auto"):
    cfg = config()
    cfg.MODEL.TRACE.BACKBONE.NAME = "trace-tiny"
    cfg.MODEL.TRACE.EMERGENCE.FIXED_TIMESTEP = 300
    cfg.MODEL.TRACE.DEVICE = device
    return cfg


def test_the_teacher_is_the_detector():
    cfg = tiny("cpu")
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    source = build_edge_source(cfg)
    assert isinstance(source, EdgeDetector)
    assert source(image, "a").edges.shape == (64, 48)


def test_auto_follows_the_device_that_is_given_and_then_that_of_the_model():
    cfg = tiny()
    cfg.MODEL.DEVICE = "nowhere"
    cfg.freeze()
    build_edge_source(cfg, "cpu")
    with pytest.raises(ValueError, match="nowhere"):
        build_edge_source(cfg)
    assert cfg.MODEL.TRACE.DEVICE == "auto"
    cfg = tiny("cpu")
    cfg.MODEL.DEVICE = "nowhere"
    build_edge_source(cfg)


def test_the_student_is_checked_before_it_is_loaded(monkeypatch):
    def absent(cfg):
        raise FileNotFoundError("no student.json in nowhere")

    edges = EdgeOutput(np.full((6, 9), 0.25, np.float32))
    student = SimpleNamespace(from_config=lambda cfg: lambda image, key: edges)
    monkeypatch.setitem(EDGE_SOURCES, "student", student)
    monkeypatch.setattr("trace_d2.edges.sources.student_folder", absent)
    for build in (check_edge_source, build_edge_source):
        with pytest.raises(FileNotFoundError, match=r"no student\.json"):
            build(config(SOURCE="student"))
    monkeypatch.setattr("trace_d2.edges.sources.student_folder", lambda cfg: None)
    assert build_edge_source(config(SOURCE="student"))(IMAGE, "a") is edges


def test_sources_are_listed_without_pytorch():
    modules = "trace_d2.edges.sources, trace_d2.edges.baselines"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_calibration_is_the_named_one_or_the_students(tmp_path):
    assert edge_calibration(config()) is None
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(EdgeCalibration.assumed().to_json()))
    assert edge_calibration(config(CALIBRATION=str(path))) == EdgeCalibration.assumed()
    with pytest.raises(FileNotFoundError, match="absent"):
        edge_calibration(config(CALIBRATION=str(tmp_path / "absent.json")))
    cfg = config(SOURCE="student")
    cfg.MODEL.TRACE.BACKBONE.NAME = "trace-tiny"
    carried = edge_calibration(cfg)
    assert carried is not None
    assert carried.images == 48
    assert 0.5 < carried.trust < 1


def test_files_of_edges_that_cut_nothing_are_told(tmp_path, caplog):
    for stem, strength in (("dog", 1 / 255), ("cat", 0.9)):
        edges = np.zeros((6, 9))
        edges[3] = strength
        write_edges(tmp_path / f"{stem}.png", edges)
    source = build_edge_source(config(SOURCE="files", DIR=str(tmp_path)))
    source(IMAGE, "cat")
    assert not caplog.records
    source(IMAGE, "dog")
    source(IMAGE, "dog")
    (message,) = caplog.messages
    assert "dog.png: the edges are nowhere stronger than 0.0039 of 1" in message
