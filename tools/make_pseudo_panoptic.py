#!/usr/bin/env python3
"""Make pseudo panoptic labels from photographs, semantic masks and instance edges.

    python tools/make_pseudo_panoptic.py --config-file configs/edges/trace_tiny.yaml \\
        --images DIR --semantic DIR --categories FILE --output DIR [KEY VALUE ...]
    python tools/make_pseudo_panoptic.py --merge OUTPUT

The edges are found as MODEL.TRACE.EDGES.SOURCE says (by the teacher, or by its student in one
pass), read from --edges DIR, or left out by --no-edges.
An image that cannot be labelled is recorded in OUTPUT/journal.jsonl, and the others go on. A job
that was cut short, in whatever way, continues when the same command runs again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trace_d2.io.categories import load_categories
from trace_d2.io.listing import list_images, read_image_ids, spread
from trace_d2.jobs.command_line import (
    UsageError,
    add_job_options,
    detection_builder,
    edges_of,
    existing_folder,
    exit_status,
    job_parser,
    load_cfg,
    need_options,
    show_merge,
    show_result,
)
from trace_d2.jobs.entries import ImageEntry, Shard, build_entries
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.merge import merge_folder, merge_labels
from trace_d2.jobs.runner import JobPlan, run_job
from trace_d2.jobs.settings import JobSettings
from trace_d2.jobs.store import LabelStore

EXIT_STATUS = """exit status:
  0    every image is labelled, or skipped for want of a semantic mask
  1    the job stopped: full disk, dead worker; finished images are safe
  2    wrong usage, changed settings without --overwrite, or the output is in use
  3    some images failed (see OUTPUT/journal.jsonl and report.html), the others are labelled
  130  Ctrl-C; finished images are safe
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    return exit_status(lambda: merge(args) if args.merge else label(args))


def label(args: argparse.Namespace) -> int:
    """Label images as ``args`` say; returns the exit status."""
    plan = build_plan(args)
    files = f"labels: {args.output}/panoptic.json   to look at: {args.output}/report.html"
    return show_result(run_job(plan), plan, "labelled", files, args.output)


def merge(args: argparse.Namespace) -> int:
    """Join the labels in ``args.merge``; returns the exit status."""
    store = LabelStore(args.merge)
    return show_merge(lambda: merge_folder(store, merge_labels), store, "labelled")


def build_plan(args: argparse.Namespace) -> JobPlan:
    """The job that ``args`` describe.

    Raises:
        UsageError: an argument is missing or wrong, or names no file.
    """
    need_options(args, ("images", "semantic", "categories", "output"))
    try:
        shard = Shard.parse(args.shard)
        settings = _settings(args)
        names = list_images(settings.images)
        ids = read_image_ids(args.images_json) if args.images_json else None
        masked = [stem for stem in names if (settings.semantic / f"{stem}.png").is_file()]
        if not masked:
            raise UsageError(
                f"no mask in {settings.semantic} is named like one of the {len(names)} images: "
                f"expected {next(iter(names))}.png"
            )
        limited = masked[: args.limit]
        entries = build_entries(names, ids, spread(limited, args.report_images))
        job = LabelJob(settings, args.output, args.save_edges)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    _tell_of_strangers(args, settings, names, entries)
    return JobPlan(
        job=job,
        entries=entries,
        shard=shard,
        limit=args.limit,
        workers=args.workers,
        overwrite=args.overwrite,
        build_detection=detection_builder(settings.cfg),
        progress=not args.quiet,
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = job_parser(__doc__, EXIT_STATUS)
    parser.add_argument("--images", metavar="DIR", help="photographs")
    parser.add_argument(
        "--semantic",
        metavar="DIR",
        help="<stem>.png, 8 bit, palette or grey: pixel = category id, 255 = unknown",
    )
    parser.add_argument(
        "--categories",
        metavar="FILE",
        help="JSON list of {id, name, isthing}, or a built-in name: voc, coco-panoptic",
    )
    parser.add_argument("--output", metavar="DIR", help="new folder, or one to continue")
    parser.add_argument(
        "--images-json",
        metavar="FILE",
        help="COCO file whose images give the ids; images that it does not name are skipped. "
        "Without it stems are the ids if all are numbers, else the ranks in the sorted list",
    )
    add_job_options(parser)
    return parser


def _settings(args: argparse.Namespace) -> JobSettings:
    cfg = load_cfg(args.config_file, args.opts)
    return JobSettings(
        images=Path(args.images),
        edges=edges_of(args, cfg),
        cfg=cfg,
        semantic=existing_folder(args.semantic, "--semantic"),
        categories_name=args.categories,
        categories=load_categories(args.categories),
    )


def _tell_of_strangers(
    args: argparse.Namespace,
    settings: JobSettings,
    names: dict[str, str],
    entries: Sequence[ImageEntry],
) -> None:
    """Say what will be left out, before hours of work."""
    orphans = sorted(p.name for p in settings.semantic.glob("*.png") if p.stem not in names)
    if orphans:
        print(f"note: {len(orphans)} masks have no image in {settings.images}: {orphans[0]}, ...")
    unnamed = [entry.file_name for entry in entries if entry.image_id is None]
    if unnamed:
        print(f"note: {args.images_json} does not name {len(unnamed)} images: {unnamed[0]}, ...")


if __name__ == "__main__":
    sys.exit(main())
