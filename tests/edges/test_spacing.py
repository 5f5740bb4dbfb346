"""Trajectories of the scheduler's own spacing: what is read, searched, written down and shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trace_d2.edges.detector import EdgeDetector, EmergenceSettings
from trace_d2.edges.emergence import instance_emergence_point
from trace_d2.edges.trajectory import read_trajectory
from trace_d2.jobs.command_line import TEACHER
from trace_d2.jobs.journal import DONE, JournalWriter, Record
from trace_d2.jobs.on_disk import read_journals
from trace_d2.jobs.trajectory_sheet import draw_sheet

SCHEDULED = EmergenceSettings(stride=200, batch=2, spacing="scheduler")


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8)


@pytest.mark.parametrize("family", ["sd15", "sdxl", "pixart", "sd3", "flux"])
def test_the_search_is_along_the_schedule(family, build_tiny, image) -> None:
    detector = EdgeDetector(build_tiny(family), SCHEDULED)
    found = detector(image, "a")
    timesteps = detector.backbone.scheduled_timesteps(5, (32, 32))
    assert len(timesteps) == 5
    assert list(found.curve) == list(timesteps[1:])
    # One timestep a pass, read without the detector.
    view = detector.view(image, "a")
    plain = instance_emergence_point(view, timesteps)
    assert found.timestep == plain.timestep
    assert found.curve == pytest.approx(plain.curve, rel=1e-3)


def test_the_shift_of_sd3_by_hand(build_tiny) -> None:
    timesteps = EdgeDetector(build_tiny("sd3"), SCHEDULED).trajectory((32, 32))
    # sigma from 1 to that of timestep 1, 3 sigma / (1 + 2 sigma), in even steps; shifted again.
    last = 0.003 / 1.002
    sigma = np.linspace(last, 1, 5)
    assert timesteps == pytest.approx(1000 * 3 * sigma / (1 + 2 * sigma), rel=1e-5)
    uniform = EdgeDetector(build_tiny("sd3"), replace(SCHEDULED, spacing="uniform"))
    assert uniform.trajectory((32, 32)) == (0, 200, 400, 600, 800)


def test_noise_at_fractions_of_flow_matching(build_tiny) -> None:
    backbone = build_tiny("sd3")
    latent, noise = torch.ones(1, 4, 8, 8), torch.full((1, 4, 8, 8), 3.0)
    noised = backbone.add_noise(latent, noise, torch.tensor([333.25, 1000.0]))
    expected = torch.tensor([1 * 0.66675 + 3 * 0.33325, 3.0])
    torch.testing.assert_close(noised[:, 0, 0, 0], expected)


def test_sizes_of_their_own_have_schedules_of_their_own(build_tiny) -> None:
    detector = EdgeDetector(build_tiny("flux", ASPECT="keep"), SCHEDULED)
    wide, square = (detector.trajectory(size) for size in ((16, 64), (64, 64)))
    assert wide != square
    assert all(a < b for a, b in zip(wide[:-1], square[:-1], strict=True))
    assert detector.trajectory((16, 64)) == wide
    assert detector(np.zeros((10, 40, 3), np.uint8), "a").timestep in wide


def test_the_sheet_shows_rounded_fractions(build_tiny, image) -> None:
    detector = EdgeDetector(build_tiny("sd3"), SCHEDULED)
    trajectory = read_trajectory(detector, image, "a")
    shown = tuple(step.timestep for step in trajectory.steps)
    assert shown == detector.trajectory((32, 32))
    figure = draw_sheet(image, [("image", image, {})], trajectory, "kl")
    titles = [axes.get_title() for axes in figure.axes]
    assert "t = 8.929" in titles
    marks = {f"t* = {t:.4g}" for t in shown}
    assert len(marks & set(titles)) == 1


def test_fractions_come_back_from_the_journal(tmp_path: Path) -> None:
    record = Record("a", "a.jpg", DONE, finished=1.0, facts={"timestep": 960.4234619140625})
    for timestep, sound in ((960.4234619140625, True), (1000, True), (-0.5, False), (1e4, False)):
        own = replace(record, facts={"timestep": timestep})
        with JournalWriter(tmp_path / str(timestep)) as journal:
            journal.append(own)
        assert read_journals([tmp_path / str(timestep)]) == ({"a": own} if sound else {})


def test_a_job_tells_fractions(load_tool, tiny_folder, tmp_path: Path, image) -> None:
    tool = load_tool("make_pseudo_edges")
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
    command = ["--images", str(tmp_path / "images"), "--output", str(tmp_path / "out"), "--quiet"]
    keys = {
        "BACKBONE.NAME": tiny_folder("sd3"),
        "DEVICE": "cpu",
        "EMERGENCE.STRIDE": 200,
        "EMERGENCE.SPACING": "scheduler",
    }
    pairs = [str(part) for key, value in keys.items() for part in (f"MODEL.TRACE.{key}", value)]
    assert tool.main([*command, *pairs]) == 0
    records = read_journals((tmp_path / "out").glob("*.jsonl"))
    points = [record.facts["timestep"] for record in records.values()]
    assert len(points) == 2
    assert any(not float(point).is_integer() for point in points)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(f"emergence point {point:.4g}" in page for point in points)
    # What is done is not done again.
    assert tool.main([*command, *pairs]) == 0
    assert TEACHER in (tmp_path / "out" / "settings.json").read_text()
