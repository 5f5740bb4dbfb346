#!/usr/bin/env python3
"""Refine masks of training-free methods: cut them along instance edges, propagate and merge.

    python tools/refine_masks.py --config-file configs/edges/trace_tiny.yaml \\
        --images DIR --masks maskcut.json --output refined.json [KEY VALUE ...]
    python tools/refine_masks.py --merge refined.json

The masks are COCO JSON as MaskCut, ProMerge, TokenCut, UnSAM and CutLER write it. They are checked
before anything else; what cannot be used is counted here and listed in
refined.json.work/left_out.jsonl. The edges are found as MODEL.TRACE.EDGES.SOURCE says (by the
teacher, or by its student in one pass), read from --edges DIR, or left out by --no-edges, which
merges only. A job that was cut short, in whatever way, continues when the same command runs again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trace_d2.io.coco_masks import MaskFile, load_mask_json
from trace_d2.io.listing import spread
from trace_d2.jobs.command_line import (
    UsageError,
    add_job_options,
    detection_builder,
    edges_of,
    exit_status,
    job_parser,
    load_cfg,
    need_options,
    show_merge,
    show_result,
)
from trace_d2.jobs.entries import Shard
from trace_d2.jobs.kinds.refine_inputs import MaskEntry, mask_entries
from trace_d2.jobs.kinds.refine_store import RefinedStore
from trace_d2.jobs.kinds.refined_masks import RefineJob, RefineSettings
from trace_d2.jobs.merge import merge_folder
from trace_d2.jobs.runner import JobPlan, run_job

EXIT_STATUS = """exit status:
  0    every image is refined, or skipped: absent, or without a mask
  1    the job stopped: full disk, dead worker; finished images are safe
  2    wrong usage, no usable masks or images, changed settings without --overwrite, or the output
       is in use
  3    some images failed (see refined.json.work/journal.jsonl and report.html), the others are done
  130  Ctrl-C; finished images are safe
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    return exit_status(lambda: merge(args) if args.merge else refine(args))


def refine(args: argparse.Namespace) -> int:
    """Refine masks as ``args`` say; returns the exit status."""
    plan = build_plan(args)
    store = plan.job.store
    files = f"masks: {args.output}   to look at: {store.root}/report.html"
    return show_result(run_job(plan), plan, "refined", files, args.output)


def merge(args: argparse.Namespace) -> int:
    """Join the masks of ``args.merge``; returns the exit status."""
    store = RefinedStore(args.merge)
    return show_merge(lambda: merge_folder(store, RefinedStore.merge), store, "refined")


def build_plan(args: argparse.Namespace) -> JobPlan:
    """The job that ``args`` describe.

    Raises:
        UsageError: an argument is missing or wrong, or the masks cannot be used.
    """
    need_options(args, ("images", "masks", "output"))
    try:
        shard = Shard.parse(args.shard)
        cfg = load_cfg(args.config_file, args.opts)
        edges = edges_of(args, cfg)
        file = load_mask_json(args.masks, args.images_json)
        entries = mask_entries(file, args.images)
        settings = RefineSettings(Path(args.images), edges, cfg, Path(args.masks), file.categories)
        job = RefineJob(settings, args.output, args.save_edges)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    _tell(file, entries)
    return JobPlan(
        job=job,
        entries=_pictured(entries, args.limit, args.report_images),
        shard=shard,
        limit=args.limit,
        workers=args.workers,
        overwrite=args.overwrite,
        build_detection=detection_builder(cfg),
        begin=lambda: job.store.write_left_out(file.findings.left_out),
        progress=not args.quiet,
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = job_parser(__doc__, EXIT_STATUS)
    parser.add_argument("--images", metavar="DIR", help="photographs, in sub-folders or not")
    parser.add_argument(
        "--masks",
        metavar="FILE",
        help="COCO JSON with RLE or polygons, or a bare list of results",
    )
    parser.add_argument(
        "--images-json",
        metavar="FILE",
        help="COCO file whose images go with a bare list of results. Without it the image ids are "
        "taken as file names",
    )
    parser.add_argument("--output", metavar="FILE", help="COCO JSON to write, or to continue")
    add_job_options(parser)
    return parser


def _tell(file: MaskFile, entries: Sequence[MaskEntry]) -> None:
    """Say what is peculiar about the masks, before hours of work."""
    masks = sum(len(entry.masks) for entry in entries)
    ready = sum(not entry.skipped for entry in entries)
    print(f"{file.path}: {masks} masks to refine in {ready} of {len(file.images)} images")
    for line in file.findings.lines():
        print(f"note: {line}")
    absent = [entry.skipped for entry in entries if entry.skipped and not entry.edge_stems]
    if absent:
        print(f"note: {len(absent)} images are skipped; first: {absent[0]}")


def _pictured(entries: Sequence[MaskEntry], limit: int | None, count: int) -> list[MaskEntry]:
    """The entries, ``count`` of those that will be refined marked for the report page."""
    ready = [entry.stem for entry in entries[:limit] if not entry.skipped]
    shown = frozenset(spread(ready, count))
    return [replace(entry, pictured=entry.stem in shown) for entry in entries]


if __name__ == "__main__":
    sys.exit(main())
