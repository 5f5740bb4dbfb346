#!/usr/bin/env python3
"""Count the files of the project that one photograph crosses on its way to a label.

    python tools/studies/crossings.py [--list]

Labels one scene with given edges by tools/make_pseudo_panoptic.py, in this process, under a profiler
(sys.setprofile). Counted are calls of functions of trace_d2/ and tools/, from the tool's main to
the moment the label's PNG is on disk: distinct files, and changes of file from one call to the next.
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
        calls = calls_of_a_label(Path(folder))
    files = [file for file, _ in calls]
    if args.list:
        print("\n".join(f"{file} {name}" for file, name in calls))
    changes = sum(before != after for before, after in pairwise(files))
    print(f"{len(set(files))} files, {changes} changes of file, {len(calls)} calls")
    return 0


def calls_of_a_label(folder: Path) -> list[tuple[str, str]]:
    """File and name of every function called until the first label's PNG is written."""
    from trace_d2.scenes.dataset import SceneSettings, write_scenes

    write_scenes(folder, 1, SceneSettings(size=(96, 96)), progress=False)
    tool = runpy.run_path(str(ROOT / "tools" / "make_pseudo_panoptic.py"))["main"]
    command = ["--images", f"{folder}/images", "--semantic", f"{folder}/semantic", "--quiet"]
    command += ["--categories", f"{folder}/categories.json", "--edges", f"{folder}/edges_oracle"]
    command += ["--workers", "1"]
    tool([*command, "--output", str(folder / "warm")])  # what happens once a process is over
    png = folder / "out" / "panoptic"
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(f"{ROOT}/t"):
            calls.append((str(Path(file).relative_to(ROOT)), frame.f_code.co_name))
            if "atomic" in file and any(png.glob("*.png")):
                sys.setprofile(None)

    sys.setprofile(note)
    tool([*command, "--output", str(folder / "out")])
    sys.setprofile(None)
    return calls


if __name__ == "__main__":
    sys.exit(main())
