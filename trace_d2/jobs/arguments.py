"""The options that jobs have in common, and what their values may be."""

from __future__ import annotations

import argparse

from trace_d2.complaints import Complaints
from trace_d2.parallel import available_cpus

EXECUTORS = HERE, RAY = "here", "ray"
"""Who does the images, ``--executor``."""

_EXIT_STATUS = """exit status:
  0    {all_done}
  1    the job stopped: full disk, dead worker, files changed by others; finished images are safe
  2    wrong usage, changed settings without --overwrite, or an output that is in use, damaged,
       not ours, without locks, or cannot be made
  3    some images failed (see {folder}/journal.jsonl and report.html), the others are {done}
  4    with --status: some images are still to be {done}
  130  Ctrl-C; finished images are safe
"""


class NotAsked(int):
    """A default that may be less fit elsewhere than what is known there."""


def job_parser(
    description: str | None,
    all_done: str,
    done: str,
    folder: str = "OUTPUT",
    workers: int | None = None,
    config: bool = True,
) -> argparse.ArgumentParser:
    """A parser with the options of every job, whose help shows a tool's docstring as it is.

    Args:
        description: the docstring.
        all_done: what exit status 0 means.
        done: what an image with a result is, as ``"labelled"``.
        folder: where the journal lies.
        workers: processes that write files beside the one that looks at images; None: as many
            processes as CPUs that do all.
        config: whether it takes config keys, and has a report with pictures.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=_EXIT_STATUS.format(all_done=all_done, done=done, folder=folder),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if config:
        parser.add_argument(
            "--config-file", metavar="FILE", help="YAML; default: all keys' defaults"
        )
    _add_division(parser, workers)
    if config:
        _add_machines(parser, beside=bool(workers))
    _add_extent(parser, config)
    _add_commands(parser)
    if config:
        parser.add_argument(
            "opts", nargs="*", metavar="KEY VALUE", help="config keys, as MODEL.TRACE.SEED 1"
        )
    return parser


def _add_division(parser: argparse.ArgumentParser, workers: int | None) -> None:
    """Among how many processes here, and which part of the images."""
    processes = "processes (default: CPUs)"
    if workers:
        processes = f"processes that write files beside the one that looks (default: {workers})"
    parser.add_argument(
        "--workers",
        type=count,
        default=NotAsked(workers or available_cpus()),
        metavar="N",
        help=processes,
    )
    parser.add_argument(
        "--shard",
        default="1/1",
        metavar="I/N",
        help="do part I of N (from 1); auto: as SLURM, torchrun or Kubernetes say; next/N: all "
        "parts of N that nobody does, one after the other. Then --merge (docs/cluster.md)",
    )


def _add_machines(parser: argparse.ArgumentParser, beside: bool) -> None:
    """On which GPUs; ``beside``: ``--workers`` are beside each process that looks."""
    parser.add_argument(
        "--num-gpus",
        type=count,
        metavar="N",
        help="a process a GPU of this machine, N in all, each with the model"
        + (" and so many --workers" if beside else "; --workers are shared out among them"),
    )
    parser.set_defaults(beside=beside)
    parser.add_argument(
        "--executor",
        choices=EXECUTORS,
        default=EXECUTORS[0],
        help="who does the images: this machine, or a cluster of Ray, on every GPU that it has "
        "(docs/cluster.md)",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of the cluster; default: RAY_ADDRESS, or the one that runs on this machine",
    )


def _add_extent(parser: argparse.ArgumentParser, pictures: bool) -> None:
    """How much is done, kept, shown and said."""
    parser.add_argument("--limit", type=count, metavar="K", help="the first K images only")
    parser.add_argument(
        "--overwrite", action="store_true", help="drop results that were made with other settings"
    )
    if pictures:
        parser.add_argument(
            "--report-images", type=int, default=60, metavar="K", help="images in report.html"
        )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_commands(parser: argparse.ArgumentParser) -> None:
    """What looks at no images."""
    parser.add_argument("--merge", metavar="OUTPUT", help="join the results of shards, no more")
    parser.add_argument(
        "--status",
        metavar="OUTPUT",
        help="tell how a job stands that runs anywhere, or has ended, no more: counts, speed, time "
        "left, what each shard and worker does, failures by kind",
    )
    parser.add_argument(
        "--watch", type=_seconds, metavar="SECONDS", help="with --status: again and again"
    )
    parser.add_argument("--json", action="store_true", help="with --status: as a line of JSON")


def check_command(wrong: Complaints, args: argparse.Namespace) -> None:
    """Complain of options of a ``job_parser`` of which the command would take no notice.

    Args:
        wrong: is told.
        args: as parsed.
    """
    commands = [name for name in ("--status", "--merge") if getattr(args, name[2:])]
    if len(commands) > 1:
        wrong.say("--status and --merge are two commands: give one after the other")
    num_gpus, address = getattr(args, "num_gpus", None), getattr(args, "address", None)
    given = [
        *([f"--num-gpus {num_gpus}"] if num_gpus is not None else []),
        *([f"--executor {RAY}"] if getattr(args, "executor", HERE) == RAY else []),
        *([f"--address {address}"] if address is not None else []),
    ]
    if commands and given:
        wrong.say(
            f"{commands[0]} looks at no images, and has no use for {' and '.join(given)}: leave "
            "out one or the other"
        )
    if not args.status and (args.watch or args.json):
        wrong.say("--watch and --json go with --status OUTPUT: leave them out, or give it")


def add_images_option(parser: argparse.ArgumentParser) -> None:
    """``--images``, the photographs of a job."""
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="photographs, in sub-folders or not; or s3://... or gs://...",
    )


def add_output_folder(parser: argparse.ArgumentParser) -> None:
    """``--output`` of a job that writes a folder."""
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="new folder, or one to continue; or s3://... or gs://...",
    )


def add_edge_options(parser: argparse.ArgumentParser, none: bool = True) -> None:
    """``--edges`` and ``--save-edges``, and with ``none`` ``--no-edges``."""
    edges = parser.add_mutually_exclusive_group()
    edges.add_argument(
        "--edges",
        metavar="DIR",
        help="given edges: <stem>.png (grey, 8 or 16 bit, scaled to 0..1) or <stem>.npy (float)",
    )
    if none:
        edges.add_argument("--no-edges", action="store_true", help="cut nothing by edges")
    edges.add_argument("--save-edges", action="store_true", help="keep the detected edges")


def add_sam_option(parser: argparse.ArgumentParser) -> None:
    """``--sam``, which ``edge_cfg`` takes for ``MODEL.TRACE.SAM.WEIGHTS``."""
    parser.add_argument(
        "--sam",
        metavar="MODEL",
        help="redraw what was cut by SAM, SAM 2 or SAM-HQ: a hub id or folder of transformers, as "
        "facebook/sam2.1-hiera-tiny (docs/masks.md)",
    )


def count(text: str) -> int:
    """A whole number of 1 or more, as an argument's type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be more than 0 seconds, got {text}")
    return value
