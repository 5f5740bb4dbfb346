"""What the command lines of the jobs share: config, edges, options and exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from trace_d2.config import get_trace_cfg, load_trace_cfg
from trace_d2.edges.sources import EdgeSource, build_edge_source, check_edge_source
from trace_d2.jobs.journal import Record
from trace_d2.jobs.kinds.trust import show_trust
from trace_d2.jobs.locks import FolderInUseError
from trace_d2.jobs.runner import JobPlan, JobResult, WorkerDiedError
from trace_d2.jobs.settings import BACKBONE, NO_EDGES, STUDENT
from trace_d2.jobs.store import (
    ForeignFolderError,
    JobStore,
    MergeResult,
    OutputError,
    SettingsChangedError,
)

_SHOWN_FAILURES = 10


class UsageError(ValueError):
    """The command asks for something that cannot be."""


def exit_status(command: Callable[[], int]) -> int:
    """Run ``command``, which returns its exit status; errors are printed and become one.

    Returns:
        the status of ``command``; 1 where the job stopped (full disk, dead worker), 2 where the
        command is wrong or the output is taken, 130 after Ctrl-C.
    """
    try:
        return command()
    except (UsageError, ForeignFolderError, SettingsChangedError, FolderInUseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OutputError, WorkerDiedError) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\ninterrupted. Finished images are safe: the same command continues, and "
            "--merge OUTPUT joins what there is",
            file=sys.stderr,
        )
        return 130


def job_parser(description: str | None, exit_statuses: str) -> argparse.ArgumentParser:
    """A parser whose help shows a tool's docstring and exit statuses as they are written."""
    return argparse.ArgumentParser(
        description=description,
        epilog=exit_statuses,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """The options of jobs that use edges: where those are from, and ``add_run_options``."""
    edges = parser.add_mutually_exclusive_group()
    edges.add_argument(
        "--edges",
        metavar="DIR",
        help="given edges: <stem>.png (grey, 8 or 16 bit, scaled to 0..1) or <stem>.npy (float)",
    )
    edges.add_argument("--no-edges", action="store_true", help="cut nothing by edges")
    edges.add_argument("--save-edges", action="store_true", help="keep the detected edges")
    add_run_options(parser, _cpus(), "processes (default: CPUs)")


def add_run_options(parser: argparse.ArgumentParser, workers: int, workers_help: str) -> None:
    """The options of every job: config, workers, shards, limit, overwrite, report, config keys."""
    parser.add_argument("--config-file", metavar="FILE", help="YAML; default: all keys' defaults")
    parser.add_argument("--workers", type=count, default=workers, metavar="N", help=workers_help)
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N", help="do part I of N (from 1); then --merge"
    )
    parser.add_argument("--limit", type=count, metavar="K", help="the first K images only")
    parser.add_argument(
        "--overwrite", action="store_true", help="drop results that were made with other settings"
    )
    parser.add_argument(
        "--report-images", type=int, default=60, metavar="K", help="images in report.html"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--merge", metavar="OUTPUT", help="join the results of shards, no more")
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config keys, as MODEL.TRACE.SEED 1"
    )


def need_options(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise a UsageError that names the options of ``names`` that are missing."""
    missing = [f"--{name}" for name in names if getattr(args, name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} missing; see --help")


def load_cfg(config_file: str | None, opts: Sequence[str]) -> CfgNode:
    """The config of a command line, frozen; of a training config only the ``TRACE`` nodes count.

    Raises:
        UsageError: a key does not exist.
        FileNotFoundError: there is no such file.
    """
    if len(opts) % 2:
        raise UsageError(f"config keys come as KEY VALUE pairs, but these are {len(opts)}: {opts}")
    try:
        if config_file is not None:
            return load_trace_cfg(config_file, list(opts))
        cfg = get_trace_cfg()
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError) as error:  # what yacs raises for a key that does not exist
        raise UsageError(f"{error.args[0]}: see docs/config.md for the keys") from error
    cfg.freeze()
    return cfg


def edges_of(args: argparse.Namespace, cfg: CfgNode) -> Path | str:
    """Where edges come from: a folder, ``BACKBONE``, ``STUDENT`` or ``NO_EDGES``.

    ``--edges`` and ``--no-edges`` go before ``MODEL.TRACE.EDGES``.

    Raises:
        UsageError: there is no such folder, student or source.
    """
    if args.no_edges:
        return NO_EDGES
    if args.edges:
        return existing_folder(args.edges, "--edges")
    source = cfg.MODEL.TRACE.EDGES.SOURCE
    if source == "files":
        return existing_folder(cfg.MODEL.TRACE.EDGES.DIR, "MODEL.TRACE.EDGES.DIR")
    return detected_edges(cfg)


def detected_edges(cfg: CfgNode) -> str:
    """``BACKBONE`` or ``STUDENT``, as ``MODEL.TRACE.EDGES.SOURCE`` says.

    Raises:
        UsageError: there is no such source, or no such student.
    """
    source = cfg.MODEL.TRACE.EDGES.SOURCE
    if source == "teacher":
        return BACKBONE
    if source != "student":
        raise UsageError(
            f'MODEL.TRACE.EDGES.SOURCE is {source!r}; choose "teacher", "student" or "files"'
        )
    try:
        check_edge_source(cfg)
    except (ValueError, OSError) as error:
        raise UsageError(f"{_the_student(cfg)} cannot be loaded: {error}") from error
    return STUDENT


def existing_folder(path: str, option: str) -> Path:
    """``path``, or a UsageError that names ``option`` if no folder is there."""
    if not path or not Path(path).is_dir():
        raise UsageError(f"no folder at {path}: correct {option}")
    return Path(path)


def detection_builder(cfg: CfgNode) -> Callable[[], EdgeSource]:
    """What makes the edge detector of ``cfg``, once an image needs it."""

    def build() -> EdgeSource:
        name = f"the backbone {cfg.MODEL.TRACE.BACKBONE.NAME}"
        if cfg.MODEL.TRACE.EDGES.SOURCE == "student":
            name = _the_student(cfg)
        try:
            return build_edge_source(cfg)
        except (ValueError, KeyError, OSError, ImportError) as error:
            raise UsageError(f"{name} cannot be loaded: {error}") from error

    return build


def _the_student(cfg: CfgNode) -> str:
    """Which student, for messages."""
    trace = cfg.MODEL.TRACE
    return f"the student {trace.STUDENT.WEIGHTS or f'of {trace.BACKBONE.NAME}'}"


def show_result(result: JobResult, plan: JobPlan, done: str, files: str, output: str) -> int:
    """Print how a job ended; returns the exit status that belongs to it.

    Args:
        result: how it ended.
        plan: what was run.
        done: what a finished image is, as ``"labelled"``.
        files: where to find the results of a whole job.
        output: what ``--merge`` is given.
    """
    print(
        f"{result.done} {done} ({result.earlier} of them before), {result.skipped} skipped, "
        f"{len(result.failed)} failed"
    )
    show_trust(plan.job.store, list(plan.job.store.read_records().values()))
    if plan.shard.whole:
        print(files)
    else:
        print(f"after the last shard: python {sys.argv[0]} --merge {output}")
    return _show_failures(result.failed, plan.job.store)


def show_merge(merge: Callable[[], MergeResult], store: JobStore, done: str) -> int:
    """Run ``merge`` and print how the images of ``store`` stand; returns the exit status."""
    try:
        result = merge()
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    print(f"{result.done} {done}, {result.skipped} skipped, {len(result.failed)} failed")
    show_trust(store, list(store.read_records().values()))
    if result.pending:
        print(f"{result.pending} not {done} yet: run the missing shards, then --merge again")
    status = _show_failures(result.failed, store)
    return 3 if result.pending else status


def count(text: str) -> int:
    """A whole number of 1 or more, as an argument's type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _show_failures(failed: Sequence[Record], store: JobStore) -> int:
    for record in failed[:_SHOWN_FAILURES]:
        print(f"failed: {record.file_name}: {record.reason.splitlines()[-1]}", file=sys.stderr)
    if len(failed) > _SHOWN_FAILURES:
        print(
            f"and {len(failed) - _SHOWN_FAILURES} more in {store.root}/report.html", file=sys.stderr
        )
    return 3 if failed else 0


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
