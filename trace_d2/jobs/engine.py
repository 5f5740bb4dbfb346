"""The engine of resumable jobs: runs what a kind of job answers.

It holds the folder, reads ahead, keeps the journal, divides images among workers and shards, and
goes on where a job was cut short.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from trace_d2.io.json_files import shown
from trace_d2.jobs.actors import Actors
from trace_d2.jobs.crew import Crew
from trace_d2.jobs.executors import build_executor
from trace_d2.jobs.job import AnyJob, UsageError
from trace_d2.jobs.join_mark import JoinMark
from trace_d2.jobs.journal import DONE, FAILED, SKIPPED, ImageEntry, Record
from trace_d2.jobs.locks import LOCKS, Shard, folder_lock, hold_lock, ignores_case
from trace_d2.jobs.looking import tasks_of
from trace_d2.jobs.on_disk import Records, chosen
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.output import OutputError, SettingsChangedError, writing_to
from trace_d2.jobs.progress import progress_bar
from trace_d2.jobs.report import write_report
from trace_d2.jobs.store import JobStore

logger = logging.getLogger(__name__)

Known = Callable[[str], Record | None]  # the record of a stem that counts

_NO_DROPPING = (
    "{} holds results of other settings, which a shard cannot drop there: object stores have no "
    "locks, and other shards may write by now. Remove the folder first, or choose another --output"
)


@dataclass(frozen=True)
class RunOptions:
    """How a run goes about its job.

    Attributes:
        shard: which part of the images this run does.
        limit: do the first so many images only; None: all.
        workers: processes that make results; 1: this one.
        overwrite: drop results that were made with other settings.
        progress: show a progress bar.
        actors: gives those that do the images in place of this process and its workers.
        crew: of actors that stay from shard to shard; None: ``actors`` are asked for.
    """

    shard: Shard = field(default_factory=Shard)
    limit: int | None = None
    workers: int = 1
    overwrite: bool = False
    progress: bool = False
    actors: Callable[[], Actors] | None = None
    crew: Crew | None = None

    def limited(self, entries: Sequence[ImageEntry]) -> int:
        """How many of ``entries``, from the first, are to be done by all shards."""
        return len(entries) if self.limit is None else self.limit

    def share(self, entries: Sequence[ImageEntry]) -> list[ImageEntry]:
        """Those of ``entries`` that this run does."""
        return self.shard.take(entries[: self.limit])


@dataclass(frozen=True)
class JobResult:
    """How images stand: those of a run (its shard and limit), or those of a folder.

    Attributes:
        done: finished, now or before.
        skipped: without anything to make a result from.
        failed: records of the failures.
        earlier: of the done ones, those that were finished before this run.
        pending: images that no run has come to yet.
        beyond: images that the joined files hold besides: those beyond the limit, finished before.
    """

    done: int
    skipped: int
    failed: Collection[Record]
    earlier: int = 0
    pending: int = 0
    beyond: int = 0


def run_job(job: AnyJob, options: RunOptions) -> JobResult:
    """Do all images that are not finished yet; a whole job then joins the results.

    Raises:
        ForeignFolderError: the output folder belongs to somebody else, or leads elsewhere.
        SettingsChangedError: it holds results of other settings.
        DamagedFileError: a file in it is damaged, which this cannot make again by itself.
        FolderInUseError, NoLocksError: another job writes there, or could without our seeing it.
        OutputError: it takes no more files (a full disk), or what is in it was changed meanwhile;
            finished images are safe.
        WorkerDiedError: a worker process died; finished images are safe.
        KeyboardInterrupt: Ctrl-C; finished images are safe.
    """
    store = job.store
    store.check_place()
    make_room(job, options)
    with folder_lock(store.root, options.shard):
        begin(job, options)
        return do_share(job, options)


def begin(job: AnyJob, options: RunOptions) -> None:
    """Make the folder, which we hold, ready for the job.

    Shards that start at once do so one after the other: none goes on beside settings of another.
    """
    store, whole = job.store, not options.shard.name
    _check_apart(store, job.entries)
    with contextlib.ExitStack() as stack:
        stack.enter_context(writing_to(store.root))
        if store.has_locks:
            stack.enter_context(hold_lock(store.root / LOCKS / "begin.lock", timeout=-1))
        store.check_settings(job.settings)
        store.open(job.settings)
        if whole:
            store.sweep()
        store.write_images(job.entries, options.limited(job.entries), lowers=whole)


def do_share(
    job: AnyJob, options: RunOptions, read_records: Callable[[], Known] | None = None
) -> JobResult:
    """Do what is left of the shard, whose lock we hold; of a whole job the results are joined.

    Args:
        job, options: see ``run_job``.
        read_records: gives the records of the shard's images by now; None: all journals are read.
    """
    store, whole = job.store, not options.shard.name
    read = read_records or (lambda: store.read_records().get)
    share = options.share(job.entries)
    try:
        result, others = _do_images(job, share, options, read())
    except UsageError:
        if whole and not store.has_work():
            store.drop_results()
        raise
    if whole:
        with writing_to(store.root):
            result = replace(result, beyond=_join(type(job), store).done - result.done)
    if whole or store.has_locks:  # what was uploaded nobody else can have taken for theirs
        _check_kept(store, share, others, read())
    return result


def merge_folder(kind: type[AnyJob], store: JobStore) -> JobResult:
    """Join what is in ``store``; for after shards, or after a job cut short.

    Raises:
        FileNotFoundError: it is no folder of results.
        ForeignFolderError: it is of another kind, or leads elsewhere.
        DamagedFileError: a file in it is damaged.
        FolderInUseError, NoLocksError: a job writes there, or could without our seeing it.
        OutputError: it takes no more files.
    """
    store.read_settings()
    store.check_place()
    with folder_lock(store.root, Shard()), writing_to(store.root):
        store.read_images()  # before anything is changed
        store.sweep()
        return _join(kind, store)


def make_room(job: AnyJob, options: RunOptions) -> None:
    """Drop results made with other settings, if wanted, holding the whole folder meanwhile.

    Of several shards that start with --overwrite, the first one drops; the others then find
    settings that agree. A folder without results, as a job leaves it that stopped at once, is free.
    """
    store = job.store
    try:
        store.check_settings(job.settings)
    except SettingsChangedError:
        if not options.overwrite and store.has_results():
            raise
        if options.shard.name and not store.has_locks:
            raise UsageError(_NO_DROPPING.format(store.address)) from None
        with folder_lock(store.root, Shard()), writing_to(store.root):
            if not options.overwrite and store.has_results():  # of a job that ended just now
                raise
            others = store.drop_results(entry.stem for entry in job.entries)
            store.open(job.settings)
        if others:
            logger.warning(
                "%d files in the folders of %s are not of this tool and stay: %s, ...",
                len(others),
                store.address,
                shown(str(others[0])),
            )


def _check_apart(store: JobStore, entries: Sequence[ImageEntry]) -> None:
    """Raise a UsageError if two images would have one file, as the output takes A for a."""
    if not ignores_case(store.root):
        return
    owners: dict[str, str] = {}
    for entry in entries:
        other = owners.setdefault(entry.stem.casefold(), entry.file_name)
        if other != entry.file_name:
            raise UsageError(
                f"the file system of {store.root} does not tell the names of {shown(other)} and "
                f"{shown(entry.file_name)} apart: rename one, or choose an --output elsewhere"
            )


def _join(kind: type[AnyJob], store: JobStore) -> JobResult:
    """Write the files that join the results, the journal and the report page; we hold the folder.

    All finished images of the job go in, in sorted order of stems, so that the files do not depend
    on workers, shards or the order in which images ended.
    """
    settings = store.read_settings()
    entries, limit = store.read_images()
    records = store.join_journals()
    done = bytearray(store.has_result(records.get(e.stem), e) for e in entries)
    outcome = Outcome(store, settings, entries, records, chosen(entries, done))
    mark = JoinMark(store, records, outcome.done) if store.has_locks else None
    if mark is None or not mark.is_there():
        kind.join(outcome)
        write_report(kind.report(outcome), outcome, kind.done)
        store.publish()
        if mark is not None:
            mark.write()
    found = (records.get(entry.stem) for entry in entries.first(limit))
    others = Records(record for record in found if record and record.status != DONE)
    # What has not all the files that its record tells of is to be done again.
    pending = limit - sum(done[:limit]) - len(others)
    if not pending:
        store.drop_scratch()
    return _result(sum(done), others, pending=pending)


def _result(done: int, others: Records, **more: int) -> JobResult:
    """What ``done`` images and records of ``others`` say."""
    return JobResult(done, len(others.of_status(SKIPPED)), others.of_status(FAILED), **more)


def _do_images(
    job: AnyJob, share: Sequence[ImageEntry], options: RunOptions, known: Known
) -> tuple[JobResult, Records]:
    """How the images of ``share`` stand once those that were left are done; records of others."""
    store = job.store
    left = [entry for entry in share if not job.is_current(known(entry.stem), entry)]
    others, counts = Records(), Counter[str]()
    name = options.shard.title or job.layout.kind
    with contextlib.ExitStack() as stack:
        outcomes = stack.enter_context(_outcomes(job, left, options))
        with writing_to(store.root):
            journal = stack.enter_context(store.open_journal(options.shard.name))
        bar = stack.enter_context(progress_bar(len(left), name, options.progress))
        for record in outcomes:
            with writing_to(store.root):
                journal.append(record.after(known(record.stem)))
            if record.status != DONE:
                others.put([record])
            counts[record.status] += 1
            bar.set_postfix(failed=counts[FAILED], skipped=counts[SKIPPED], refresh=False)
            bar.update()
    done, earlier = len(share) - len(others), len(share) - len(left)
    return _result(done, others, earlier=earlier), others


@contextlib.contextmanager
def _outcomes(
    job: AnyJob, left: Sequence[ImageEntry], options: RunOptions
) -> Iterator[Iterator[Record]]:
    """Records of the images ``left`` as they end, done by actors, or here and by workers."""
    with contextlib.ExitStack() as stack:
        crew = options.crew if left else None
        if left and crew is None and options.actors is not None:
            crew = stack.enter_context(Crew(options.actors()))
        job.prepare(left, options.workers, options.progress, crew)
        if crew is not None:
            records = crew.do(job, left)
        else:
            if left:
                job.open_models()
            executor = build_executor(min(options.workers, len(left)), job.pixels)
            records = executor(job, tasks_of(job, left))
        yield stack.enter_context(contextlib.closing(records))


def _check_kept(
    store: JobStore, share: Sequence[ImageEntry], others: Records, known: Known
) -> None:
    """Raise an OutputError if the folder tells otherwise of ``share`` than this run has seen.

    Args:
        others: records of the images that are not done.
        known: what the journals tell by now.
    """

    def is_kept(entry: ImageEntry) -> bool:
        record, other = known(entry.stem), others.get(entry.stem)
        if record is None or record.status != (other.status if other else DONE):
            return False
        return record.status != DONE or store.is_finished(record, entry)

    lost = [entry.file_name for entry in share if not is_kept(entry)]
    if lost:
        raise OutputError(
            f"{len(lost)} of {len(share)} images came out otherwise than {store.address} tells "
            f"(the first is {lost[0]}): something else changes its files. End that, and run "
            "the same command again"
        )
