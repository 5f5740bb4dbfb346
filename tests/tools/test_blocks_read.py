"""The study of blocks read: its edges are the detector's, one series chooses for another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trace_d2.attention import AttentionSettings
from trace_d2.edges import EdgeDetector
from trace_d2.edges.detector import EmergenceSettings

SMALL = ("MODEL.TRACE.BACKBONE.RESOLUTION", "64", "MODEL.TRACE.DEVICE", "cpu")
COMMAND = ["--scenes", "1", "--side", "64", "--thresholds", "9", "--training-scenes", "1"]
COMMAND += ["--seeds", "1", "--iterations", "1", "--timed-scenes", "1"]


@pytest.fixture(scope="module")
def reading(load_tool):
    return load_tool("blocks_reading")


def test_edges_of_the_first_blocks_are_those_of_a_detector_that_reads_them(
    load_tool, reading
) -> None:
    study, scoring = load_tool("ablation.study"), load_tool("ablation.scoring")
    config = load_tool("blocks_read").parse_arguments([]).config_file
    settings = study.Settings(1, 64, 9, str(config), SMALL)
    detector, truth = study.find_detector(settings, 0), scoring.held_out(0, 64, 5)
    edges = reading.teacher_edges(detector, truth)
    assert len(edges) == 12
    for blocks in (1, 4):
        attention = AttentionSettings(blocks=tuple(range(blocks)))
        for source, emergence in (
            ("teacher at t = 0", EmergenceSettings(fixed_timestep=0)),
            ("teacher, searched", EmergenceSettings()),
        ):
            own = EdgeDetector(detector.backbone, emergence, attention=attention)
            expected = own(truth.scene.image, truth.key).edges
            np.testing.assert_allclose(edges[source, blocks], expected, atol=2e-3)


def cell(series: int, blocks: int, ods: float, source: str = "student", **others) -> dict:
    return {
        "series": series, "source": source, "blocks": blocks, "ods": ods, "pq_th": ods, **others,
    }  # fmt: skip


def test_one_series_chooses_and_the_other_is_reported(load_tool) -> None:
    study = load_tool("blocks_read")
    chosen, reported = study.CHOICE_SERIES, study.REPORT_SERIES
    cells = [cell(chosen, blocks, ods) for blocks, ods in ((1, 0.5), (2, 0.69), (3, 0.7))]
    cells += [cell(reported, blocks, 0.6, seed=0) for blocks in (1, 2, 3)]
    cells += [cell(reported, 1, 0.62, seed=1)]
    cells += [{"source": "student", "blocks": 2, "ms": 1234.4}]
    assert study.enough(cells, "student", 3, 0.02) == 2
    assert study.enough(cells, "student", 3, 0.005) == 3
    assert study.enough(cells, "student", 3, 0.3) == 1
    table = study.table(cells, 3, 0.02)
    assert "| blocks read | student: ODS | student: PQ^th | student: ms |" in table
    assert "| 0 | 61.0 ± 1.4 | 61.0 ± 1.4 | – |" in table
    assert "| 0 to 1 | 60.0 | 60.0 | 1,234 |" in table
    assert "student: blocks 0 to 1 are enough by series 5 (they lose at most 2 points)" in table


def test_numbers_are_made_once_and_students_read_their_blocks(
    load_tool, reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    study = load_tool("blocks_read")
    trained: list[dict[str, str]] = []

    def train(folder, config, *keys, threads):
        trained.append(dict(zip(map(str, keys[::2]), map(str, keys[1::2]), strict=True)))

    def score(settings, series, weights, blocks):
        return cell(series, blocks, 0.5)

    def teachers(settings, series):
        return [cell(series, blocks, 0.4, "teacher at t = 0") for blocks in range(1, 7)]

    def times(settings, blocks, weights, count):
        assert weights.endswith(f"student_blocks{blocks}_seed0_1/student")
        return [{"source": "student", "blocks": blocks, "ms": 10.0 * blocks}]

    monkeypatch.setattr(load_tool("commands"), "train", train)
    monkeypatch.setattr(reading, "make_training_data", lambda *_: None)
    monkeypatch.setattr(reading, "score_student", score)
    monkeypatch.setattr(reading, "score_teachers", teachers)
    monkeypatch.setattr(reading, "measure_blocks", times)
    command = [*COMMAND, "--output", str(tmp_path), *SMALL]
    assert study.main(command) == 0
    assert [keys["MODEL.TRACE.STUDENT.BLOCKS"] for keys in trained] == [
        str(list(range(blocks))) for blocks in (6, 1, 2, 3, 4, 5)
    ]
    assert {keys["SOLVER.MAX_ITER"] for keys in trained} == {"1"}
    out = capsys.readouterr().out
    assert "| 0 to 5 | 40.0 | 40.0 | – | 50.0 | 50.0 | 60 |" in out
    kept = json.loads((tmp_path / "cells" / "student_blocks6_seed0.json").read_text())
    assert [one["series"] for one in kept["numbers"]] == [5, 0]
    assert study.main(command) == 0
    assert len(trained) == 6
    assert study.main([*COMMAND, "--output", str(tmp_path), "MODEL.NO_KEY", "1"]) == 2
    assert "NO_KEY" in capsys.readouterr().err
