"""Large images are drawn, and all tools take them as the benchmark asks."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import pytest


@pytest.mark.parametrize("edges", ["files", "none"])
def test_all_tools_take_what_is_drawn(load_tool, tmp_path: Path, capsys, edges: str) -> None:
    tool = load_tool("benchmark_large")

    def run(command: list[str], checkout: Path) -> tuple[float, int, int]:
        assert Path(command[1]).parents[1] == checkout
        assert load_tool(Path(command[1]).stem).main(command[2:]) == 0
        return 1.5, 3 * 2**30, 2

    with patch.object(tool, "_run", run):
        checkout = Path(tool.__file__).parents[2]
        options = ["--size", "160x120", "--edges", edges, "--workers", "1"]
        tool.main([*options, "--folder", str(tmp_path), "--against", str(checkout)])
    out = capsys.readouterr().out
    assert out.count("peak 3.00 GiB (3.22 GB) in 2 processes, 1.5 s") == 6
    assert out.count("results are the same") == 3
    (labels, _) = sorted(tmp_path.glob("labels-*"))
    content = json.loads((labels / "instances.json").read_text())
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (160, 120)
    assert content["annotations"]
