"""Result files that could not be written once all is computed."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("evaluate_semantic", ("--truth", "--predictions", "--categories", "--json")),
        ("evaluate_panoptic", ("--truth-json", "--truth-dir", "--predictions", "--json")),
        ("evaluate_masks", ("--truth", "--predictions", "--output")),
        ("evaluate_edges", ("--edges", "--truth-json", "--truth-dir", "--output")),
        ("evaluate_edges", ("--edges", "--truth-json", "--truth-dir", "--curve")),
    ],
)
def test_refused_at_the_start(load_tool, tmp_path, capsys, tool, options):
    names = [*(f"in{k}" for k in range(len(options) - 1)), "absent/x"]
    pairs = zip(options, names, strict=True)
    arguments = [word for option, name in pairs for word in (option, str(tmp_path / name))]
    assert load_tool(tool).main(arguments) == 2
    assert "for the output x" in capsys.readouterr().err
