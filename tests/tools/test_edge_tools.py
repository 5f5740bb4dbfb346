"""Jobs that detect edges as users run them: the teacher's pseudo edges, the student's edges."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from trace_d2.complaints import Complaints
from trace_d2.edges.abdiv import ternary_edges
from trace_d2.edges.baselines import color_gradient_edges, fixed_canny_edges
from trace_d2.edges.sources import EDGE_SOURCES, EdgeOutput
from trace_d2.io.edge_maps import quantise_edges, read_edges, read_ternary
from trace_d2.jobs.command_line import load_cfg
from trace_d2.jobs.edge_options import edge_cfg
from trace_d2.jobs.kinds.edges import PredictedEdgeJob, PseudoEdgeJob

CONFIGS = Path(__file__).parents[2] / "configs/edges"
STEMS = [f"s{number}" for number in range(5)]
SIZE = (12, 16)
DETECTOR = "trace_d2.jobs.kinds.edge_job.build_edge_source"


def find_edges(image: np.ndarray, key: str) -> EdgeOutput:
    """A teacher of any image's own: random edges and ABDiv."""
    rng = np.random.default_rng(image.sum() + image[0, 0].sum())
    edges = rng.random(image.shape[:2], np.float32)
    return EdgeOutput(edges=edges, abdiv=rng.random((3, 4), np.float32), timestep=400)


class ToolJob:
    """A folder of images and the command of a tool on it."""

    def __init__(self, root: Path, tool: ModuleType) -> None:
        self.root, self.tool = root, tool
        self.images, self.output = root / "images", root / "out"
        self.images.mkdir()
        for number, stem in enumerate(STEMS):
            image = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)
            Image.fromarray(image).save(self.images / f"{stem}.png")

    def run(self, *extra: str) -> int:
        workers = () if "--workers" in extra else ("--workers", "1")
        places = ("--images", str(self.images), "--output", str(self.output))
        return self.tool.main([*places, "--quiet", *workers, *extra])

    def merge(self) -> int:
        return self.tool.main(["--merge", str(self.output)])

    def journal(self) -> dict[str, dict]:
        lines = (self.output / "journal.jsonl").read_text().splitlines()
        return {r["stem"]: {**r, **r["facts"]} for r in map(json.loads, lines)}

    def contents(self) -> dict[str, bytes]:
        """What must not depend on how the job was run."""
        names = ("edges", "pseudo_edges", "annotations", "previews")
        paths = [path for name in names for path in (self.output / name).glob("*")]
        return {str(path.relative_to(self.output)): path.read_bytes() for path in paths}


@pytest.fixture
def job(tmp_path: Path, load_tool, monkeypatch: pytest.MonkeyPatch) -> ToolJob:
    """The teacher's tool, with ``find_edges`` for a teacher."""
    monkeypatch.setattr(DETECTOR, lambda cfg: find_edges)
    return ToolJob(tmp_path, load_tool("make_pseudo_edges"))


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


def test_files_of_pseudo_edges(job, capsys) -> None:
    assert job.run() == 0
    said = capsys.readouterr().out
    assert "5 finished (0 of them before), 0 skipped, 0 failed" in said
    assert re.search(r"pseudo edges: \d+\.\d% edge, \d+\.\d% none, \d+\.\d% ignored", said)
    for stem, record in job.journal().items():
        found = find_edges(np.asarray(Image.open(job.images / f"{stem}.png")), stem)
        labels = read_ternary(job.output / f"pseudo_edges/{stem}.png")
        np.testing.assert_array_equal(labels, ternary_edges(found.abdiv, SIZE))
        edges = read_edges(job.output / f"edges/{stem}.png")
        np.testing.assert_array_equal(edges, quantise_edges(found.edges))
        assert (record["status"], record["timestep"]) == ("done", 400)
        shares = [(labels == label).mean() for label in (1, 0, -1)]
        np.testing.assert_allclose(record["shares"], shares, atol=1e-6)
        note = json.loads((job.output / f"annotations/{stem}.json").read_text())
        assert note == {"height": 12, "width": 16}
    page = (job.output / "report.html").read_text()
    assert "<h1>Pseudo edges</h1>" in page
    assert "Instance emergence point" in page
    assert page.count("<figure>") == 3 * len(STEMS)


def test_images_without_negatives_are_told(job, monkeypatch, capsys) -> None:
    tail = np.full((3, 4), 0.01, np.float32)
    tail[1, 1] = 1.0

    def detect(image: np.ndarray, key: str) -> SimpleNamespace:
        return EdgeOutput(edges=find_edges(image, key).edges, abdiv=tail, timestep=0)

    monkeypatch.setattr(DETECTOR, lambda cfg: detect)
    assert job.run() == 0
    said = capsys.readouterr().out
    assert "5 of 5 images have no negative (none) pixel" in said
    assert "MODEL.TRACE.ABDIV.THRESHOLD upper_band takes" in said
    assert "no negative (none) pixel" in (job.output / "report.html").read_text()
    assert job.run("--overwrite", "MODEL.TRACE.ABDIV.THRESHOLD", "mean") == 0
    assert "no negative" not in capsys.readouterr().out
    assert job.run("--overwrite", "MODEL.TRACE.ABDIV.THRESHOLD", "mean") == 0
    assert "5 finished (5 of them before)" in capsys.readouterr().out


def expected_contents(job: ToolJob) -> dict[str, bytes]:
    """What an undisturbed run gives; removes it again."""
    assert job.run() == 0
    contents = job.contents()
    shutil.rmtree(job.output)
    return contents


@pytest.mark.parametrize("target", ["keep_edges", "pictures", "write", "facts"])
def test_after_an_interrupt_the_same_command_goes_on(job, target, monkeypatch, capsys) -> None:
    expected = expected_contents(job)
    plain, calls = getattr(PseudoEdgeJob, target), []

    def interrupt(self, *inputs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(PseudoEdgeJob, target, interrupt)
        assert job.run() == 130
    assert job.merge() == 3
    assert "3 not finished yet" in (said := capsys.readouterr()).out
    assert "the same command continues" in said.err
    assert job.run() == 0
    assert "5 finished (2 of them before)" in capsys.readouterr().out
    assert job.contents() == expected


def test_shards_and_workers_make_the_files_of_one_run(job, capsys) -> None:
    expected = expected_contents(job)
    assert job.run("--shard", "2/2", "--workers", "2") == 0
    said = capsys.readouterr().out
    assert "--merge" in said
    assert "pseudo edges: " in said
    assert job.merge() == 3
    assert "3 not finished yet: run the missing shards" in capsys.readouterr().out
    assert job.run("--shard", "1/2") == 0
    assert job.merge() == 0
    assert "5 finished" in capsys.readouterr().out
    assert job.contents() == expected
    assert not list((job.output / "shards").iterdir())
    assert sorted(job.journal()) == STEMS


def test_changed_settings_need_overwrite(job, capsys) -> None:
    assert job.run() == 0
    before = job.contents()
    assert job.run("MODEL.TRACE.ABDIV.THRESHOLD", "mean") == 2
    assert "THRESHOLD: mean_std there, mean now" in capsys.readouterr().err
    assert job.contents() == before
    (job.images / "s4.png").unlink()
    assert job.run("MODEL.TRACE.ABDIV.THRESHOLD", "mean", "--overwrite") == 0
    assert -1 not in read_ternary(job.output / "pseudo_edges/s0.png")
    assert not (job.output / "pseudo_edges/s4.png").exists()


def test_a_damaged_image_is_recorded_and_made_once_it_is_whole(job, capsys) -> None:
    path = job.images / "s2.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-60])
    assert job.run() == 3
    assert "4 finished (0 of them before), 0 skipped, 1 failed" in (said := capsys.readouterr()).out
    assert re.search(r"failed: s2\.png: .*cannot be read", said.err)
    assert "s2.png" in (job.output / "report.html").read_text()
    assert not (job.output / "edges/s2.png").exists()
    path.write_bytes(whole)
    assert job.run() == 0
    assert "5 finished (4 of them before)" in capsys.readouterr().out
    assert len(job.contents()) == 4 * len(STEMS)


def test_a_changed_image_and_a_lost_file_are_made_again(job, capsys) -> None:
    expected = expected_contents(job)
    assert job.run() == 0
    (job.output / "pseudo_edges/s1.png").unlink()
    time.sleep(0.01)
    (job.images / "s3.png").write_bytes((job.images / "s3.png").read_bytes())
    assert job.run() == 0
    assert "5 finished (3 of them before)" in capsys.readouterr().out
    assert job.contents() == expected


def test_the_next_image_is_read_while_one_is_looked_at(job, monkeypatch) -> None:
    read: dict[str, threading.Event] = {stem: threading.Event() for stem in STEMS}
    plain = PseudoEdgeJob.load

    def load(self, entry):
        read[entry.stem].set()
        return plain(self, entry)

    def detect(image: np.ndarray, key: str) -> SimpleNamespace:
        following = STEMS.index(key) + 1
        if following < len(STEMS):
            assert read[STEMS[following]].wait(30), f"{STEMS[following]} is not read ahead"
        if following + 1 < len(STEMS):  # and memory stays bounded
            assert not read[STEMS[following + 1]].is_set()
        return find_edges(image, key)

    monkeypatch.setattr(PseudoEdgeJob, "load", load)
    monkeypatch.setattr(PseudoEdgeJob, "probe", lambda *_: None)  # which reads some before
    monkeypatch.setattr(DETECTOR, lambda cfg: detect)
    assert job.run() == 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--shard", "3/2"], r"--shard is I/N"),
        (["--config-file", "nowhere.yaml"], r"no config file at nowhere\.yaml"),
        (["MODEL.TRACE.NONSENSE", "1"], r"NONSENSE"),
        (["--images", "nowhere"], r"no folder of images at nowhere"),
    ],
)
def test_usage_errors(job, capsys, extra: list[str], message: str) -> None:
    assert job.run(*extra) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not job.output.exists()
    assert job.tool.main([]) == 2
    assert "--images, --output missing" in capsys.readouterr().err


def test_the_teacher_looks_whatever_the_source_is(job, tmp_path, capsys) -> None:
    config = tmp_path / "distill.yaml"
    config.write_text(
        "MODEL: {META_ARCHITECTURE: X, TRACE: {SEED: 7, EDGES: {SOURCE: student}}}\n"
        "SOLVER: {MAX_ITER: 9}\nINPUT: {FORMAT: RGB}\nVERSION: 2\n"
    )
    assert job.run("--config-file", str(config)) == 0
    settings = json.loads((job.output / "settings.json").read_text())
    assert (settings["edges"], settings["MODEL.TRACE.SEED"]) == ("teacher", 7)
    config.write_text("MODEL: {TRACE: {SEED: 7}}\nSOLVER: {MAX_ITER: 9}\n")
    assert job.run("--config-file", str(config)) == 2  # no training config, so a misspelt key
    assert "SOLVER" in capsys.readouterr().err


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


def test_folders_of_the_two_tools_are_told_apart(job, load_tool, student, capsys) -> None:
    assert job.run() == 0
    predict = load_tool("predict_edges")
    paths = ["--images", str(job.images), "--output", str(job.output)]
    for arguments in ([*paths, "--overwrite"], ["--merge", str(job.output)]):
        assert predict.main(arguments) == 2
        assert "holds pseudo edges, not edges: choose another" in capsys.readouterr().err
    assert PredictedEdgeJob.layout.kind != PseudoEdgeJob.layout.kind


def test_the_other_ones_source_is_refused_on_the_command_line(job, load_tool, student, capsys):
    key = "MODEL.TRACE.EDGES.SOURCE"
    for name in ("student", "files"):
        assert job.run(key, name) == 2
        said = capsys.readouterr().err
        assert f"{key} is {name}, but pseudo edges are always the teacher's" in said
        assert "tools/predict_edges.py" in said
    config = job.root / "distill.yaml"  # as that of a student has it
    config.write_text("MODEL: {TRACE: {EDGES: {SOURCE: student}}}\n")
    assert job.run("--config-file", str(config)) == 0
    assert job.run("--config-file", str(config), key, "teacher") == 0
    paths = ["--images", str(job.images), "--output", str(job.root / "other")]
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
