#!/usr/bin/env python3
"""The study of the method's parts, in miniature: on held-out scenes, with trace-tiny.

    python tools/studies/ablate.py --output DIR   # everything; a second run continues
    python tools/studies/ablate.py --output DIR --only teacher   # one group
    python tools/studies/ablate.py --report-only   # docs/ablation.md from its numbers

Groups: baselines, teacher, latency, students. The numbers of each group and seed lie in
DIR/cells/*.json; numbers of other settings are made again. A seed has scenes and noise of its own,
and students that were trained with it. Students come last, the most telling first, so that a run
that is cut short has what matters; the report says "not run" of the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("baselines", "teacher", "latency", "students")


def main(arguments: list[str] | None = None) -> int:
    """Run the study; the exit status is 1 where a training failed and 2 for bad input."""
    args = build_parser().parse_intermixed_args(arguments)
    failures: list[str] = []
    try:
        if args.report_only:
            from ablation.report import write_page  # --help loads nothing

            numbers = args.docs / "ablation" / "numbers.json"
            if not numbers.is_file():
                raise FileNotFoundError(f"no {numbers}: run ablate.py without --report-only first")
            print(f"report: {write_page(json.loads(numbers.read_text()), args.docs)}")
        else:
            failures = run(args)
    except (ValueError, OSError, KeyError) as error:
        print(f"ablate: {error}", file=sys.stderr)
        return 2
    for failure in failures:
        print(f"ablate: {failure}", file=sys.stderr)
    return 1 if failures else 0


def run(args: argparse.Namespace) -> list[str]:
    """Run the chosen groups, with a report after each; returns what failed."""
    # As the study shares the cores out among processes.
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    from ablation.report import write_report
    from ablation.students import Students
    from ablation.study import Settings, Study

    torch.set_num_threads(1)
    begin = time.monotonic()
    settings = Settings(
        args.scenes, args.side, args.thresholds, str(args.config_file), tuple(args.options)
    )
    settings.fingerprint()  # a wrong key fails before any work
    study = Study(settings, args.output / "cells", args.seeds, args.workers)
    work: dict[str, Callable[[], list[str] | None]] = {
        "baselines": study.run_baselines,
        "teacher": study.run_teacher,
        "latency": lambda: study.run_latency(args.latency_scenes),
        "students": Students(study, args).run,
    }
    failures: list[str] = []
    for group in [name for name in GROUPS if name in (args.only or GROUPS)]:
        failures += work[group]() or []
        page = write_report(study.numbers(), args.docs)
        print(f"{group}: {(time.monotonic() - begin) / 60:.1f} minutes so far, report: {page}")
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
    add("--report-only", action="store_true", help="the page from DOCS/ablation/numbers.json")
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
    add(
        "--student-config", type=Path,
        default=ROOT / "configs" / "edges" / "trace_tiny_distill.yaml", help="of the trainings",
    )  # fmt: skip
    add("--student-iterations", type=int, default=200, help="a training; default %(default)s")
    add("--training-scenes", type=int, default=200, help="to learn from; default %(default)s")
    add("options", nargs="*", default=[], metavar="KEY VALUE", help="config keys of the teacher")
    return parser


if __name__ == "__main__":
    sys.exit(main())
