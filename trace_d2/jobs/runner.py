"""Runs a job: which images are left, who does them, and what happens when it is cut short."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
from tqdm import tqdm

from trace_d2.edges.sources import EdgeSource
from trace_d2.jobs.entries import ImageEntry, Shard
from trace_d2.jobs.image_job import ImageJob, Loaded
from trace_d2.jobs.journal import DONE, FAILED, SKIPPED, JournalWriter, Record
from trace_d2.jobs.kinds.calibrating import calibrate_job
from trace_d2.jobs.locks import folder_lock
from trace_d2.jobs.store import JobStore, SettingsChangedError, writing_to

_AHEAD = 2  # images a worker that are read or waiting, so that memory stays bounded


class WorkerDiedError(RuntimeError):
    """A worker process ended by itself, mostly for want of memory."""


@dataclass(frozen=True)
class JobPlan:
    """One run of a job.

    Attributes:
        job: what makes the results.
        entries: all images, in sorted order of stems.
        shard: which part of the images this run does.
        limit: do the first so many images only; None: all.
        workers: processes that make results; 1: this one.
        overwrite: drop results that were made with other settings.
        build_detection: makes the edge detector; called only if an image needs it.
        begin: called once the folder is ours, before the first image.
        progress: show a progress bar.
    """

    job: ImageJob[Any, Any, Any]
    entries: Sequence[ImageEntry]
    shard: Shard = field(default_factory=Shard)
    limit: int | None = None
    workers: int = 1
    overwrite: bool = False
    build_detection: Callable[[], EdgeSource] | None = None
    begin: Callable[[], None] | None = None
    progress: bool = False


@dataclass(frozen=True)
class JobResult:
    """Images of this run (its shard and limit) by how they stand now.

    Attributes:
        done: finished, now or before.
        skipped: without anything to make a result from.
        failed: records of the failures.
        earlier: of the done ones, those that were finished before this run.
    """

    done: int
    skipped: int
    failed: tuple[Record, ...]
    earlier: int


def run_job(plan: JobPlan) -> JobResult:
    """Do all images that are not finished yet; a whole job then joins the COCO files.

    Raises:
        ForeignFolderError: the output folder belongs to somebody else.
        SettingsChangedError: it holds results of other settings.
        FolderInUseError: another job writes there.
        OutputError: it takes no more files (a full disk); finished images are safe.
        WorkerDiedError: a worker process died; finished images are safe.
        KeyboardInterrupt: Ctrl-C; finished images are safe.
    """
    if plan.build_detection is not None:  # once, for the calibration and for all images
        plan = replace(plan, build_detection=functools.cache(plan.build_detection))
    store = plan.job.store
    store.check_place()
    settings = plan.job.settings.to_json()
    limit = len(plan.entries) if plan.limit is None else plan.limit
    if plan.overwrite:
        _drop_changed(store, settings)
    with folder_lock(store.root, plan.shard):
        store.check_settings(settings)
        with writing_to(store.root):
            store.open(settings)
            if plan.shard.whole:
                store.sweep()
            store.write_images(plan.entries, limit)
            if plan.begin is not None:
                plan.begin()
        result = _do_images(plan, plan.shard.take(plan.entries[:limit]))
        if plan.shard.whole:
            with writing_to(store.root):
                plan.job.merge()
                store.drop_sampled()
        return result


def _drop_changed(store: JobStore, settings: dict[str, Any]) -> None:
    """Drop results made with other settings, holding the whole folder meanwhile.

    Of several shards that start with --overwrite, the first one drops; the others then find
    settings that agree.
    """
    try:
        store.check_settings(settings)
    except SettingsChangedError:
        with folder_lock(store.root, Shard()), writing_to(store.root):
            store.drop_results()
            store.open(settings)


def _do_images(plan: JobPlan, share: Sequence[ImageEntry]) -> JobResult:
    store = plan.job.store
    records = store.read_records()
    left = [entry for entry in share if not plan.job.is_current(records.get(entry.stem), entry)]
    if left:
        build = plan.build_detection if plan.job.settings.detects else None
        plan.job.use_calibration(
            calibrate_job(plan.job, plan.entries, build, plan.workers, plan.progress)
        )
    counts = {DONE: 0, SKIPPED: 0, FAILED: 0}
    failures: list[Record] = []
    with (
        JournalWriter(store.journal_of(plan.shard)) as journal,
        _progress_bar(len(left), plan.progress) as bar,
        contextlib.closing(_outcomes(plan, left)) as outcomes,
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


def _progress_bar(total: int, shown: bool) -> tqdm:
    """A bar on standard error; in a log file a line now and then will do."""
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, unit="image", disable=not shown, mininterval=interval)


def _outcomes(plan: JobPlan, entries: Sequence[ImageEntry]) -> Generator[Record, None, None]:
    """Do ``entries`` here or in workers; records come in the order in which they end."""
    if not entries:
        return
    tasks = _tasks(plan, entries)
    workers = min(plan.workers, len(entries))
    if workers == 1:
        for task in tasks:
            yield task if isinstance(task, Record) else plan.job(*task)
        return
    # Spawned, as a fork of a process that runs CUDA or threads may hang.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker, (plan.job,)
    )
    waiting: dict[Future[Record], ImageEntry] = {}
    try:
        for task in tasks:
            if isinstance(task, Record):
                yield task
                continue
            waiting[pool.submit(_do_in_worker, *task)] = task[0]
            if len(waiting) >= _AHEAD * workers:
                yield from _ended(waiting)
        while waiting:
            yield from _ended(waiting)
    except BrokenProcessPool as error:
        names = ", ".join(entry.file_name for entry in waiting.values())
        raise WorkerDiedError(
            f"a worker process died while these were in work: {names}. It may have run out of "
            "memory: use fewer --workers. Finished images are safe; the same command continues"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tasks(
    plan: JobPlan, entries: Sequence[ImageEntry]
) -> Iterator[tuple[ImageEntry, Loaded[Any] | None] | Record]:
    """What to do, with the edges where they are to be detected."""
    if not plan.job.settings.detects:
        yield from ((entry, None) for entry in entries)
        return
    detection: EdgeSource | None = None
    with contextlib.closing(_read_ahead(plan.job, entries)) as reading:
        for entry, read in reading:
            if read is None:
                yield entry, None
                continue
            if detection is None:
                if plan.build_detection is None:
                    raise ValueError("detected edges need build_detection")
                detection = plan.build_detection()
            loaded = plan.job.detect(entry, detection, read)
            yield loaded if isinstance(loaded, Record) else (entry, loaded)


def _read_ahead(
    job: ImageJob[Any, Any, Any], entries: Sequence[ImageEntry]
) -> Generator[tuple[ImageEntry, Callable[[], Any] | None], None, None]:
    """Entries with what gives their inputs: a thread reads the next image meanwhile.

    None goes with an entry that is skipped.
    """
    with ThreadPoolExecutor(1) as reader:

        def start(entry: ImageEntry) -> tuple[ImageEntry, Callable[[], Any] | None]:
            if job.skip_reason(entry):
                return entry, None
            return entry, reader.submit(job.load, entry).result

        waiting = start(entries[0])
        for entry in entries[1:]:
            current, waiting = waiting, start(entry)
            yield current
        yield waiting


def _ended(waiting: dict[Future[Record], ImageEntry]) -> list[Record]:
    """Wait for at least one of ``waiting``; removes and returns those that have ended."""
    ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
    records = [future.result() for future in ended]
    for future in ended:
        del waiting[future]
    return records


_worker_job: ImageJob[Any, Any, Any] | None = None


def _start_worker(job: ImageJob[Any, Any, Any]) -> None:
    """Prepare a worker: no Ctrl-C (the main process ends it), one thread, no life as an orphan."""
    global _worker_job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker_job = job


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do_in_worker(entry: ImageEntry, loaded: Loaded[Any] | None) -> Record:
    if _worker_job is None:
        raise RuntimeError("the worker was not started by _start_worker")
    return _worker_job(entry, loaded)
