"""Commands say how they are used without loading what they work with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("tools", "tools/benchmarks", "tools/studies", "datasets")
COMMANDS = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).glob("*.py"))
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]
HEAVY = {"detectron2", "diffusers", "matplotlib", "numba", "peft", "scipy", "torch", "transformers"}

# All in one process: whatever is loaded by then was loaded by one of them.
SHOW_HELP = """
import contextlib, io, runpy, sys
heavy, *commands = sys.argv[1:]
for command in commands:
    sys.argv, sys.path[0] = [command, "--help"], command.rpartition("/")[0]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        runpy.run_path(command, run_name="__main__")
    found = sorted(set(heavy.split()) & set(sys.modules))
    if found or not shown.getvalue().startswith("usage: "):
        sys.exit(f"{command} --help loads {found}")
"""


def test_help_loads_nothing_heavy():
    arguments = [" ".join(HEAVY), *map(str, COMMANDS)]
    command = [sys.executable, "-c", SHOW_HELP, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(COMMANDS) > 20


def test_every_file_of_tools_is_a_command():
    assert set((ROOT / "tools").glob("*.py")) <= set(COMMANDS)
