"""Kernels compiled ahead of time for GPUs that need not be here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[3] / "tools" / "benchmarks"
SHARED = 99 * 1024  # of a program on an RTX 30 or 40; an A100 has 163 KiB, an H100 227


FORWARD = ["row_sums", "mean_map"]
BOTH = [*FORWARD, "query_gradient", "key_gradient"]
RUNS = (
    ["--arch", "90"],
    ["--arch", "80", "--dtype", "float16", "--tokens", "1023", "--only", *BOTH],
    ["--arch", "80", "--dtype", "float32", "--tokens", "1023", "--only", "mean_map"],
    ["--arch", "gfx942", "--tokens", "4096", "--only", *FORWARD],
)


def test_nothing_spills(tmp_path: Path) -> None:
    runs = [[*run, "--json", str(tmp_path / f"{n}.json")] for n, run in enumerate(RUNS)]
    environment = {
        **os.environ,
        "TRITON_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(TOOLS), *sys.path]),
    }
    # One process for all: it takes longer to import than to compile.
    code = f"import compile_kernels as tool\nfor run in {runs!r}: tool.main(run)"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    rows = [row for run in runs for row in json.loads(Path(run[-1]).read_text())]
    assert len(rows) == 2 * 4 + 4 + 2 + 4 + 1 + 2
    for row in rows:
        assert row["registers"] > 0, row
        assert row["stack"] == 0, row
        assert row["shared"] <= SHARED, row
