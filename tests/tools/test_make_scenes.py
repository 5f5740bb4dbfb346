"""tools/make_scenes.py."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest


def test_writes_a_data_set(load_tool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tool: ModuleType = load_tool("make_scenes")
    arguments = ["--output", str(tmp_path / "s"), "--count", "2", "--size", "40", "56"]
    assert tool.main([*arguments, "--workers", "1", "--semantic-noise", "0.5"]) == 0
    truth = json.loads((tmp_path / "s/panoptic.json").read_text())
    assert [(i["height"], i["width"]) for i in truth["images"]] == [(40, 56)] * 2
    assert "2 scenes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "at least one"),
        (["--size", "8", "8"], "at least 32"),
        (["--semantic-noise", "2"], r"0..1"),
        (["--object-area", "0.2", "0.1"], "shares of the image"),
        (["--object-area", "0.1", "0.2", "--style", "still-life"], "still-life has its own"),
    ],
)
def test_unusable_values(
    load_tool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    tool = load_tool("make_scenes")
    command = ["--output", str(tmp_path), "--count", "1", "--workers", "1", *arguments]
    assert tool.main(command) == 2
    assert message in capsys.readouterr().err


def test_an_unwritable_folder(load_tool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    command = ["--output", str(tmp_path / "file"), "--count", "1", "--workers", "1"]
    assert load_tool("make_scenes").main(command) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
