"""No evaluation or oracle writes over what it reads: refused before anything is read."""

from __future__ import annotations

import pytest

CASES = {
    "evaluate_panoptic": ["--predictions", "labels", "--json", "truth.json"],
    "evaluate_panoptic labels": ["--predictions", "labels", "--json", "labels/panoptic.json"],
    "evaluate_edges": ["--edges", "labels", "--output", "truth.json"],
    "evaluate_edges curve": ["--edges", "labels", "--curve", "labels/../truth.json"],
    "make_oracle": ["--output", "."],
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_written(case, tmp_path, monkeypatch, load_tool, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "semantic").mkdir()
    for name in ("truth.json", "labels/panoptic.json", "semantic/a.png"):
        (tmp_path / name).write_text("not even read")
    truth = ["--truth-json", "truth.json", "--truth-dir", "semantic"]
    assert load_tool(case.split()[0]).main([*truth, *CASES[case]]) == 2
    assert "as well, which would be lost" in capsys.readouterr().err
    assert {path.read_text() for path in tmp_path.rglob("*.*")} == {"not even read"}
