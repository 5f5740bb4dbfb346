"""A short form of the soak: a few kills, and every scene once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCENES = {"clocks", "two-writers", "full-disk", "read-only", "links", "no-locks"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_no_result_is_lost_or_different(tmp_path: Path) -> None:
    found = tmp_path / "soak.json"
    command = [sys.executable, str(ROOT / "tools/studies/soak.py"), "--kills", "3", "--images", "3"]
    done = subprocess.run(
        [*command, "--kinds", "labels", "--scratch", str(tmp_path), "--json", str(found)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(found.read_text())
    assert summary["faults"] == []
    assert summary["kills"] >= 3
    assert summary["scenes"].keys() == SCENES
