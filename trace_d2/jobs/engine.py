"""The engine of resumable jobs: runs what a kind of job answers.

It holds the folder, reads ahead, keeps the journal, divides images among workers and shards, and
goes on where a job was cut short. Locks of a folder are the operating system's, so they end with
the process that holds them, however it ends.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from trace_d2.jobs.executors import Task, build_executor
from trace_d2.jobs.job import AnyJob
from trace_d2.jobs.journal import DONE, FAILED, SKIPPED, ImageEntry, Record
from trace_d2.jobs.report import Outcome, write_report
from trace_d2.jobs.store import GATE_SECONDS, JobStore, SettingsChangedError, writing_to


class FolderInUseError(RuntimeError):
    """Another process is writing to the output folder."""


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from 1; 1/1 is the whole job."""

    index: int = 1
    count: int = 1

    @property
    def name(self) -> str:
        """``"I-of-N"``, for file names; empty for the whole job."""
        return "" if self.count == 1 else f"{self.index}-of-{self.count}"

    def take(self, entries: Sequence[ImageEntry]) -> list[ImageEntry]:
        """Every ``count``-th entry, so that shards see alike images and take alike long."""
        return list(entries[self.index - 1 :: self.count])


@dataclass(frozen=True)
class RunOptions:
    """How a run goes about its job.

    Attributes:
        shard: which part of the images this run does.
        limit: do the first so many images only; None: all.
        workers: processes that make results; 1: this one.
        overwrite: drop results that were made with other settings.
        progress: show a progress bar.
    """

    shard: Shard = field(default_factory=Shard)
    limit: int | None = None
    workers: int = 1
    overwrite: bool = False
    progress: bool = False


@dataclass(frozen=True)
class JobResult:
    """How images stand: those of a run (its shard and limit), or those of a folder.

    Attributes:
        done: finished, now or before.
        skipped: without anything to make a result from.
        failed: records of the failures.
        earlier: of the done ones, those that were finished before this run.
        pending: images that no run has come to yet.
    """

    done: int
    skipped: int
    failed: tuple[Record, ...]
    earlier: int = 0
    pending: int = 0


def run_job(job: AnyJob, options: RunOptions) -> JobResult:
    """Do all images that are not finished yet; a whole job then joins the results.

    Raises:
        ForeignFolderError: the output folder belongs to somebody else.
        SettingsChangedError: it holds results of other settings.
        FolderInUseError: another job writes there.
        OutputError: it takes no more files (a full disk); finished images are safe.
        WorkerDiedError: a worker process died; finished images are safe.
        KeyboardInterrupt: Ctrl-C; finished images are safe.
    """
    store, whole = job.store, not options.shard.name
    limit = len(job.entries) if options.limit is None else options.limit
    share = options.shard.take(job.entries[:limit])
    store.check_place()
    if options.overwrite:
        _drop_changed(job)
    with folder_lock(store.root, options.shard):
        store.check_settings(job.settings)
        with writing_to(store.root):
            store.open(job.settings)
            if whole:
                store.sweep()
            store.write_images(job.entries, limit)
        result = _do_images(job, share, options)
        if whole:
            with writing_to(store.root):
                _join(type(job), store)
        return result


def merge_folder(kind: type[AnyJob], store: JobStore) -> JobResult:
    """Join what is in ``store``; for after shards, or after a job cut short.

    Raises:
        FileNotFoundError: it is no folder of results.
        ForeignFolderError: it is of another kind.
        FolderInUseError: a job writes there.
    """
    store.read_settings()
    store.check_place()
    with folder_lock(store.root, Shard()), writing_to(store.root):
        store.sweep()
        return _join(kind, store)


def _drop_changed(job: AnyJob) -> None:
    """Drop results made with other settings, holding the whole folder meanwhile.

    Of several shards that start with --overwrite, the first one drops; the others then find
    settings that agree.
    """
    try:
        job.store.check_settings(job.settings)
    except SettingsChangedError:
        with folder_lock(job.store.root, Shard()), writing_to(job.store.root):
            job.store.drop_results()
            job.store.open(job.settings)


def _join(kind: type[AnyJob], store: JobStore) -> JobResult:
    """Write the files that join the results, the journal and the report page; we hold the folder.

    All finished images of the job go in, in sorted order of stems, so that the files do not depend
    on workers, shards or the order in which images ended.
    """
    settings = store.read_settings()
    entries, limit = store.read_images()
    records = store.join_journals()
    done = [e for e in entries if store.is_finished(records.get(e.stem), e)]
    outcome = Outcome(store, settings, entries, records, done)
    kind.join(outcome)
    write_report(kind.report(outcome), outcome, kind.done)
    own = [records.get(entry.stem) for entry in entries[:limit]]
    pending = own.count(None)
    if not pending:
        store.drop_scratch()
    failed = tuple(record for record in own if record and record.status == FAILED)
    skipped = sum(record is not None and record.status == SKIPPED for record in own)
    return JobResult(len(done), skipped, failed, pending=pending)


def _do_images(job: AnyJob, share: Sequence[ImageEntry], options: RunOptions) -> JobResult:
    store = job.store
    records = store.read_records()
    left = [entry for entry in share if not job.is_current(records.get(entry.stem), entry)]
    job.prepare(left, options.workers, options.progress)
    executor = build_executor(min(options.workers, len(left)))
    counts: Counter[str] = Counter()
    failures: list[Record] = []
    # In a log file a line now and then will do.
    interval = 0.1 if sys.stderr.isatty() else 30.0
    with (
        store.open_journal(options.shard.name) as journal,
        tqdm(
            total=len(left), unit="image", disable=not options.progress, mininterval=interval
        ) as bar,
        contextlib.closing(executor(job, _tasks(job, left))) as outcomes,
    ):
        for record in outcomes:
            with writing_to(store.root):
                journal.append(record)
            counts[record.status] += 1
            if record.status == FAILED:
                failures.append(record)
            bar.set_postfix(failed=counts[FAILED], skipped=counts[SKIPPED], refresh=False)
            bar.update()
    earlier = len(share) - len(left)
    return JobResult(counts[DONE] + earlier, counts[SKIPPED], tuple(failures), earlier)


def _tasks(job: AnyJob, entries: Sequence[ImageEntry]) -> Iterator[Task]:
    """Entries with what the model sees in them; a thread reads the next image meanwhile."""
    if not job.looks:
        yield from ((entry, None) for entry in entries)
        return
    with ThreadPoolExecutor(1) as reader:

        def start(entry: ImageEntry) -> tuple[ImageEntry, Callable[[], Any] | None]:
            return entry, None if job.skip(entry) else reader.submit(job.load, entry).result

        started = map(start, entries)
        current = next(started, None)
        while current is not None:
            following = next(started, None)
            entry, read = current
            yield entry, job.look_ahead(entry, read) if read else None
            current = following


@contextlib.contextmanager
def folder_lock(folder: Path, shard: Shard) -> Iterator[None]:
    """Hold ``folder`` for ``shard`` within the block.

    A whole job (or a merge) wants the folder to itself; a shard only wants no whole job, no second
    process on the same shard, and no shards of another division.

    Raises:
        FolderInUseError: another process holds the folder, this shard or one of another division.
        OutputError: the folder cannot be written to.
    """
    locks = folder / ".locks"
    own = locks / (f"job-{shard.name}.lock" if shard.name else "job.lock")
    with contextlib.ExitStack() as held:
        with writing_to(folder):
            locks.mkdir(parents=True, exist_ok=True)
            with _acquire(locks / "gate.lock", GATE_SECONDS):
                for path in sorted(locks.glob("job*.lock")):
                    if path.name.partition("-of-")[2] != own.name.partition("-of-")[2]:
                        with _acquire(path):
                            pass  # nobody holds it, or can take it before we pass the gate
                held.enter_context(_acquire(own))
        yield


def _acquire(path: Path, timeout: float = 0.0) -> contextlib.AbstractContextManager[Any]:
    """Take the lock ``path``; raises a FolderInUseError if it isn't free in ``timeout`` seconds."""
    try:
        return FileLock(path).acquire(timeout=timeout)
    except Timeout:
        index, _, count = path.stem.removeprefix("job-").partition("-of-")
        whole = {"gate": "just starting", "job": "a whole job or a merge"}
        holder = whole.get(index, f"shard {index}/{count}")
        raise FolderInUseError(
            f"{path.parents[1]} is in use by another job ({holder}): wait until it ends, or choose "
            "another --output"
        ) from None
