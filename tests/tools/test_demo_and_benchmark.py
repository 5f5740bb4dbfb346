"""tools/demo.py and tools/benchmarks/benchmark.py at small size, with the embedded backbone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_demo_compares_four_kinds_of_edges(
    load_tool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tool = load_tool("demo")
    command = ["--output", str(tmp_path), "--count", "2", "--size", "64"]
    command += ["MODEL.TRACE.EMERGENCE.STRIDE", "400", "MODEL.TRACE.BACKBONE.RESOLUTION", "64"]
    assert tool.main(command) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "scenes_2_64_0.2"
    results = json.loads((folder / "results.json").read_text())
    assert list(results) == [
        "no edges",
        "colour gradients",
        "TRACE, teacher",
        "TRACE, student",
        "oracle edges",
        "bare images, discovered",
        "bare images, refined",
        "whole images, refined",
    ]
    for name, result in results.items():
        assert name in out
        score = result["All"]["pq"] if "All" in result else result["segm"]["AR_100"]
        assert 0 < score <= 1
    assert results["oracle edges"]["Things"]["pq"] >= results["no edges"]["Things"]["pq"]
    assert (folder / "labels/trace_student/report.html").is_file()
    assert tool.main(command) == 0
    assert capsys.readouterr().out.count("(2 of them before)") == len(results)
    assert (folder / "bare/masks.json.work/report.html").is_file()


def test_benchmark_prints_every_row(
    load_tool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tool = load_tool("benchmark")
    command = ["--small", "--threads", "1", "--repeats", "1", "--json", str(tmp_path / "b.json")]
    assert tool.main(command) == 0
    rows = json.loads((tmp_path / "b.json").read_text())
    assert len(rows) == 14
    out = capsys.readouterr().out
    for row in rows:
        assert row[""] in out
        assert row["ours"] in out
        assert row["plain"] in out
        if row["apart"]:
            assert float(row["apart"]) < 1e-3


def test_a_row_says_that_the_counts_are_the_same(load_tool) -> None:
    row = load_tool("benchmark_methods").edge_metric_row((32, 40), repeats=1)
    assert row[0] == "edge scores, 40 x 32, 99 thresholds"
    assert row[-1] == "0.0e+00"


def test_maps_of_another_checkout_are_timed_beside_ours(
    load_tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    tool = load_tool("benchmark_maps")
    # Measured in two more processes, and above.
    row = ["attention, peak memory", "1 maps", "2 maps", "2.0 x", ""]
    monkeypatch.setattr(tool, "memory_row", lambda *sizes: row)
    rows = tool.map_rows(True, 1, root)
    titles = [row[0].split()[0].rstrip(",") for row in rows]
    assert titles == ["attention", "attention", "against", "KL", "against", "ABDiv", "against"]
    assert all(float(row[3].removesuffix(" x")) > 0 for row in rows)


def test_readers_of_another_checkout_are_timed_beside_ours(load_tool) -> None:
    root = Path(__file__).parents[2]
    rows = load_tool("benchmark_reading").reading_rows(True, 1, root)
    assert [row[0].split()[0] for row in rows] == ["reading", "against"] * 7
    assert all(float(row[3].removesuffix(" x")) > 0 for row in rows)


def test_cuts_are_timed_and_are_those_of_the_plain_way(
    load_tool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tool = load_tool("benchmark_cuts")
    assert tool.main(["--side", "12", "--threads", "1", "--json", str(tmp_path / "b.json")]) == 0
    rows = json.loads((tmp_path / "b.json").read_text())
    assert [row[""].split(",")[0] for row in rows] == ["second eigenvector", "MaskCut"]
    assert [row["apart"] for row in rows] == ["0.0e+00", "0.0e+00"]
    assert rows[0][""] in capsys.readouterr().out
