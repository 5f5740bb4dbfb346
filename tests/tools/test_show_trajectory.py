"""tools/show_trajectory.py with the embedded backbone on a small scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trace_d2.edges.trajectory import Trajectory, TrajectoryStep
from trace_d2.jobs import trajectory_sheet

KEYS = ["MODEL.TRACE.EMERGENCE.STRIDE", "300", "MODEL.TRACE.BACKBONE.RESOLUTION", "64"]


def test_sheet_with_truth_and_student(
    load_tool, small_scenes: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = load_tool("show_trajectory")
    panels: list[str] = []
    plain = trajectory_sheet.draw_sheet

    def draw_sheet(image, shown, trajectory, metric, note):
        panels.extend(title for title, _, _ in shown)
        assert "on it t = 0 is sharper" in note
        return plain(image, shown, trajectory, metric, note)

    monkeypatch.setattr(trajectory_sheet, "draw_sheet", draw_sheet)
    student = ("student's edges", np.zeros((64, 64), np.float32), {"cmap": "gray"})
    monkeypatch.setattr(tool, "student_panel", lambda *_: student)
    image = next((small_scenes / "images").iterdir())
    output = tmp_path / "sheet.png"
    command = [str(image), "--truth", str(small_scenes / "panoptic" / image.name), "--quiet"]
    assert tool.main([*command, "--output", str(output), *KEYS]) == 0
    with Image.open(output) as sheet:
        assert sheet.width > 800
        assert np.asarray(sheet.convert("RGB")).std() > 20
    assert [title.split(",")[0].split(" at")[0].split(":")[0] for title in panels] == [
        "image", "true segments", "teacher's edges", "pseudo edges", "student's edges",
    ]  # fmt: skip
    assert "t* = " in capsys.readouterr().out


def test_the_pseudo_edges_are_those_that_a_student_is_trained_on(load_tool) -> None:
    from trace_d2.jobs.command_line import load_cfg

    tool = load_tool("show_trajectory")
    assert load_cfg(str(tool.CONFIG), []).MODEL.TRACE.ABDIV.THRESHOLD == "upper_band"
    large = tool.CONFIG.with_name("sd35_large_distill.yaml")
    assert load_cfg(str(large), []).MODEL.TRACE.ABDIV.THRESHOLD == "upper_band"


def test_without_a_student_the_sheet_says_so(
    load_tool, small_scenes: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = load_tool("show_trajectory")
    image = next((small_scenes / "images").iterdir())
    monkeypatch.chdir(tmp_path)
    named = ["MODEL.TRACE.STUDENT.WEIGHTS", str(tmp_path / "none")]
    assert tool.main([str(image), "--quiet", *KEYS, *named]) == 0
    assert "no student: " in capsys.readouterr().out
    assert (tmp_path / f"{image.stem}_trajectory.png").is_file()


def test_many_steps_take_several_rows() -> None:
    blank = np.zeros((4, 4), np.float32)
    steps = tuple(
        TrajectoryStep(40 * n, np.zeros((4, 4, 3), np.float32), blank, blank) for n in range(25)
    )
    curve = {step.timestep: 0.1 for step in steps[1:]} | {480: 0.3}
    trajectory = Trajectory(steps, curve, 480, steps[12], np.zeros((8, 16), np.float32))
    figure = trajectory_sheet.draw_sheet(np.zeros((8, 16, 3), np.uint8), [], trajectory, "kl")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles.count("t* = 480") == 1
    assert sum(title.startswith("t = ") for title in titles) == 24
    assert len(figure.axes) == 1 + 2 * 25
    (curve,) = (title for title in titles if title.startswith("kl"))
    assert "t* = 480 is where the attention changes most" in curve
    assert "t = 0 has no step before it" in curve
    assert "Edges are read" not in curve


def test_the_sheet_says_where_edges_are_read_if_not_at_the_step_that_was_found() -> None:
    blank = np.zeros((4, 4), np.float32)
    steps = tuple(TrajectoryStep(t, np.zeros((4, 4, 3)), blank, blank) for t in (0, 500, 900))
    trajectory = Trajectory(steps, {500: 0.2, 900: 0.1}, 500, steps[0], blank)
    told = trajectory_sheet.explanation(trajectory)
    assert told.endswith("Edges are read at t = 0, as configured.")


def test_wrong_commands_are_explained(load_tool, small_scenes: Path, tmp_path: Path, capsys):
    tool = load_tool("show_trajectory")
    image = str(next((small_scenes / "images").iterdir()))
    truth = tmp_path / "truth.png"
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(truth)
    for command, message in (
        (["none.png"], "none.png"),
        ([image, "MODEL.TRACE.EMERGENCE.STRIDE", "5"], "take 10 or more"),
        ([image, "--truth", str(truth)], "but the image is"),
        ([image, "MODEL.TRACE.NO_KEY", "5"], "NO_KEY"),
    ):
        assert tool.main(command) == 2
        assert message in capsys.readouterr().err


def test_a_source_that_has_no_trajectory_is_refused(load_tool, small_scenes: Path, capsys) -> None:
    image = next((small_scenes / "images").iterdir())
    assert load_tool("show_trajectory").main([str(image), "MODEL.TRACE.EDGES.SOURCE", "sobel"]) == 2
    assert "SOURCE is sobel, but the sheet shows the teacher's way" in capsys.readouterr().err
