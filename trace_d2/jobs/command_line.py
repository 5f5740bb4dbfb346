"""The command of a job: config, what the options ask for, what is printed, and exit statuses.

Kinds of jobs are imported once the arguments are parsed, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from trace_d2.complaints import Complaints
from trace_d2.devices import VISIBLE, of_other_machines, visible_gpus
from trace_d2.io.addresses import what_is_wrong
from trace_d2.io.hints import nearest_path
from trace_d2.io.json_files import shown
from trace_d2.io.listing import ids_of_stems, list_images, read_image_ids
from trace_d2.io.remote import InputFolder, StoreError, absent, input_folder, is_address
from trace_d2.jobs.actors import Actors
from trace_d2.jobs.arguments import HERE, RAY, check_command
from trace_d2.jobs.choosing import asked_actors
from trace_d2.jobs.claiming import Claimed, run_free_shards
from trace_d2.jobs.engine import JobResult, RunOptions, merge_folder, run_job
from trace_d2.jobs.executors import WorkerDiedError
from trace_d2.jobs.failures import count_kinds, gist
from trace_d2.jobs.job import AnyJob, UsageError
from trace_d2.jobs.journal import DONE
from trace_d2.jobs.locks import FolderInUseError, NoLocksError
from trace_d2.jobs.object_store import job_store
from trace_d2.jobs.output import (
    DamagedFileError,
    ForeignFolderError,
    NoPlaceError,
    OutputError,
    SettingsChangedError,
)
from trace_d2.jobs.preflight import look_at_some
from trace_d2.jobs.ray_cluster import check_ray
from trace_d2.jobs.sharding import Part, choose_gpu, parse_shard
from trace_d2.jobs.status_text import show_status
from trace_d2.jobs.store import JobStore
from trace_d2.terminal import say

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

TEACHER, STUDENT, FILES, NONE = "teacher", "student", "files", "none"
"""Where edges come from, ``MODEL.TRACE.EDGES.SOURCE``; ``NONE``: nowhere, nothing is cut."""

_REFUSALS = (
    UsageError,
    ForeignFolderError,
    SettingsChangedError,
    DamagedFileError,
    FolderInUseError,
    NoLocksError,
    NoPlaceError,
)
_NO_CLAIMS = (
    "{} has no locks, by which parts are claimed: give --shard I/N or auto instead of next/N, or "
    "an --output on a file system"
)
_NO_LOCKS = (
    "note: {} has no locks: two jobs there at once cannot be refused; they do the work twice, and "
    "write the same results"
)
_OWN_MEMORY = (
    "--output {} is in the memory of each process, where others see nothing: give --workers 1 "
    "alone, or another --output"
)
_SHOWN_FAILURES = 10
_SHOWN_FOLDERS = 5


def run_command(
    kind: type[AnyJob],
    args: argparse.Namespace,
    make: Callable[[argparse.Namespace], AnyJob] | None = None,
) -> int:
    """Run, merge or look at the job that ``args`` of a ``job_parser`` describe; returns the status.

    ``make`` takes the place of ``kind.from_args``, for jobs that need what is beyond this room.
    """

    def command() -> int:
        _check_values(args)
        wrong = Complaints()
        check_command(wrong, args)
        if not (args.status or args.merge):
            return _run(wrong, kind, args, make)
        _refuse(wrong)
        return _status(args) if args.status else _merge(kind, args.merge)

    return exit_status(
        command, lambda: "" if args.status else _what_is_safe(kind, args.merge or args.output)
    )


def exit_status(command: Callable[[], int], interrupted: Callable[[], str] = str) -> int:
    """Run ``command``, which returns its exit status; errors are printed and become one.

    Args:
        command: what to run.
        interrupted: what there is to say after Ctrl-C.

    Returns:
        the status of ``command``; 1 where the job stopped (full disk, dead worker, lost store), 2
        where the command is wrong or the output is taken or damaged, 130 after Ctrl-C.
    """
    try:
        return command()
    except _REFUSALS as error:
        say(f"error: {error}", error=True)
        return 2
    except (OutputError, WorkerDiedError) as error:
        say(f"stopped: {error}", error=True)
        return 1
    except StoreError as error:
        safe = "Finished images are safe, and the same command continues"
        say(f"stopped: {error}. {safe}", error=True)
        return 1
    except KeyboardInterrupt:
        say(f"\ninterrupted. {interrupted()}", error=True)
        return 130


def _refuse(wrong: Complaints) -> None:
    """Raise a UsageError of all that is wrong, if anything is."""
    try:
        wrong.end()
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(str(error)) from error


def _what_is_safe(kind: type[AnyJob], output: str) -> str:
    records = job_store(output, kind.layout).read_records().values()
    done = sum(record.status == DONE for record in records)
    if not done:
        return f"No image was {kind.done} yet: run the same command again"
    return (
        f"{done} images are {kind.done} and safe: the same command continues, and --merge OUTPUT "
        "joins what there is"
    )


def asked_keys(args: argparse.Namespace) -> dict[str, str]:
    """Config keys that the command line itself names, with their values as they are written."""
    opts = getattr(args, "opts", ())  # which jobs without a config have not
    return dict(zip(opts[::2], opts[1::2], strict=False))


def _check_values(args: argparse.Namespace) -> None:
    """Raise a UsageError that names every option that is empty, or has no whole address.

    An empty one is mostly that of an unset variable, and would count as one that is not given.
    """
    given = {f"--{name.replace('_', '-')}": value for name, value in vars(args).items()}
    wrong = Complaints()
    for option, value in given.items():
        if isinstance(value, str) and not value.strip():
            wrong.say(f"{option} is empty: name what it is to be, or leave it out")
    for option, value in (given | asked_keys(args)).items():
        written = option in ("--output", "--merge", "--status")
        if isinstance(value, str) and (what := what_is_wrong(value, written)):
            wrong.say(f"{option} is {shown(value)}: {what}")
    if wrong:
        raise UsageError(str(wrong.joined()))


def load_cfg(config_file: str | None, opts: Sequence[str]) -> CfgNode:
    """The config of a command line, frozen; of a training config only the ``TRACE`` nodes count.

    Raises:
        UsageError: a key does not exist, or has a value of the wrong kind.
        FileNotFoundError: there is no such file.
    """
    from trace_d2.config import ConfigError, load_trace_cfg

    try:
        return load_trace_cfg(config_file, opts)
    except ConfigError as error:
        raise UsageError(str(error)) from error


def existing_folder(path: str, option: str) -> Path:
    """``path``, or a UsageError that names ``option`` if no folder is there."""
    if not path or not Path(path).is_dir():
        raise UsageError(f"no folder at {path}{nearest_path(path)}: correct {option}")
    return Path(path)


def given_folder(path: str, option: str) -> InputFolder:
    """As ``existing_folder``, of a path or an address; raises OSError where none can be told."""
    folder = input_folder(path)
    if not path or not folder.is_dir():
        raise UsageError(f"no folder at {path}{absent(folder)}: correct {option}")
    return folder


def images_below(images: str | InputFolder, *others: str | InputFolder | None) -> dict[str, str]:
    """``list_images``, without the folders ``others``; says which sub-folders have images."""
    names = list_images(images, others, "correct --images")
    folders = Counter(stem.partition("/")[0] for stem in names if "/" in stem)
    if folders:
        listed = ", ".join(
            f"{shown(name)} ({n})" for name, n in islice(folders.items(), _SHOWN_FOLDERS)
        )
        more = ", ..." if len(folders) > _SHOWN_FOLDERS else ""
        say(
            f"note: {folders.total()} of {len(names)} images are in sub-folders of {images}: "
            f"{listed}{more}"
        )
    return names


def image_ids(names: Mapping[str, str], images_json: str | None) -> dict[str, int]:
    """Ids of the images ``names``, of all or of those that ``images_json`` lists, if it is given.

    Raises:
        UsageError: it lists none of them; and as ``read_image_ids`` and ``ids_of_stems``.
    """
    ids = read_image_ids(images_json, names) if images_json else ids_of_stems(list(names))
    if names and not ids:
        raise UsageError(
            f"the list of images names none of the {len(names)} images (the first is "
            f"{next(iter(names.values()))}): give the list that belongs to them"
        )
    return ids


def _run(
    wrong: Complaints,
    kind: type[AnyJob],
    args: argparse.Namespace,
    make: Callable[[argparse.Namespace], AnyJob] | None,
) -> int:
    missing = [f"--{name.replace('_', '-')}" for name in kind.needs if getattr(args, name) is None]
    if missing:
        wrong.say(f"{', '.join(missing)} missing; see --help")
        _refuse(wrong)
    part, job, actors = _prepared(wrong, kind, args, make or kind.from_args)
    if not job.store.has_locks:
        say(_NO_LOCKS.format(job.store.address))
    options = RunOptions(
        part.shard, args.limit, args.workers, args.overwrite, not args.quiet, actors
    )
    claimed = run_free_shards(job, options) if part.claims else None
    result = claimed.result if claimed else run_job(job, options)
    say(
        f"{result.done} {kind.done} ({result.earlier} of them before), {result.skipped} skipped, "
        f"{len(result.failed)} failed"
    )
    if result.beyond:
        say(
            f"note: {result.beyond} more, beyond --limit, were {kind.done} before: they are in the "
            f"joined files and in all figures of {result.done + result.beyond} images"
        )
    kind.tell(job.store)
    if claimed:
        say(_claims(claimed, part.shard.count, args.output))
    elif not part.shard.name:
        files = kind.files.format(args.output.rstrip("/"))
        say(f"{files}   to look at: {job.store.address}/report.html")
    else:
        say(f"after the last shard: python {sys.argv[0]} --merge {args.output}")
    _show_failures(result, job.store)
    kind.tell_last(job.store)
    return 3 if result.failed else 0


def _claims(claimed: Claimed, count: int, output: str) -> str:
    """How the parts stand, and what to do then."""
    merge = f"python {sys.argv[0]} --merge {output}"
    here = f"{len(claimed.done)} of {count} parts were done here"
    if not claimed.taken:
        return f"{here}, and none is left: {merge}"
    names = ", ".join(str(shard.index) for shard in claimed.taken[:_SHOWN_FAILURES])
    more = ", ..." if len(claimed.taken) > _SHOWN_FAILURES else ""
    return (
        f"{here}; others do {len(claimed.taken)} still ({names}{more}). If one of them is lost, "
        f"the same command does what it left; then: {merge}"
    )


def _take_part(shard: str) -> Part:
    """What ``--shard`` asks for; the GPU is taken that is this process's of its machine."""
    part = parse_shard(shard, os.environ)
    own = ""
    gpus = visible_gpus() if part.local is not None else []
    if part.local is not None and gpus != []:
        if gpus is None:  # how many there are is not known
            os.environ.setdefault(VISIBLE, str(part.local))
        elif VISIBLE not in os.environ or len(gpus) > 1:  # else it was given the one
            os.environ[VISIBLE] = choose_gpu(part.local, gpus)  # before PyTorch looks
        own = f"; GPU {os.environ[VISIBLE]}"
    if part.source:
        of = f"part {part.shard.index} of {part.shard.count}"
        say(f"note: --shard auto is {of} ({part.source}{own})")
    return part


def _prepared(
    wrong: Complaints,
    kind: type[AnyJob],
    args: argparse.Namespace,
    make: Callable[[argparse.Namespace], AnyJob],
) -> tuple[Part, AnyJob, Callable[[], Actors] | None]:
    """The job, once nothing is known to be wrong; all that is wrong is said at once."""
    if args.output:
        wrong.of(lambda: job_store(args.output, kind.layout).check_place())
    ours = not wrong  # of a folder that is not, nothing is read
    part = wrong.of(_take_part, args.shard)  # first, as the device may hang on it
    if part and part.claims and is_address(args.output):
        wrong.say(_NO_CLAIMS.format(args.output))
    on_ray = getattr(args, "executor", HERE) == RAY
    if on_ray:
        wrong.of(check_ray, args.address)
    with of_other_machines() if on_ray else contextlib.nullcontext():
        job = wrong.of(make, args)
    actors = None
    if job is not None:
        actors = wrong.of(asked_actors, job, args)
        if args.output.startswith("memory://") and (actors or args.workers > 1):
            wrong.say(_OWN_MEMORY.format(args.output))
        begun = ours and job.store.has_results()
        if not begun:  # else it was right when it began
            wrong.of(look_at_some, job, args.limit)
        elif not args.overwrite:
            wrong.of(job.store.check_settings, job.settings)
    _refuse(wrong)
    assert part is not None
    assert job is not None
    return part, job, actors


def _status(args: argparse.Namespace) -> int:
    try:
        return show_status(args.status, args.watch, args.json)
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise UsageError(str(error)) from error


def _merge(kind: type[AnyJob], output: str) -> int:
    try:
        store = job_store(output, kind.layout)
        result = merge_folder(kind, store)
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise UsageError(str(error)) from error
    say(f"{result.done} {kind.done}, {result.skipped} skipped, {len(result.failed)} failed")
    kind.tell(store)
    if result.pending:
        say(
            f"{result.pending} not {kind.done} yet: run the missing shards, or the whole command, "
            f"then --merge again (images.json and journal.jsonl of {store.address} tell which)"
        )
    _show_failures(result, store)
    kind.tell_last(store)
    return 3 if result.failed or result.pending else 0


def _show_failures(result: JobResult, store: JobStore) -> None:
    """Name the images that failed; of many, what failed and how often."""
    if len(result.failed) <= _SHOWN_FAILURES:
        for record in result.failed:
            say(f"failed: {record.file_name}: {gist(record.reason)}", error=True)
        return
    kinds = count_kinds(result.failed, store.read_settings())
    for kind in kinds[:_SHOWN_FAILURES]:
        say(f"failed: {kind}", error=True)
    more = (
        f"and {len(kinds) - _SHOWN_FAILURES} more kinds: " if len(kinds) > _SHOWN_FAILURES else ""
    )
    say(f"{more}all {len(result.failed):,} are in {store.address}/journal.jsonl", error=True)
