"""tools/train_tiny_backbone.py: trains, writes a backbone, and continues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trace_d2.backbones import build_backbone
from trace_d2.config import get_trace_cfg


def test_trains_then_continues(load_tool, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tool = load_tool("train_tiny_backbone")
    command = ["--work-dir", str(tmp_path), "--batch", "1", "--scenes", "1", "--device", "cpu"]
    assert tool.main([*command, "--steps", "1", "--decoder-steps", "0"]) == 0
    assert tool.main([*command, "--steps", "2", "--decoder-steps", "1"]) == 0
    assert "at step 1" in capsys.readouterr().out
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [1, 2]
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.BACKBONE.NAME = str(tmp_path / "trace_tiny")
    assert build_backbone(cfg).native_resolution == 128
