#!/usr/bin/env python3
"""Quality against the number of attention blocks that are read, with trace-tiny on scenes.

    python tools/studies/blocks_read.py --output DIR   # a second run continues

A pass that reads the first k blocks ends after them, so that few blocks are cheap. Compared are,
for k = 1 to all, the teacher at t = 0, the teacher that searches (on the maps of these blocks), and
students that were trained to read them, all on the same pseudo edges. One series of scenes says how
many blocks are enough: the fewest that lose at most --loss of ODS and of PQ^th against all blocks.
The table is of another series. Milliseconds are processor time, one thread.

The numbers lie in DIR/cells/*.json; numbers of other settings are made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ablation.study import Settings

ROOT = Path(__file__).resolve().parents[2]
CHOICE_SERIES, REPORT_SERIES = 5, 0
"""Scenes that neither trace-tiny nor a student learned from."""
SOURCES = ("teacher at t = 0", "teacher, searched", "student")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    configs = ROOT / "configs" / "edges"
    add("--output", type=Path, default=Path("blocks_read"), help="default %(default)s/")
    add("--scenes", type=int, default=40, help="of each of both series; default %(default)s")
    add("--side", type=int, default=128, help="of a scene in pixels; default %(default)s")
    add("--seeds", type=int, default=2, help="students of each kind; default %(default)s")
    add("--iterations", type=int, default=150, help="of a training; default %(default)s")
    add("--training-scenes", type=int, default=200, help="default %(default)s")
    add("--timed-scenes", type=int, default=3, help="default %(default)s")
    add("--thresholds", type=int, default=99, help="of edge strengths; default %(default)s")
    add("--loss", type=float, default=0.02, help="that is little, of 1; default %(default)s")
    add("--config-file", type=Path, default=configs / "trace_tiny.yaml", help="of the teacher")
    add("--student-config", type=Path, default=configs / "trace_tiny_distill.yaml")
    add("options", nargs="*", default=[], metavar="KEY VALUE", help="config keys of the teacher")
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Do all that is missing and print the table; the exit status is 2 for bad input."""
    args = parse_arguments(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch  # --help loads nothing
    from ablation.rows import BLOCKS
    from ablation.study import Settings
    from commands import CommandError

    torch.set_num_threads(1)
    settings = Settings(
        args.scenes, args.side, args.thresholds, str(args.config_file), tuple(args.options)
    )
    try:
        study = BlockStudy(args, settings)
        cells = study.teachers()
        print(table(cells, BLOCKS, args.loss), flush=True)
        for seed in range(args.seeds):
            for count in (BLOCKS, *range(1, BLOCKS)):
                cells += study.student(count, seed)
            print(table(cells + study.times(cells, BLOCKS), BLOCKS, args.loss), flush=True)
    except (ValueError, OSError, CommandError) as error:
        print(f"blocks_read: {error}", file=sys.stderr)
        return 2
    return 0


class BlockStudy:
    """Makes the numbers, each once."""

    def __init__(self, args: argparse.Namespace, settings: Settings) -> None:
        self.args, self.settings = args, settings
        self.scenes = args.output / "training" / "scenes"
        self.labels = args.output / "training" / "edges"

    def keep(self, name: str, what: dict[str, Any], make: Callable[[], Any]) -> Any:
        """What ``make`` gives, from its file where that is of the same settings."""
        from trace_d2.io.atomic import write_json

        path = self.args.output / "cells" / f"{name}.json"
        fingerprint = json.loads(json.dumps(self.settings.fingerprint() | what))
        if path.is_file():
            kept = json.loads(path.read_text())
            if kept["fingerprint"] == fingerprint:
                return kept["numbers"]
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = make()
        write_json(path, {"fingerprint": fingerprint, "numbers": numbers}, indent=1)
        return numbers

    def teachers(self) -> list[dict[str, Any]]:
        """Both teachers with 1, 2, ... blocks on both series."""
        from blocks_reading import score_teachers

        return [
            cell
            for series in (CHOICE_SERIES, REPORT_SERIES)
            for cell in self.keep(
                f"teachers_series{series}", {}, partial(score_teachers, self.settings, series)
            )
        ]

    def student(self, blocks: int, seed: int) -> list[dict[str, Any]]:
        """A student that reads the first ``blocks``, trained and scored on both series."""
        from blocks_reading import make_training_data, score_student
        from commands import train

        args, name = self.args, f"student_blocks{blocks}_seed{seed}"
        folder = args.output / "students" / f"{name}_{args.iterations}"

        def make() -> list[dict[str, Any]]:
            make_training_data(self.settings, self.scenes, self.labels, args.training_scenes)
            train(folder, args.student_config, *self.keys(blocks, seed), threads=1)
            weights = str(folder / "student")
            return [
                score_student(self.settings, series, weights, blocks)
                for series in (CHOICE_SERIES, REPORT_SERIES)
            ]

        what = {"iterations": args.iterations, "training_scenes": args.training_scenes}
        cells: list[dict[str, Any]] = self.keep(name, what, make)
        return [cell | {"seed": seed, "weights": str(folder / "student")} for cell in cells]

    def keys(self, blocks: int, seed: int) -> list[Any]:
        """Config keys of a training."""
        entry = ["blocks_read", *(str(f.resolve()) for f in (self.scenes / "images", self.labels))]
        return [
            "MODEL.TRACE.STUDENT.BLOCKS", list(range(blocks)), "SEED", seed,
            "SOLVER.MAX_ITER", self.args.iterations, "DATASETS.TRACE.EDGES", [entry],
            "DATASETS.TRAIN", ("blocks_read",), "DATASETS.TEST", (),
        ]  # fmt: skip

    def times(self, cells: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
        """Milliseconds of both teachers and of the first student of each number of blocks."""
        from blocks_reading import measure_blocks

        weights = {c["blocks"]: c["weights"] for c in reversed(cells) if c["source"] == "student"}
        return [
            cell
            for blocks in range(1, most + 1)
            for cell in self.keep(
                f"times_blocks{blocks}",
                {"scenes": self.args.timed_scenes, "weights": weights.get(blocks)},
                partial(
                    measure_blocks,
                    self.settings,
                    blocks,
                    weights.get(blocks),
                    self.args.timed_scenes,
                ),
            )
        ]


def enough(cells: list[dict[str, Any]], source: str, most: int, loss: float) -> int:
    """The fewest blocks that lose at most ``loss`` of ODS and PQ^th on the series of the choice."""
    for blocks in range(1, most):
        if all(
            value(cells, CHOICE_SERIES, source, blocks, metric)[0]
            >= value(cells, CHOICE_SERIES, source, most, metric)[0] - loss
            for metric in ("ods", "pq_th")
        ):
            return blocks
    return most


def value(
    cells: list[dict[str, Any]], series: int | None, source: str, blocks: int, metric: str
) -> tuple[float, float]:
    """Mean and standard deviation over the seeds; not a number where nothing was measured."""
    found = [
        cell[metric]
        for cell in cells
        if (cell.get("series"), cell["source"], cell["blocks"]) == (series, source, blocks)
        and metric in cell
    ]
    if not found:
        return float("nan"), 0.0
    return statistics.mean(found), statistics.stdev(found) if len(found) > 1 else 0.0


def table(cells: list[dict[str, Any]], most: int, loss: float) -> str:
    """The Markdown table of the series that is reported, and what is enough by the other."""
    sources = [s for s in SOURCES if any(cell["source"] == s for cell in cells)]
    head = [f"{source}: {column}" for source in sources for column in ("ODS", "PQ^th", "ms")]
    lines = ["| blocks read | " + " | ".join(head) + " |", "| --- " * (len(head) + 1) + "|"]
    for blocks in range(1, most + 1):
        row = [f"0 to {blocks - 1}" if blocks > 1 else "0"]
        for source in sources:
            row += [
                _share(*value(cells, REPORT_SERIES, source, blocks, "ods")),
                _share(*value(cells, REPORT_SERIES, source, blocks, "pq_th")),
                _milliseconds(value(cells, None, source, blocks, "ms")[0]),
            ]
        lines.append("| " + " | ".join(row) + " |")
    lines += [""] + [
        f"{source}: blocks 0 to {enough(cells, source, most, loss) - 1} are enough by series "
        f"{CHOICE_SERIES} (they lose at most {100 * loss:.0f} points)"
        for source in sources
        if value(cells, CHOICE_SERIES, source, most, "ods")[0] > 0
    ]
    return "\n".join(lines)


def _share(mean: float, spread: float) -> str:
    if mean != mean:
        return "not run"
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if spread else "")


def _milliseconds(mean: float) -> str:
    return "–" if mean != mean else f"{mean:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
