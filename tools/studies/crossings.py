#!/usr/bin/env python3
"""Count the files of the project that one photograph crosses on its way to a label.

    python tools/studies/crossings.py [--list]

Labels one scene with given edges by tools/make_pseudo_panoptic.py, in this process, under a
profiler (sys.setprofile). Counted are calls of functions of trace_d2/ and tools/: distinct files,
and changes of file from one call to the next. Three stretches: the whole command; from its main to
the label's PNG; and of it the photograph's own, from the job's call for it to the PNG.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Print the counts; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print every call as well")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        calls, png = calls_of_a_label(Path(folder))
    if args.list:
        print("\n".join(f"{file} {name}" for file, name in calls))
    start = calls.index(("trace_d2/jobs/job.py", "__call__"))
    for title, part in {
        "the whole command": calls,
        "main to the label's PNG": calls[:png],
        "the photograph's own part": calls[start:png],
    }.items():
        files = [file for file, _ in part]
        changes = sum(before != after for before, after in pairwise(files))
        print(f"{title}: {len(set(files))} files, {changes} changes of file, {len(part)} calls")
    return 0


def calls_of_a_label(folder: Path) -> tuple[list[tuple[str, str]], int]:
    """File and name of every function called, and how many of them until the PNG was written."""
    from trace_d2.scenes.dataset import SceneSettings, write_scenes

    write_scenes(folder, 1, SceneSettings(size=(96, 96)), progress=False)
    tool = runpy.run_path(str(ROOT / "tools" / "make_pseudo_panoptic.py"))["main"]
    command = ["--images", f"{folder}/images", "--semantic", f"{folder}/semantic", "--quiet"]
    command += ["--categories", f"{folder}/categories.json", "--edges", f"{folder}/edges_oracle"]
    command += ["--workers", "1"]
    tool([*command, "--output", str(folder / "warm")])  # what happens once a process is over
    png = folder / "out" / "panoptic"
    calls: list[tuple[str, str]] = []
    written: list[int] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(f"{ROOT}/t"):
            calls.append((str(Path(file).relative_to(ROOT)), frame.f_code.co_name))
            if not written and any(png.glob("*.png")):
                written.append(len(calls))

    sys.setprofile(note)
    tool([*command, "--output", str(folder / "out")])
    sys.setprofile(None)
    return calls, written[0]


if __name__ == "__main__":
    sys.exit(main())
