#!/usr/bin/env python3
"""Make pseudo panoptic labels from photographs, semantic masks and instance edges.

    python tools/make_pseudo_panoptic.py --config-file configs/edges/trace_tiny.yaml \\
        --images DIR --semantic DIR --categories FILE --output DIR [KEY VALUE ...]
    python tools/make_pseudo_panoptic.py --merge OUTPUT

The edges are found by the backbone of the config, read from --edges DIR, or left out by --no-edges.
An image that cannot be labelled is recorded in OUTPUT/journal.jsonl, and the others go on. A job
that was cut short, in whatever way, continues when the same command runs again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from trace_d2.config import get_trace_cfg, load_trace_cfg
from trace_d2.formats.categories import load_categories
from trace_d2.pseudo_labels.journal import Record
from trace_d2.pseudo_labels.labeling import EdgeDetection
from trace_d2.pseudo_labels.listing import (
    ImageEntry,
    Shard,
    build_entries,
    list_images,
    read_image_ids,
    spread,
)
from trace_d2.pseudo_labels.locks import FolderInUseError
from trace_d2.pseudo_labels.merge import merge_folder
from trace_d2.pseudo_labels.runner import JobPlan, WorkerDiedError, run_job
from trace_d2.pseudo_labels.settings import BACKBONE, NO_EDGES, JobSettings
from trace_d2.pseudo_labels.store import (
    ForeignFolderError,
    LabelStore,
    OutputError,
    SettingsChangedError,
)

EXIT_STATUS = """exit status:
  0    every image is labelled, or skipped for want of a semantic mask
  1    the job stopped: full disk, dead worker; finished labels are safe
  2    wrong usage, changed settings without --overwrite, or the output is in use
  3    some images failed (see OUTPUT/journal.jsonl and report.html), the others are labelled
  130  Ctrl-C; finished labels are safe
"""
_SHOWN_FAILURES = 10


class UsageError(ValueError):
    """The command asks for something that cannot be."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status."""
    args = build_parser().parse_intermixed_args(argv)
    try:
        return merge(args) if args.merge else label(args)
    except (UsageError, ForeignFolderError, SettingsChangedError, FolderInUseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OutputError, WorkerDiedError) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\ninterrupted. Finished labels are safe: the same command continues, and "
            "--merge OUTPUT joins what there is",
            file=sys.stderr,
        )
        return 130


def label(args: argparse.Namespace) -> int:
    """Label images as ``args`` say; returns the exit status."""
    plan = build_plan(args)
    result = run_job(plan)
    print(
        f"{result.done} labelled ({result.earlier} of them before), {result.skipped} skipped, "
        f"{len(result.failed)} failed"
    )
    if plan.shard.whole:
        print(f"labels: {plan.output}/panoptic.json   to look at: {plan.output}/report.html")
    else:
        print(f"after the last shard: python {sys.argv[0]} --merge {plan.output}")
    return _show_failures(result.failed, plan.output)


def merge(args: argparse.Namespace) -> int:
    """Join the labels in ``args.merge``; returns the exit status."""
    try:
        result = merge_folder(LabelStore(args.merge))
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    print(f"{result.done} labelled, {result.skipped} skipped, {len(result.failed)} failed")
    if result.pending:
        print(f"{result.pending} not labelled yet: run the missing shards, then --merge again")
    status = _show_failures(result.failed, Path(args.merge))
    return 3 if result.pending else status


def build_plan(args: argparse.Namespace) -> JobPlan:
    """The job that ``args`` describe.

    Raises:
        UsageError: an argument is missing or wrong, or names no file.
    """
    missing = [
        f"--{name}" for name in ("images", "semantic", "categories", "output")
        if getattr(args, name) is None
    ]  # fmt: skip
    if missing:
        raise UsageError(f"{', '.join(missing)} missing; see --help")
    try:
        shard = Shard.parse(args.shard)
        cfg = _load_cfg(args.config_file, args.opts)
        settings = _settings(args, cfg)
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
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    _tell_of_strangers(args, settings, names, entries)
    return JobPlan(
        settings=settings,
        entries=entries,
        output=Path(args.output),
        shard=shard,
        limit=args.limit,
        workers=args.workers,
        save_edges=args.save_edges,
        overwrite=args.overwrite,
        build_detection=_detection_builder(cfg),
        progress=not args.quiet,
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config-file", metavar="FILE", help="YAML; default: all keys' defaults")
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
    edges = parser.add_mutually_exclusive_group()
    edges.add_argument(
        "--edges",
        metavar="DIR",
        help="given edges: <stem>.png (grey, 8 or 16 bit, scaled to 0..1) or <stem>.npy (float)",
    )
    edges.add_argument("--no-edges", action="store_true", help="split classes where they part")
    edges.add_argument("--save-edges", action="store_true", help="keep the backbone's edges")
    parser.add_argument(
        "--images-json",
        metavar="FILE",
        help="COCO file whose images give the ids; images that it does not name are skipped. "
        "Without it stems are the ids if all are numbers, else the ranks in the sorted list",
    )
    parser.add_argument(
        "--workers", type=_count, default=_cpus(), metavar="N", help="processes (default: CPUs)"
    )
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N", help="label part I of N (from 1); then --merge"
    )
    parser.add_argument("--limit", type=_count, metavar="K", help="the first K images only")
    parser.add_argument(
        "--overwrite", action="store_true", help="drop labels that were made with other settings"
    )
    parser.add_argument(
        "--report-images", type=int, default=60, metavar="K", help="images in report.html"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--merge", metavar="OUTPUT", help="join the labels of shards, and no more")
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config keys, as MODEL.TRACE.SEED 1"
    )
    return parser


def _settings(args: argparse.Namespace, cfg: CfgNode) -> JobSettings:
    edges: Path | str = NO_EDGES if args.no_edges else BACKBONE
    if args.edges:
        edges = Path(args.edges)
    for option, folder in (("--semantic", Path(args.semantic)), ("--edges", edges)):
        if isinstance(folder, Path) and not folder.is_dir():
            raise UsageError(f"no folder at {folder}: correct {option}")
    return JobSettings(
        images=Path(args.images),
        semantic=Path(args.semantic),
        edges=edges,
        categories_name=args.categories,
        categories=load_categories(args.categories),
        cfg=cfg,
    )


def _load_cfg(config_file: str | None, opts: Sequence[str]) -> CfgNode:
    if len(opts) % 2:
        raise UsageError(f"config keys come as KEY VALUE pairs, but these are {len(opts)}: {opts}")
    try:
        if config_file is not None:
            return load_trace_cfg(config_file, list(opts))
        cfg = get_trace_cfg()
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError) as error:  # what yacs raises for a key that does not exist
        raise UsageError(f"{error.args[0]}: see trace_d2/config.py for the keys") from error
    cfg.freeze()
    return cfg


def _detection_builder(cfg: CfgNode) -> Callable[[], EdgeDetection]:
    def build() -> EdgeDetection:
        # Imported here, as given edges need no diffusion model.
        from trace_d2.edges import EdgeDetector

        try:
            return EdgeDetector.from_config(cfg)
        except (ValueError, KeyError, OSError, ImportError) as error:
            raise UsageError(
                f"the backbone {cfg.MODEL.TRACE.BACKBONE.NAME} cannot be loaded: {error}"
            ) from error

    return build


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


def _show_failures(failed: Sequence[Record], output: Path) -> int:
    """Print the first failures; returns the exit status that belongs to them."""
    for record in failed[:_SHOWN_FAILURES]:
        print(f"failed: {record.file_name}: {record.reason.splitlines()[-1]}", file=sys.stderr)
    if len(failed) > _SHOWN_FAILURES:
        print(f"and {len(failed) - _SHOWN_FAILURES} more in {output}/report.html", file=sys.stderr)
    return 3 if failed else 0


def _count(text: str) -> int:
    """A whole number of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
