#!/usr/bin/env python3
"""How long tools take from a wrong command to all that they say of it.

    python tools/benchmarks/time_refusals.py [--runs 3]

Each tool gets a command with several faults; of the runs the median counts. A tool is to answer by
exit status 2 within five seconds, and to say every fault that is looked for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]
CONFIGS = TOOLS.parent / "configs"
LIMIT = 5.0  # seconds
KEYS = ["MODEL.DEVICE", "cudaa", "MODEL.TRACE.SED", "1", "MODEL.TRACE.BACKBONE.NAME", "trace-tny"]
SAID = ("SEED?", "did you mean cuda?", "did you mean trace-tiny?")
IMAGES = ["--images", "image", "--output", "pictures", *KEYS]
COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "make_pseudo_panoptic.py": (
        [*IMAGES, "--semantic", "mask", "--categories", "voc1"],
        (*SAID, "no folder at mask", "no categories file", "no folder of images", "is not empty"),
    ),
    "refine_masks.py": (
        [*IMAGES, "--masks", "masks.json"],
        (*SAID, "no folder at image", "masks.json", "is a folder"),
    ),
    "make_pseudo_edges.py": (IMAGES, (*SAID, "no folder of images", "is not empty")),
    "predict_edges.py": (IMAGES, (*SAID, "no folder of images", "is not empty")),
    "show_trajectory.py": (["image.png", *KEYS], (*SAID, "image.png")),
    "train_net.py": (
        [
            *("--config-file", str(CONFIGS / "panoptic/scenes_mask2former.yaml"), "MODEL.DEVICE"),
            *("cudaa", "MODEL.TRACE.SED", "1", "SOLVER.AMP.ENABLED", "True", "MODEL.WEIGHTS"),
            *("absent.pth", "SOLVER.IMS_PER_BATCH", "0", "DATASETS.TRAIN", "('scenes_trian',)"),
        ],
        (*SAID[:2], "AMP.ENABLED", "absent.pth", "IMS_PER_BATCH", "scenes_train?"),
    ),
}  # fmt: skip


def measure(tool: str, runs: int, folder: Path) -> tuple[float, float, list[str]]:
    """Median wall and CPU seconds of a tool, and the faults that it did not say."""
    options, said = COMMANDS[tool]
    walls, cpus, missed = [], [], []
    for _ in range(runs):
        before, start = os.times(), time.perf_counter()
        command = [sys.executable, str(TOOLS / tool), *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        after = os.times()
        walls.append(time.perf_counter() - start)
        cpus.append(sum(after[2:4]) - sum(before[2:4]))
        missed = [text for text in said if text not in done.stderr]
        if done.returncode != 2:
            missed.append(f"exit status {done.returncode}, not 2")
    return statistics.median(walls), statistics.median(cpus), missed


def main() -> int:
    """Print the table; returns 1 if a fault was not said or a tool took too long."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="of each (default: 3)")
    args = parser.parse_args()
    bad = False
    print("| tool | faults said | wall s | CPU s |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        (folder / "pictures/own.txt").write_text("not of these tools")
        for tool, (_, said) in COMMANDS.items():
            wall, cpu, missed = measure(tool, args.runs, folder)
            count = len(said) - len([text for text in missed if text in said])
            print(f"| {tool} | {count} of {len(said)} | {wall:.1f} | {cpu:.1f} |")
            for text in missed:
                print(f"  not said: {text}", file=sys.stderr)
            bad = bad or bool(missed) or wall > LIMIT
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
