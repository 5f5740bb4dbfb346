"""``--shard next/N``: processes take parts of a job as they come to them.

A part is claimed by its lock, which the operating system frees when its holder dies, so that what
slow or lost machines leave is done by others. A claim is given up once the next one is held: in
between nobody takes the folder for a whole job or a merge.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trace_d2.jobs.crew import Crew
from trace_d2.jobs.engine import JobResult, Known, RunOptions, begin, do_share, make_room
from trace_d2.jobs.job import AnyJob
from trace_d2.jobs.journal import DONE, ImageEntry, Record
from trace_d2.jobs.locks import Shard, ShardInUseError, folder_lock


@dataclass(frozen=True)
class Claimed:
    """What came of claiming.

    Attributes:
        result: how the images of the parts stand that this process did.
        done: those parts.
        taken: the parts that others do still.
    """

    result: JobResult
    done: tuple[Shard, ...]
    taken: tuple[Shard, ...]


def run_free_shards(job: AnyJob, options: RunOptions) -> Claimed:
    """Do every part that is not finished and that nobody does, from ``options.shard`` on.

    An image that failed, and whose inputs are the same since, does not keep a part from being
    finished: else each process would try it once more.

    Raises:
        as ``run_job`` does.
    """
    job.store.check_place()
    make_room(job, options)
    first, count = options.shard.index, options.shard.count
    waiting = [Shard((first - 1 + turn) % count + 1, count) for turn in range(count)]
    results: dict[Shard, JobResult] = {}
    claims = _Claims(job, options)
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(contextlib.ExitStack())
        while waiting:
            taken = []
            for shard in waiting:
                if not claims.is_left(shard):
                    continue
                lock = contextlib.ExitStack()
                try:
                    lock.enter_context(folder_lock(job.store.root, shard))
                except ShardInUseError:
                    taken.append(shard)
                    continue
                held.close()
                held.push(lock)
                if not claims.is_left(shard):  # it was finished before we held it
                    continue
                if not results:
                    begin(job, options)
                    if options.actors is not None:  # their models are loaded once
                        crew = stack.enter_context(Crew(options.actors()))
                        options = replace(options, crew=crew)
                results[shard] = claims.do(replace(options, shard=shard))
            if len(taken) == len(waiting):  # they are in good hands
                break
            waiting = taken
    return Claimed(_sum(list(results.values())), tuple(results), tuple(waiting))


class _Claims:
    """What is left of a job, by the journals of all.

    They are read once, at the beginning: of a shard its own journal alone tells more later. With
    a million images, reading all takes as long as doing some hundred.
    """

    def __init__(self, job: AnyJob, options: RunOptions) -> None:
        self.job = job
        self.options = options
        self.since = time.time()
        self.records = job.store.read_records()

    def is_left(self, shard: Shard) -> bool:
        """Whether an image of ``shard`` was not tried yet, or has other inputs since."""
        share: list[ImageEntry] = replace(self.options, shard=shard).share(self.job.entries)
        known = self._known(shard)
        return not all(self._is_tried(known(entry.stem), entry) for entry in share)

    def do(self, options: RunOptions) -> JobResult:
        """Do what is left of the shard of ``options``."""
        if not options.shard.name:  # the whole job
            return do_share(self.job, options)
        return do_share(self.job, options, lambda: self._known(options.shard))

    def _known(self, shard: Shard) -> Known:
        newer = self.job.store.read_shard_records(shard.name)

        def known(stem: str) -> Record | None:
            early, late = self.records.get(stem), newer.get(stem)
            if early is None or late is None:
                return late or early
            return late if late.finished >= early.finished else early

        return known

    def _is_tried(self, record: Record | None, entry: ImageEntry) -> bool:
        if record is None:
            return False
        if record.finished >= self.since:  # by another process of this very command
            return True
        if record.status == DONE:
            return self.job.is_current(record, entry)
        return record.inputs == self.job.fingerprint(entry)


def _sum(results: Sequence[JobResult]) -> JobResult:
    return JobResult(
        sum(result.done for result in results),
        sum(result.skipped for result in results),
        tuple(record for result in results for record in result.failed),
        sum(result.earlier for result in results),
    )
