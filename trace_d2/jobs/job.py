"""What a kind of job answers, and how one image goes from its files to those of its result.

A kind is a subclass of ``Job`` in one file of ``trace_d2.jobs.kinds``; the engine runs it.
"""

from __future__ import annotations

import argparse
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from trace_d2.devices import is_device_failure
from trace_d2.io.atomic import write_json
from trace_d2.io.remote import StoreError
from trace_d2.jobs.executors import DeviceFailedError
from trace_d2.jobs.journal import DONE, FAILED, SKIPPED, ImageEntry, Record
from trace_d2.jobs.layout import PREVIEWS, Layout
from trace_d2.jobs.object_store import job_store
from trace_d2.jobs.outcome import Outcome
from trace_d2.jobs.output import OutputError, is_of_one_name, writing_to
from trace_d2.jobs.pictures import Pictures, encode
from trace_d2.jobs.report import Report
from trace_d2.jobs.store import JobStore


class Noted(Protocol):
    """What the inputs of every kind of job have.

    Attributes:
        notes: remarks for the journal.
    """

    @property
    def notes(self) -> tuple[str, ...]: ...


EntryT = TypeVar("EntryT", bound=ImageEntry)
InputsT = TypeVar("InputsT", bound=Noted)
ResultT = TypeVar("ResultT")


class Lookers(Protocol):
    """Models in other processes."""

    def look(self, job: Any, entries: Sequence[ImageEntry]) -> Iterator[ImageEntry]:
        """Let them look at ``entries`` and ``Job.keep_seen``; yields those that ended."""


class UsageError(ValueError):
    """The command asks for something that cannot be."""


@dataclass(frozen=True)
class Read(Generic[EntryT, InputsT]):
    """What was read of an image for a model to look at.

    Attributes:
        inputs: all but what the model sees.
        ready: what was made of them ahead, for ``Job.look``.
    """

    entry: EntryT
    inputs: InputsT
    ready: Any = None


@dataclass(frozen=True)
class Looked(Generic[InputsT]):
    """Inputs that were read ahead, so that a model could look at the image.

    Attributes:
        inputs: the inputs, with what the model saw.
        facts: numbers of it for the journal.
        seconds: what waiting for them and looking took, of a batch the image's share.
    """

    inputs: InputsT
    facts: Mapping[str, Any]
    seconds: float


class Job(ABC, Generic[EntryT, InputsT, ResultT]):
    """Makes results of images one by one, and the files that join them.

    Workers get a copy of the job, without the attributes named in ``stays``.

    Args:
        output: what its files are written to.
        settings: what decides the results: a flat dict of what JSON can hold.
        entries: all images, in sorted order of stems.
        optional: patterns of ``layout.optional`` that this run is to write.
    """

    layout: ClassVar[Layout]
    done: ClassVar[str]  # what an image with a result is, as "labelled"
    files: ClassVar[str]  # where the results of a whole job are, with {} for the output
    needs: ClassVar[tuple[str, ...]] = ("images", "output")  # options of the command line
    looks: bool = False  # whether a model looks at each image, in the main process or in actors
    devices: Mapping[str, str] = MappingProxyType({})  # of that model, by the key that names it
    stays: ClassVar[tuple[str, ...]] = ("entries",)
    travels: ClassVar[tuple[str, ...]] = ()  # of ``stays``, what actors get, whose model looks

    def __init__(
        self,
        output: str | Path,
        settings: dict[str, Any],
        entries: Sequence[EntryT],
        optional: Sequence[str] = (),
    ) -> None:
        self.store = job_store(output, self.layout)
        self.settings = settings
        self.entries = entries
        self.optional = optional

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Job[Any, Any, Any]:
        """The job of a command line. Raises ValueError or OSError where it cannot be."""
        raise NotImplementedError

    def pixels(self, entry: EntryT) -> int:
        """How many the image of ``entry`` says it has, else 0: few large ones are done at once."""
        return 0

    @abstractmethod
    def fingerprint(self, entry: EntryT) -> str:
        """A text that changes when an input of ``entry`` does, see ``fingerprint.files_print``."""

    def skip(self, entry: EntryT) -> str:
        """Why there is nothing to make a result from; empty if there is."""
        return ""

    def prepare(
        self, left: Sequence[EntryT], workers: int, progress: bool, lookers: Lookers | None = None
    ) -> None:
        """Called once the folder is ours, before the first of the images that are ``left``.

        ``lookers`` take the place of a model in this process.
        """

    def open_detector(self) -> None:
        """Build what looks first of all, which else is built at the first look.

        Raises:
            UsageError: there is no such model.
        """

    def open_models(self) -> None:
        """Build what is to look besides the first of all; called after ``prepare``, where it is.

        Raises:
            UsageError: there is no such model.
        """

    def keep_seen(self, entry: EntryT, looked: Looked[InputsT]) -> None:
        """Keep on the disk what a model saw in an image, for ``prepare`` in another process."""

    @abstractmethod
    def load(self, entry: EntryT) -> InputsT:
        """All inputs of ``entry`` but what a model sees.

        Raises:
            OSError, ValueError: a file is missing, damaged or does not fit.
        """

    def check_entries(self, entries: Sequence[EntryT]) -> str:
        """What is to be known of ``entries`` before anything is loaded; empty for nothing.

        Raises:
            ValueError: none of them can have a result.
        """
        return ""

    def probe(self, entry: EntryT) -> None:
        """Raise what would be wrong with ``entry``, before any model is there."""
        self.load(entry)

    def read(self, entry: EntryT) -> Read[EntryT, InputsT]:
        """``load``, and what can be made ready for ``look``; other threads do it ahead."""
        return Read(entry, self.load(entry))

    @property
    def together(self) -> int:
        """Images that are best looked at together, as far as is known by now."""
        return 1

    def look(
        self, images: Sequence[Read[EntryT, InputsT]]
    ) -> Sequence[tuple[InputsT, Mapping[str, Any]] | Exception]:
        """The inputs with what the model sees in them, and facts of it for the journal.

        What fails in one image stands in its place.

        Raises:
            UsageError: there is no such model.
        """
        raise NotImplementedError

    @abstractmethod
    def make(self, entry: EntryT, inputs: InputsT) -> ResultT:
        """The result of ``entry``. Raises ValueError if the inputs are not fit for one."""

    @abstractmethod
    def write(self, entry: EntryT, inputs: InputsT, result: ResultT) -> Mapping[str, Any]:
        """Write the files of the result; returns the note of it that ``join`` reads."""

    def pictures(self, inputs: InputsT, result: ResultT) -> Pictures:
        """What the report page shows of an image that is ``pictured``."""
        raise NotImplementedError

    def facts(self, inputs: InputsT, result: ResultT) -> Mapping[str, Any]:
        """Numbers of the result for the journal."""
        return {}

    def notes(self, inputs: InputsT, result: ResultT) -> tuple[str, ...]:
        """Remarks for the journal."""
        return inputs.notes

    @classmethod
    def join(cls, outcome: Outcome) -> None:
        """Write the files that hold the results of all images that are done."""

    @classmethod
    @abstractmethod
    def report(cls, outcome: Outcome) -> Report:
        """What the report page shows."""

    @classmethod
    def tell(cls, store: JobStore) -> None:
        """Print what users should know, before the line that names the files."""

    @classmethod
    def tell_last(cls, store: JobStore) -> None:
        """Print what users should know, at the end."""

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a worker."""
        return {key: value for key, value in vars(self).items() if key not in self.stays}

    def is_current(self, record: Record | None, entry: EntryT) -> bool:
        """Whether ``entry`` has a finished result of the inputs now."""
        return (
            record is not None
            and self.store.is_finished(record, entry, self.optional)
            and record.inputs == self.fingerprint(entry)
        )

    def look_ahead(
        self, images: Sequence[tuple[EntryT, Callable[[], Read[EntryT, InputsT]]]]
    ) -> list[Looked[InputsT] | Record]:
        """Let the model look at images, each with what gives its ``read``; records of failures.

        Raises:
            UsageError: there is no such model.
            DeviceFailedError: its GPU fails, which is no fault of the images.
        """
        if not images:
            return []
        start = time.perf_counter()
        failed: dict[int, Exception] = {}
        readable: list[Read[EntryT, InputsT]] = []
        for rank, (_, read) in enumerate(images):
            try:
                readable.append(read())
            except (UsageError, StoreError, OutputError):  # no fault of the image
                raise
            except Exception as error:  # recorded with its cause; the other images go on
                failed[rank] = error
        seen = iter(self.look(readable) if readable else ())
        outcomes = [failed[rank] if rank in failed else next(seen) for rank in range(len(images))]
        _check_device([entry for entry, _ in images], outcomes)
        seconds = (time.perf_counter() - start) / len(images)
        return [
            self._failure(entry, outcome, time.perf_counter() - seconds)
            if isinstance(outcome, Exception)
            else Looked(*outcome, seconds)
            for (entry, _), outcome in zip(images, outcomes, strict=True)
        ]

    def given_up(self, entry: EntryT, deaths: int) -> Record:
        """The record of an image with which so many processes died."""
        return self._record(
            entry,
            FAILED,
            reason=f"{deaths} processes died with it in work, the last with it alone: it may need "
            "more memory than there is",
        )

    def __call__(self, entry: EntryT, ahead: Looked[InputsT] | Record | None = None) -> Record:
        """Make and write the result of ``entry``; what cannot be made becomes a failed record.

        Raises:
            OutputError: the output folder takes no more files, which is no fault of the image.
            StoreError: the store of the inputs does not answer any more, which is none either.
        """
        if isinstance(ahead, Record):
            return ahead
        start = time.perf_counter() - (ahead.seconds if ahead else 0.0)
        reason = self.skip(entry)
        if reason:
            return self._record(entry, SKIPPED, reason=reason)
        try:
            self._check_names(entry)
            inputs = ahead.inputs if ahead else self.load(entry)
            result = self.make(entry, inputs)
        except StoreError:  # no fault of the image
            raise
        except Exception as error:  # recorded with its cause; the other images go on
            return self._failure(entry, error, start)
        with writing_to(self.store.root):
            try:
                self._write(entry, inputs, result)
                self.store.deliver(entry.stem)
            except OSError as error:
                if not is_of_one_name(error):
                    raise
                return self._failure(entry, _unnameable(entry, error), start)
        return self._record(
            entry,
            DONE,
            start,
            notes=self.notes(inputs, result),
            facts={**(ahead.facts if ahead else {}), **self.facts(inputs, result)},
        )

    def _check_names(self, entry: EntryT) -> None:
        """Raise a ValueError if files cannot be named after ``entry``, before any work."""
        for pattern in self.layout.patterns:
            try:
                self.store.check_name(pattern.format(self.store.placed(entry.stem)))
            except OSError as error:
                if is_of_one_name(error):
                    raise _unnameable(entry, error) from error

    def _write(self, entry: EntryT, inputs: InputsT, result: ResultT) -> None:
        if entry.pictured:
            path = self.store.place(PREVIEWS, entry.stem)
            write_json(path, encode(self.pictures(inputs, result)))
        self.store.write_note(entry.stem, self.write(entry, inputs, result))

    def _failure(self, entry: EntryT, error: Exception, start: float) -> Record:
        reason = str(error)
        if not isinstance(
            error, (ValueError, OSError, FloatingPointError)
        ):  # not foreseen: say where it came from
            reason = "".join(traceback.format_exception(error)).strip()
        return self._record(entry, FAILED, start, reason=reason)

    def _record(
        self, entry: EntryT, status: str, start: float | None = None, **more: Any
    ) -> Record:
        return Record(
            entry.stem,
            entry.file_name,
            status,
            seconds=0.0 if start is None else round(time.perf_counter() - start, 4),
            inputs=self.fingerprint(entry),
            finished=round(time.time(), 3),
            **more,
        )


AnyJob = Job[Any, Any, Any]


def _unnameable(entry: ImageEntry, error: OSError) -> ValueError:
    return ValueError(
        f"no file can be named after {entry.file_name} in the output ({error.strerror}): rename "
        "the image, shorter or without unusual characters"
    )


def _check_device(entries: Sequence[ImageEntry], outcomes: Sequence[Any]) -> None:
    """Raise a DeviceFailedError where ``outcomes`` tell of a device rather than of ``entries``.

    Else a machine with a broken GPU would, faster than all others, record images as failed.
    """
    for outcome in outcomes:
        if isinstance(outcome, Exception) and is_device_failure(outcome):
            names = ", ".join(entry.file_name for entry in entries)
            raise DeviceFailedError(
                f"the GPU fails ({str(outcome).splitlines()[0]}) while these were looked at: "
                f"{names}. Reset it, or use another. Finished images are safe; the same command "
                "continues"
            ) from outcome
