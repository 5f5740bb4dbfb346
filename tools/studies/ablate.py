#!/usr/bin/env python3
"""The study of the method's parts, in miniature: on held-out scenes, with trace-tiny.

    python tools/studies/ablate.py --output DIR   # everything; a second run continues
    python tools/studies/ablate.py --output DIR --only teacher   # one group
    python tools/studies/ablate.py --output DIR --report-only   # docs/ablation.md

Groups: baselines, teacher, latency, students. The numbers of each group and seed lie in
DIR/cells/*.json; numbers of other settings are made again. A seed has scenes and noise of its own,
and students that were trained with it. Students come last, the most telling first, so that a run
that is cut short has what matters; the report says "not run" of the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ablation.cells import Cells

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("baselines", "teacher", "latency", "students")


def main(arguments: list[str] | None = None) -> int:
    """Run the study; the exit status is 1 where a training failed and 2 for bad input."""
    args = build_parser().parse_intermixed_args(arguments)
    from ablation.cells import Cells  # --help loads nothing
    from ablation.report import write_report

    cells = Cells(args.output / "cells")
    failures: list[str] = []
    try:
        if not args.report_only:
            failures = run(args, cells)
        if args.report_only or cells.folder.is_dir():
            print(f"report: {write_report(cells, args.docs)}")
    except (ValueError, OSError, KeyError) as error:
        print(f"ablate: {error}", file=sys.stderr)
        return 2
    for failure in failures:
        print(f"ablate: {failure}", file=sys.stderr)
    return 1 if failures else 0


def run(args: argparse.Namespace, cells: Cells) -> list[str]:
    """Run the chosen groups; returns what failed."""
    from ablation.report import write_report
    from ablation.students import Students
    from ablation.study import Study, worker_pool
    from ablation.work import Settings, start_worker

    start_worker()
    begin = time.monotonic()
    settings = Settings(
        args.scenes, args.side, args.thresholds, str(args.config_file), tuple(args.options)
    )
    settings.fingerprint()  # a wrong key fails before any work
    with worker_pool(args.workers) as pool:
        study = Study(settings, cells, args.seeds, pool)
        work: dict[str, Callable[[], list[str] | None]] = {
            "baselines": study.run_baselines,
            "teacher": study.run_teacher,
            "latency": lambda: study.run_latency(args.latency_scenes),
            "students": lambda: Students(study, args, begin).run(),
        }
        failures: list[str] = []
        for group in [name for name in GROUPS if name in (args.only or GROUPS)]:
            if group == "students" and cells.folder.is_dir():
                write_report(cells, args.docs)  # these take longest: have a page before them
            failures += work[group]() or []
            print(f"{group}: {(time.monotonic() - begin) / 60:.1f} minutes so far", flush=True)
    return failures


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("ablation"), help="default %(default)s/")
    add("--docs", type=Path, default=ROOT / "docs", help="gets ablation.md and ablation/*.png")
    add("--only", nargs="+", choices=GROUPS, help="these groups (KEY VALUE pairs stand before it)")
    add("--report-only", action="store_true", help="run nothing")
    add("--scenes", type=int, default=40, help="a seed; default %(default)s")
    add("--seeds", type=int, default=3, help="default %(default)s")
    add("--side", type=int, default=128, help="of a scene in pixels; default %(default)s")
    add("--workers", type=int, default=2, help="processes; default %(default)s")
    add("--thresholds", type=int, default=99, help="of edge strengths; default %(default)s")
    add("--latency-scenes", type=int, default=2, help="timed a seed; default %(default)s")
    add(
        "--config-file", type=Path, default=ROOT / "configs" / "edges" / "trace_tiny.yaml",
        help="of the teacher",
    )  # fmt: skip
    student = parser.add_argument_group("students")
    add = student.add_argument
    add(
        "--student", type=Path, metavar="DIR",
        help="a trained student as a row of its own; default: the one that ships",
    )  # fmt: skip
    add(
        "--student-config", type=Path,
        default=ROOT / "configs" / "edges" / "trace_tiny_distill.yaml", help="of the trainings",
    )  # fmt: skip
    add("--student-iterations", type=int, default=200, help="a training; default %(default)s")
    add("--student-seeds", type=int, help="train with so many seeds only")
    add("--minutes", type=float, help="start no training later than this after the start")
    add("--training-scenes", type=int, default=200, help="to learn from; default %(default)s")
    add("--training-images", type=Path, metavar="DIR", help="learn from these images instead")
    add(
        "--pseudo-edges", type=Path, metavar="DIR",
        help="of the training images, made by make_pseudo_edges.py; default: made here",
    )  # fmt: skip
    add(
        "--train-set", nargs="*", default=[], metavar="KEY VALUE",
        help="config keys, for all trainings",
    )  # fmt: skip
    add = parser.add_argument
    add("options", nargs="*", default=[], metavar="KEY VALUE", help="config keys of the teacher")
    return parser


if __name__ == "__main__":
    sys.exit(main())
