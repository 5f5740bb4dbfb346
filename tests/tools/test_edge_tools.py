"""Where edges of the tools come from: a student, baselines, what the config and options say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from edge_tools import ToolJob, find_edges
from PIL import Image

from trace_d2.complaints import Complaints
from trace_d2.edges.baselines import color_gradient_edges, fixed_canny_edges
from trace_d2.edges.sources import EDGE_SOURCES, EdgeOutput
from trace_d2.io.edge_maps import quantise_edges, read_edges
from trace_d2.jobs.command_line import load_cfg
from trace_d2.jobs.edge_options import edge_cfg
from trace_d2.jobs.kinds.edges import PredictedEdgeJob, PseudoEdgeJob

CONFIGS = Path(__file__).parents[2] / "configs/edges"


@pytest.fixture
def student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A student in place of the real one; ``folder`` holds its file, and ``fail`` its fault."""
    own = SimpleNamespace(folder=tmp_path / "student", fail=None, weights=[])
    own.folder.mkdir()
    (own.folder / "student.json").write_text("{}")

    def from_config(cfg: object):
        if own.fail is not None:
            raise own.fail
        own.weights.append(cfg.MODEL.TRACE.STUDENT.WEIGHTS)
        return lambda image, key: EdgeOutput(find_edges(image, key).edges, timestep=0)

    def student_folder(cfg: object) -> Path:
        if not own.folder.is_dir():
            raise FileNotFoundError(f"no student in {own.folder}")
        return own.folder

    monkeypatch.setitem(EDGE_SOURCES, "student", SimpleNamespace(from_config=from_config))
    monkeypatch.setattr("trace_d2.edges.sources.student_folder", student_folder)
    monkeypatch.setattr("trace_d2.edges.student_files.student_folder", student_folder)
    monkeypatch.setattr("trace_d2.edges.preflight.student_folder", student_folder)
    monkeypatch.setattr("trace_d2.edges.preflight._check_student", lambda *_: None)
    return own


def test_predicted_edges(tmp_path, load_tool, student, capsys) -> None:
    job = ToolJob(tmp_path, load_tool("predict_edges"))
    assert job.run("--weights", "some/student") == 0
    assert student.weights == ["some/student"]
    assert "pseudo edges" not in capsys.readouterr().out
    assert not (job.output / "pseudo_edges").exists()
    assert {record.get("timestep") for record in job.journal().values()} == {None}
    page = (job.output / "report.html").read_text()
    assert "<h1>Predicted edges</h1>" in page
    assert "student of sd35-large" in page
    assert "mergence point" not in page
    edges = read_edges(job.output / "edges/s0.png")
    found = find_edges(np.asarray(Image.open(job.images / "s0.png")), "s0")
    np.testing.assert_array_equal(edges, quantise_edges(found.edges))
    (student.folder / "student.json").write_text("{1}")
    assert job.run() == 2
    assert "student: " in capsys.readouterr().err
    assert job.run("--overwrite") == 0


def test_a_student_that_cannot_be_loaded(tmp_path, load_tool, student, capsys) -> None:
    job = ToolJob(tmp_path, load_tool("predict_edges"))
    student.fail = ValueError("it is of another backbone")
    assert job.run("--weights", "x/y") == 2
    said = capsys.readouterr().err
    assert "error: the student x/y cannot be loaded: it is of another backbone" in said
    shutil.rmtree(student.folder)
    assert job.run() == 2
    said = capsys.readouterr().err
    assert "error: no student in" in said


def test_folders_of_the_two_tools_are_told_apart(edge_job, load_tool, student, capsys) -> None:
    assert edge_job.run() == 0
    predict = load_tool("predict_edges")
    paths = ["--images", str(edge_job.images), "--output", str(edge_job.output)]
    for arguments in ([*paths, "--overwrite"], ["--merge", str(edge_job.output)]):
        assert predict.main(arguments) == 2
        assert "holds pseudo edges, not edges: choose another" in capsys.readouterr().err
    assert PredictedEdgeJob.layout.kind != PseudoEdgeJob.layout.kind


def test_the_other_ones_source_is_refused_on_the_command_line(edge_job, load_tool, student, capsys):
    key = "MODEL.TRACE.EDGES.SOURCE"
    for name in ("student", "files"):
        assert edge_job.run(key, name) == 2
        said = capsys.readouterr().err
        assert f"{key} is {name}, but pseudo edges are always the teacher's" in said
        assert "tools/predict_edges.py" in said
    config = edge_job.root / "distill.yaml"  # as that of a student has it
    config.write_text("MODEL: {TRACE: {EDGES: {SOURCE: student}}}\n")
    assert edge_job.run("--config-file", str(config)) == 0
    assert edge_job.run("--config-file", str(config), key, "teacher") == 0
    paths = ["--images", str(edge_job.images), "--output", str(edge_job.root / "other")]
    assert load_tool("predict_edges").main([*paths, key, "teacher"]) == 2
    assert "tools/make_pseudo_edges.py" in capsys.readouterr().err


def test_edges_of_baselines(tmp_path, load_tool, weights_of_hed, capsys) -> None:
    job, key = ToolJob(tmp_path, load_tool("predict_edges")), "MODEL.TRACE.EDGES.SOURCE"
    weights = weights_of_hed.write_red(tmp_path / "hed.h5", 0.0)
    hed = (key, "hed", "MODEL.TRACE.EDGES.HED_WEIGHTS", str(weights))
    assert job.run(*hed) == 0
    image = np.asarray(Image.open(job.images / "s3.png"))
    edges = read_edges(job.output / "edges/s3.png")
    np.testing.assert_allclose(edges, weights_of_hed.red_edges(image, 0.0), atol=1e-5)
    settings = json.loads((job.output / "settings.json").read_text())
    assert f"HED (weights {settings['hed']})" in (job.output / "report.html").read_text()
    moved = weights.rename(tmp_path / "same.h5")
    assert job.run(*hed[:-1], str(moved)) == 0
    assert "5 finished (5 of them before)" in capsys.readouterr().out
    weights_of_hed.write_red(weights, 1.0)
    assert job.run(*hed) == 2
    assert "hed: " in capsys.readouterr().err
    weights.write_bytes(moved.read_bytes()[:-9])
    assert job.run(*hed) == 2
    assert "hed.h5 is no whole HDF5 file" in capsys.readouterr().err

    config = tmp_path / "canny.yaml"  # a source of the file is taken as well
    config.write_text("MODEL: {TRACE: {EDGES: {SOURCE: canny, CANNY: [60, 90]}}}\n")
    assert job.run("--config-file", str(config), "--overwrite") == 0
    edges = read_edges(job.output / "edges/s3.png")
    np.testing.assert_array_equal(edges, fixed_canny_edges(image, 60, 90))
    assert "Canny at 60 and 90" in (job.output / "report.html").read_text()
    capsys.readouterr()
    assert job.run("--config-file", str(config), "MODEL.TRACE.EDGES.CANNY", "[60,91]") == 2
    assert "EDGES.CANNY: " in capsys.readouterr().err
    assert job.run(key, "sobel", "--weights", "some/student") == 2
    assert "--weights is a student's folder, but" in capsys.readouterr().err
    assert job.run(key, "files") == 2
    assert "or those of hed, canny, sobel, gradient" in capsys.readouterr().err


def test_a_mistyped_source_is_all_that_is_said(tmp_path, load_tool, capsys) -> None:
    key = "MODEL.TRACE.EDGES.SOURCE"
    job = ToolJob(tmp_path, load_tool("predict_edges"))
    assert job.run(key, "cany") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {key} is cany (did you mean canny?), but these edges are")
    job.tool = load_tool("make_pseudo_edges")
    assert job.run(key, "sobel") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {key} is sobel, but pseudo edges are always the teacher's")


def test_options_of_other_sources_are_not_left_out_in_silence(label_job, capsys) -> None:
    label_job.add("a")
    assert label_job.run("MODEL.TRACE.EDGES.SOURCE", "sobel") == 2
    said = capsys.readouterr().err
    assert "are given, but MODEL.TRACE.EDGES.SOURCE is sobel: leave out one" in said
    canny = ("MODEL.TRACE.EDGES.CANNY", "[60,90]")
    assert label_job.run(*canny) == 0
    said = capsys.readouterr().err
    assert "CANNY means nothing, as MODEL.TRACE.EDGES.SOURCE is files" in said
    assert label_job.run(*canny, "MODEL.TRACE.EDGES.SOURCE", "canny", "--overwrite", edges=[]) == 0
    assert "means nothing" not in capsys.readouterr().err


def test_labels_by_a_baseline(label_job) -> None:
    label_job.add("a", "b")
    gradient = ("MODEL.TRACE.EDGES.SOURCE", "gradient")
    assert label_job.run(*gradient, edges=["--save-edges"]) == 0
    image = np.asarray(Image.open(label_job.root / "images/a.png"))
    kept = read_edges(label_job.output / "edges/a.png")
    np.testing.assert_array_equal(kept, quantise_edges(color_gradient_edges(image)))
    assert "colour gradient" in (label_job.output / "report.html").read_text()
    assert json.loads((label_job.output / "calibration.json").read_text())["images"] == 2


def test_masks_by_a_baseline(mask_job) -> None:
    mask_job.add("a.png", "b.png")
    canny = ("MODEL.TRACE.EDGES.SOURCE", "canny", "MODEL.TRACE.EDGES.CANNY", "[100,200]")
    assert mask_job.run(*canny, edges=[]) == 0
    assert mask_job.refined()["annotations"]
    assert "Canny at 100 and 200" in (mask_job.work / "report.html").read_text()


def test_every_job_takes_the_student(label_job, student, capsys) -> None:
    label_job.add("a", "b")
    opts = ["MODEL.TRACE.EDGES.SOURCE", "student"]
    assert label_job.run(*opts, edges=["--save-edges"]) == 0
    settings = json.loads((label_job.output / "settings.json").read_text())
    assert settings["edges"] == "student"
    assert "timestep" not in label_job.journal()["a"]
    page = (label_job.output / "report.html").read_text()
    assert "student of sd35-large" in page
    assert "mergence point" not in page
    kept = read_edges(label_job.output / "edges/a.png")
    image = np.asarray(Image.open(label_job.root / "images/a.png"))
    np.testing.assert_array_equal(kept, quantise_edges(find_edges(image, "a").edges))
    (student.folder / "student.json").write_text("{2}")
    assert label_job.run(*opts, edges=["--save-edges"]) == 2
    assert "student: " in capsys.readouterr().err


def test_sources_on_the_command_line(student) -> None:
    def source_of(name: str) -> str:
        opts = ["MODEL.TRACE.EDGES.SOURCE", name]
        args = SimpleNamespace(no_edges=False, edges=None, config_file=None, opts=opts)
        wrong = Complaints()
        cfg = edge_cfg(wrong, args)
        wrong.end()
        return cfg.MODEL.TRACE.EDGES.SOURCE

    assert source_of("student") == "student"
    with pytest.raises(ValueError, match=r"one of teacher, files, student"):
        source_of("magic")
    with pytest.raises(ValueError, match=r"did you mean teacher\?"):
        source_of("techer")


@pytest.mark.parametrize("name", ["trace_tiny", "sd35_large"])
def test_configs_of_the_training_serve_the_tools(name) -> None:
    cfg = load_cfg(str(CONFIGS / f"{name}_distill.yaml"), ["MODEL.TRACE.SEED", "3"])
    trace = cfg.MODEL.TRACE
    assert trace.BACKBONE.NAME.replace("-", "_") == name
    assert trace.EDGES.SOURCE == "student"
    assert (cfg.MODEL.TRACE.SEED, set(cfg.MODEL)) == (3, {"TRACE", "DEVICE"})
