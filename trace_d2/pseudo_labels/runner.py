"""Runs a job: which images are left, who labels them, and what happens when it is cut short."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from trace_d2.pseudo_labels.journal import DONE, FAILED, SKIPPED, JournalWriter, Record
from trace_d2.pseudo_labels.labeling import EdgeDetection, ImageLabeler, LoadedImage
from trace_d2.pseudo_labels.listing import ImageEntry, Shard
from trace_d2.pseudo_labels.locks import folder_lock
from trace_d2.pseudo_labels.merge import merge_labels
from trace_d2.pseudo_labels.settings import BACKBONE, JobSettings
from trace_d2.pseudo_labels.store import LabelStore, SettingsChangedError, writing_to

_AHEAD = 2  # images a worker that are read or waiting, so that memory stays bounded


class WorkerDiedError(RuntimeError):
    """A worker process ended by itself, mostly for want of memory."""


@dataclass(frozen=True)
class JobPlan:
    """One run of the label maker.

    Attributes:
        settings: what decides the labels.
        entries: all images, in sorted order of stems.
        output: folder of the labels.
        shard: which part of the images this run labels.
        limit: label the first so many images only; None: all.
        workers: processes that make labels; 1: this one.
        save_edges: keep the edges.
        overwrite: drop labels that were made with other settings.
        build_detection: makes the edge detector; called only if an image needs it.
        progress: show a progress bar.
    """

    settings: JobSettings
    entries: Sequence[ImageEntry]
    output: Path
    shard: Shard = field(default_factory=Shard)
    limit: int | None = None
    workers: int = 1
    save_edges: bool = False
    overwrite: bool = False
    build_detection: Callable[[], EdgeDetection] | None = None
    progress: bool = False


@dataclass(frozen=True)
class JobResult:
    """Images of this run (its shard and limit) by how they stand now.

    Attributes:
        done: labelled, now or before.
        skipped: without anything to make a label from.
        failed: records of the failures.
        earlier: of the done ones, those that were finished before this run.
    """

    done: int
    skipped: int
    failed: tuple[Record, ...]
    earlier: int


def run_job(plan: JobPlan) -> JobResult:
    """Label all images that are not finished yet; a whole job then joins the COCO files.

    Raises:
        ForeignFolderError: the output folder belongs to somebody else.
        SettingsChangedError: it holds labels of other settings.
        FolderInUseError: another job writes there.
        OutputError: it takes no more files (a full disk); finished labels are safe.
        WorkerDiedError: a worker process died; finished labels are safe.
        KeyboardInterrupt: Ctrl-C; finished labels are safe.
    """
    store = LabelStore(plan.output)
    store.check_place()
    settings = plan.settings.to_json()
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
        result = _label_images(plan, store, plan.shard.take(plan.entries[:limit]))
        if plan.shard.whole:
            with writing_to(store.root):
                merge_labels(store)
        return result


def _drop_changed(store: LabelStore, settings: dict[str, Any]) -> None:
    """Drop labels made with other settings, holding the whole folder meanwhile.

    Of several shards that start with --overwrite, the first one drops; the others then find
    settings that agree.
    """
    try:
        store.check_settings(settings)
    except SettingsChangedError:
        with folder_lock(store.root, Shard()), writing_to(store.root):
            store.drop_labels()
            store.open(settings)


def _label_images(plan: JobPlan, store: LabelStore, share: Sequence[ImageEntry]) -> JobResult:
    labeler = ImageLabeler(plan.settings, plan.output, plan.save_edges)
    records = store.read_records()
    left = [
        entry
        for entry in share
        if not _is_current(records.get(entry.stem), entry, labeler, plan.save_edges)
    ]
    counts = {DONE: 0, SKIPPED: 0, FAILED: 0}
    failures: list[Record] = []
    with (
        JournalWriter(store.journal_of(plan.shard)) as journal,
        _progress_bar(len(left), plan.progress) as bar,
        contextlib.closing(_outcomes(plan, labeler, left)) as outcomes,
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


def _is_current(
    record: Record | None, entry: ImageEntry, labeler: ImageLabeler, save_edges: bool
) -> bool:
    """Whether ``entry`` has a finished label of these settings and of the inputs as they are."""
    return (
        record is not None
        and labeler.store.is_finished(record, entry, save_edges)
        and record.settings == labeler.settings_print
        and record.inputs == labeler.inputs_print(entry)
    )


def _outcomes(
    plan: JobPlan, labeler: ImageLabeler, entries: Sequence[ImageEntry]
) -> Generator[Record, None, None]:
    """Label ``entries`` here or in workers; records come in the order in which they end."""
    if not entries:
        return
    tasks = _tasks(plan, labeler, entries)
    workers = min(plan.workers, len(entries))
    if workers == 1:
        for task in tasks:
            yield task if isinstance(task, Record) else labeler(*task)
        return
    # Spawned, as a fork of a process that runs CUDA or threads may hang.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker, (labeler,)
    )
    waiting: dict[Future[Record], ImageEntry] = {}
    try:
        for task in tasks:
            if isinstance(task, Record):
                yield task
                continue
            waiting[pool.submit(_label_in_worker, *task)] = task[0]
            if len(waiting) >= _AHEAD * workers:
                yield from _ended(waiting)
        while waiting:
            yield from _ended(waiting)
    except BrokenProcessPool as error:
        names = ", ".join(entry.file_name for entry in waiting.values())
        raise WorkerDiedError(
            f"a worker process died while these were in work: {names}. It may have run out of "
            "memory: use fewer --workers. Finished labels are safe; the same command continues"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tasks(
    plan: JobPlan, labeler: ImageLabeler, entries: Sequence[ImageEntry]
) -> Iterator[tuple[ImageEntry, LoadedImage | None] | Record]:
    """What to label, with the backbone's edges where it is the one to find them."""
    detection: EdgeDetection | None = None
    for entry in entries:
        if plan.settings.edges != BACKBONE or labeler.skip_reason(entry):
            yield entry, None
            continue
        if detection is None:
            if plan.build_detection is None:
                raise ValueError("edges of the backbone need build_detection")
            detection = plan.build_detection()
        loaded = labeler.detect(entry, detection)
        yield loaded if isinstance(loaded, Record) else (entry, loaded)


def _ended(waiting: dict[Future[Record], ImageEntry]) -> list[Record]:
    """Wait for at least one of ``waiting``; removes and returns those that have ended."""
    ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
    records = [future.result() for future in ended]
    for future in ended:
        del waiting[future]
    return records


_worker_labeler: ImageLabeler | None = None


def _start_worker(labeler: ImageLabeler) -> None:
    """Prepare a worker: no Ctrl-C (the main process ends it), one thread, no life as an orphan."""
    global _worker_labeler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker_labeler = labeler


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _label_in_worker(entry: ImageEntry, loaded: LoadedImage | None) -> Record:
    if _worker_labeler is None:
        raise RuntimeError("the worker was not started by _start_worker")
    return _worker_labeler(entry, loaded)
