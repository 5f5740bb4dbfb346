"""What the command lines that detect edges share; they differ in where the edges are from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trace_d2.jobs.command_line import (
    UsageError,
    add_run_options,
    detected_edges,
    detection_builder,
    job_parser,
    load_cfg,
    need_options,
    show_merge,
    show_result,
)
from trace_d2.jobs.entries import Shard
from trace_d2.jobs.kinds.edge_report import label_summary
from trace_d2.jobs.kinds.edge_store import EdgeStore
from trace_d2.jobs.kinds.edges import EdgeJob, EdgeSettings, edge_entries
from trace_d2.jobs.merge import merge_folder
from trace_d2.jobs.runner import JobPlan, run_job
from trace_d2.jobs.store import JobStore

EXIT_STATUS = """exit status:
  0    every image has its edges
  1    the job stopped: full disk, dead worker; finished images are safe
  2    wrong usage, changed settings without --overwrite, or the output is in use
  3    some images failed (see OUTPUT/journal.jsonl and report.html), the others are finished
  130  Ctrl-C; finished images are safe
"""

_WORKERS = 2  # they encode files, which takes far less time than finding edges
_DONE = "finished"


def edge_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a tool that detects edges."""
    parser = job_parser(description, EXIT_STATUS)
    parser.add_argument("--images", metavar="DIR", help="photographs")
    parser.add_argument("--output", metavar="DIR", help="new folder, or one to continue")
    workers = f"processes that write files beside the one that finds edges (default: {_WORKERS})"
    add_run_options(parser, _WORKERS, workers)
    return parser


def detect(args: argparse.Namespace, opts: Sequence[str]) -> int:
    """Detect edges as ``args`` say, with ``opts`` after its config keys; returns the exit status.

    Raises:
        UsageError: an argument is missing or wrong, or names no file.
    """
    plan = build_plan(args, opts)
    files = f"edges: {args.output}/edges   to look at: {args.output}/report.html"
    status = show_result(run_job(plan), plan, _DONE, files, args.output)
    _show_labels(plan.job.store)
    return status


def merge(output: str, kind: type[EdgeStore]) -> int:
    """Join the edges of shards in ``output``; returns the exit status."""
    store = kind(output)
    store.check_place()
    status = show_merge(lambda: merge_folder(store, EdgeStore.merge), store, _DONE)
    _show_labels(store)
    return status


def build_plan(args: argparse.Namespace, opts: Sequence[str]) -> JobPlan:
    """The job that ``args`` describe, with ``opts`` after its config keys.

    Raises:
        UsageError: an argument is missing or wrong, or names no file.
    """
    need_options(args, ("images", "output"))
    try:
        shard = Shard.parse(args.shard)
        cfg = load_cfg(args.config_file, [*args.opts, *opts])
        settings = EdgeSettings(Path(args.images), detected_edges(cfg), cfg)
        entries = edge_entries(settings.images, args.limit, args.report_images)
        job = EdgeJob(settings, args.output)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    return JobPlan(
        job=job,
        entries=entries,
        shard=shard,
        limit=args.limit,
        workers=args.workers,
        overwrite=args.overwrite,
        build_detection=detection_builder(cfg),
        progress=not args.quiet,
    )


def _show_labels(store: JobStore) -> None:
    """Say which labels the pseudo edges hold, if there are any."""
    records = store.read_records()
    entries, _ = store.read_images()
    for line in label_summary([records[e.stem] for e in entries if e.stem in records]):
        print(line)
